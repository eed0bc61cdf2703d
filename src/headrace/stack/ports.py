"""Where the servers of a stack listen.

Owns the choice of ports on the loopback interface and their memory in `ports.json`, so that URLs stay the same over
restarts as long as nobody else took the port. Ports come from below the range that the kernel gives to outgoing
connections (32768 and up on Linux), which could otherwise take a port while its server restarts. Never bind anything
but 127.0.0.1.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

import msgspec

from headrace.errors import ConfigurationError
from headrace.stack.files import replace_file

LOOPBACK = "127.0.0.1"
_FIRST, _LAST = 20_000, 32_000
_TRIES = 200


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(taken: frozenset[int] = frozenset()) -> int:
    """Return a port on which nothing listens and that is not among `taken`."""
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)  # noqa: S311 - spreads stacks over the range, keeps no secret
        if port not in taken and is_free(port):
            return port
    message = f"no free port between {_FIRST} and {_LAST} on {LOOPBACK}"
    raise ConfigurationError(message)


def keep_ports(path: Path, names: tuple[str, ...]) -> dict[str, int]:
    """Return a port for each name: the one remembered in `path` where it is free, else a new one, remembered."""
    kept = msgspec.json.decode(path.read_bytes(), type=dict[str, int]) if path.exists() else {}
    ports: dict[str, int] = {}
    for name in names:
        port = kept.get(name, 0)
        ports[name] = port if port and is_free(port) else free_port(frozenset(ports.values()))
    replace_file(path, msgspec.json.encode(ports))
    return ports
