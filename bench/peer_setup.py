"""The environments of the peers: made by uv from pinned requirements, kept until these change.

Owns `peers/<name>/.venv`, which is no part of the repository. The peers' dependencies contradict each other's and ours,
so each has its own. One that cannot be made (no network, no uv, a package withdrawn) is a line of the table with the
reason, and nothing else goes wrong.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from bench.peer import Peer

_PATIENCE_SECONDS = 180.0
_WORDS = 200
"""How much of uv's complaint the table shows."""


class Ready(msgspec.Struct, frozen=True):
    """A peer's environment: its Python, or why there is none."""

    python: Path
    version: str
    reason: str = ""


def prepared(peer: Peer) -> Ready:
    """Return a peer's environment, made now where it is missing or older than its requirements."""
    environment = peer.place / ".venv"
    pins = (peer.place / "requirements.txt").read_text()
    ready = Ready(environment / "bin" / "python", _version_of(peer.place.name, pins))
    made_of = environment / "made-of.txt"
    if made_of.exists() and made_of.read_text() == pins:
        return ready
    try:
        _uv("venv", "--clear", "--python", sys.executable, str(environment))
        install = ("pip", "install", "--compile-bytecode", "--no-deps", "--python", str(ready.python))
        _uv(*install, "--requirement", str(peer.place / "requirements.txt"))
    except (OSError, subprocess.SubprocessError) as error:
        return msgspec.structs.replace(ready, reason=_reason(error))
    made_of.write_text(pins)
    return ready


def _uv(*arguments: str) -> None:
    command = ("uv", "--quiet", *arguments)
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE_SECONDS)  # noqa: S603 - our own words


def _reason(error: Exception) -> str:
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    return " ".join(said.split())[:_WORDS].replace("|", "/")


def _version_of(name: str, pins: str) -> str:
    (version,) = (line.partition("==")[2] for line in pins.splitlines() if line.partition("==")[0] == name)
    return version
