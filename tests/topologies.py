"""Several Redis servers on loopback that make one belt, from the server's binary alone.

Owns one server's process, and the misfortunes that all such groups share; `cluster.py` and `sentinels.py` make them.
Both take a second to notice a death. `TEST_REDIS_SERVER` names another binary than the embedded one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from headrace.belt import PREFIX
from headrace.errors import ConfigurationError
from headrace.stack.ports import free_port
from headrace.stack.redis import binary

DEATH_MILLISECONDS = 1000
"""After so long without an answer a server counts as dead."""

_PATIENCE_SECONDS = 20.0
AWAY = (redis.exceptions.RedisError, OSError)


def server_binary() -> str | None:
    """Return the server's binary; None where there is none on this machine."""
    if given := os.environ.get("TEST_REDIS_SERVER"):
        return given
    try:
        return str(binary())
    except ConfigurationError:
        return shutil.which("valkey-server") or shutil.which("redis-server")


class Server:
    """One process; it can be killed, stopped and started again on what it left."""

    def __init__(self, directory: Path, options: Mapping[str, str], *, sentinel: bool = False) -> None:
        self.port = free_port()
        self.directory = directory / str(self.port)
        self.options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.directory)} | dict(options)
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it until `kill` or the end of the test."""
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / "server.conf"
        if not file.exists():  # sentinels write into it
            file.write_text("".join(f"{name} {value}\n" for name, value in self.options.items()))
        command = [server_binary() or "redis-server", str(file), *(["--sentinel"] if self._sentinel else [])]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - a server's binary
        wait_for(self._answers)

    def kill(self) -> None:
        """End it as the kernel does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *command: str | int) -> Any:  # noqa: ANN401 - each command has its own reply
        """Send a command and return the reply."""
        once = Retry(NoBackoff(), 0)
        with redis.Redis(port=self.port, socket_timeout=2, decode_responses=True, protocol=2, retry=once) as client:
            return client.execute_command(*command)

    @property
    def is_running(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def _answers(self) -> bool:
        return bool(self.ask("PING"))


class Topology(ABC):
    """Servers of which one has the belt."""

    replica_count: int
    """How many replicas the primary has while all are well."""

    def __init__(self, url: str, servers: Sequence[Server]) -> None:
        self.url = url
        self.servers = servers

    @abstractmethod
    def primary(self, key: str = PREFIX) -> Server:
        """Return the server that has a key now, as the others see it."""

    @abstractmethod
    def hand_over(self) -> None:
        """Have a replica take the primary's place while both are alive, as before a planned restart."""

    @abstractmethod
    def rejoin(self, server: Server) -> None:
        """See to it that a server which was started again follows the primary."""

    def replicas(self) -> list[Server]:
        """Return the servers that follow the primary."""
        port = self.primary().port
        running = [server for server in self.servers if server.is_running and server.port != port]
        return [server for server in running if server.ask("INFO", "replication").get("master_port") == port]

    def empty(self) -> None:
        """Remove everything that the belt holds."""
        self.primary().ask("FLUSHALL")

    def mend(self) -> None:
        """Start what was killed, and wait until the primary has its replicas again."""
        for server in self.servers:
            if not server.is_running:
                server.start()
                self.rejoin(server)
        wait_for(self.is_well)

    def is_well(self) -> bool:
        """Tell whether the primary has its replicas."""
        return int(self.primary().ask("INFO", "replication")["connected_slaves"]) >= self.replica_count


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, and fail if it does not in time; servers that do not answer yet are asked again."""
    began_at = time.monotonic()
    while True:
        try:
            if condition():
                return
        except (*AWAY, KeyError):
            pass
        assert time.monotonic() - began_at < _PATIENCE_SECONDS, "the servers are not as they should be"
        time.sleep(0.05)
