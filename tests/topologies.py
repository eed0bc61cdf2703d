"""A Redis Cluster and a Redis with sentinels on loopback, from the server's binary alone.

Owns their making and their misfortunes. The cluster has three primaries and three replicas, the sentinels watch one
primary with two replicas; both take a second to notice a death. `TEST_REDIS_SERVER` names another binary than the
embedded one. Nothing here knows Headrace but for the key in whose place the belt lies.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from headrace.belt import PREFIX
from headrace.errors import ConfigurationError
from headrace.stack.ports import free_port
from headrace.stack.redis import binary

DEATH_MILLISECONDS = 1000
"""After so long without an answer a server counts as dead."""

_SLOTS = 16384
_PATIENCE_SECONDS = 20.0
_AWAY = (redis.exceptions.RedisError, OSError)


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
        self._options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.directory)} | dict(options)
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it until `kill` or the end of the test."""
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / "server.conf"
        if not file.exists():  # sentinels write into it
            file.write_text("".join(f"{name} {value}\n" for name, value in self._options.items()))
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
        with redis.Redis(port=self.port, socket_timeout=2, decode_responses=True, protocol=2) as client:
            return client.execute_command(*command)

    def _answers(self) -> bool:
        return bool(self.ask("PING"))


class Topology:
    """Servers of which one has the belt."""

    def __init__(
        self, url: str, servers: list[Server], *, replicas: int, rejoins: bool, primary: Callable[[str], Server]
    ) -> None:
        self.url = url
        self._rejoins = rejoins
        self._replicas = replicas
        self.servers = servers
        self._primary = primary

    def primary(self, key: str = PREFIX) -> Server:
        """Return the server that has a key now, as the others see it."""
        return self._primary(key)

    def replicas(self) -> list[Server]:
        """Return the servers that follow the primary."""
        port = self.primary().port
        running = [server for server in self.servers if server._process is not None and server.port != port]
        return [server for server in running if server.ask("INFO", "replication").get("master_port") == port]

    def empty(self) -> None:
        """Remove everything that the belt holds."""
        self.primary().ask("FLUSHALL")

    def mend(self) -> None:
        """Start what was killed, and wait until the primary has its replica again."""
        for server in self.servers:
            if server._process is None:
                server.start()
                if self._rejoins:
                    server.ask("REPLICAOF", "127.0.0.1", self.primary().port)  # a sentinel would say so after 10 s
        wait_for(lambda: int(self.primary().ask("INFO", "replication")["connected_slaves"]) >= self._replicas)


@contextmanager
def moving_slot(topology: Topology, key: str = PREFIX) -> Iterator[None]:
    """Move the slot of a key to another primary of a cluster; during the block half of its keys are moved."""
    slot = key_slot(key.encode())
    source = topology.primary(key)
    primaries = [one for one in topology.servers if one._process is not None and one.ask("ROLE")[0] == "master"]
    target = next(one for one in primaries if one is not source)
    identity = {one: str(one.ask("CLUSTER", "MYID")) for one in (source, target)}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", identity[source])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", identity[target])
    names = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    _migrate(source, target, names[: len(names) // 2])
    yield
    while names := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
        _migrate(source, target, names)
    for one in (target, source, *(one for one in primaries if one not in {source, target})):
        one.ask("CLUSTER", "SETSLOT", slot, "NODE", identity[target])


def _migrate(source: Server, target: Server, names: list[str]) -> None:
    if names:
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *names)


@contextmanager
def running_cluster(directory: Path) -> Iterator[Topology]:
    """Run three primaries, each with a replica."""
    options = {
        "cluster-enabled": "yes",
        "cluster-node-timeout": str(DEATH_MILLISECONDS),
        "cluster-replica-validity-factor": "0",
        "appendonly": "yes",
        "save": '""',
        "repl-diskless-sync-delay": "0",
    }
    with ExitStack() as stack:
        nodes = [Server(directory, options | {"cluster-port": str(free_port())}) for _ in range(6)]
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        _join(nodes)
        by_port = {node.port: node for node in nodes}
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        yield Topology(
            url, nodes, replicas=1, rejoins=False, primary=lambda key: by_port[_owner(nodes, key_slot(key.encode()))]
        )


def _join(nodes: list[Server]) -> None:
    """Make one cluster of the nodes, and wait until all of them know it."""
    share = _SLOTS // 3
    for number, node in enumerate(nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < 3:
            last = _SLOTS - 1 if number == 2 else share * (number + 1) - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", share * number, last)
        if number:
            bus = node._options["cluster-port"]
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
    wait_for(lambda: all(node.ask("CLUSTER", "NODES").count("\n") == len(nodes) for node in nodes))
    for number in range(3):
        identity = str(nodes[number].ask("CLUSTER", "MYID"))
        nodes[number + 3].ask("CLUSTER", "REPLICATE", identity)
    wait_for(lambda: all(map(_is_whole, nodes)))
    wait_for(lambda: all(node.ask("INFO", "replication")["master_link_status"] == "up" for node in nodes[3:]))


def _is_whole(node: Server) -> bool:
    return "cluster_state:ok" in node.ask("CLUSTER", "INFO")


def _owner(nodes: list[Server], slot: int) -> int:
    for node in nodes:
        try:
            if not _is_whole(node):
                continue
            slots = node.ask("CLUSTER", "SLOTS")
        except _AWAY:
            continue
        found = [places[0][1] for first, last, *places in slots if first <= slot <= last]
        if found:
            return int(found[0])
    message = "nobody knows the owner"
    raise redis.exceptions.ConnectionError(message)


@contextmanager
def running_sentinels(directory: Path) -> Iterator[Topology]:
    """Run a primary with two replicas, and three sentinels that watch it."""
    options = {"appendonly": "yes", "save": '""', "repl-diskless-sync-delay": "0"}
    with ExitStack() as stack:
        primary = Server(directory, options)
        replicas = [Server(directory, options | {"replicaof": f"127.0.0.1 {primary.port}"}) for _ in range(2)]
        servers = [primary, *replicas]
        for server in servers:
            stack.callback(server.kill)
            server.start()
        watched = {
            "sentinel monitor": f"belt 127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds": f"belt {DEATH_MILLISECONDS}",
            "sentinel failover-timeout": "belt 3000",
        }
        sentinels = [Server(directory, watched, sentinel=True) for _ in range(3)]
        for sentinel in sentinels:
            stack.callback(sentinel.kill)
            sentinel.start()
        wait_for(lambda: all(_knows(sentinel) for sentinel in sentinels))
        by_port = {server.port: server for server in servers}
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in sentinels) + "/belt?db=0"
        yield Topology(url, servers, replicas=2, rejoins=True, primary=lambda _: by_port[_named(sentinels, by_port)])


def _knows(sentinel: Server) -> bool:
    seen = sentinel.ask("SENTINEL", "MASTER", "belt")
    facts = seen if isinstance(seen, dict) else dict(zip(seen[::2], seen[1::2], strict=True))
    return int(facts["num-slaves"]) == 2 and int(facts["num-other-sentinels"]) == 2


def _named(sentinels: list[Server], servers: Mapping[int, Server]) -> int:
    port = int(sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "belt")[1])
    if servers[port].ask("ROLE")[0] != "master":
        message = "the one that is named is no primary yet"
        raise redis.exceptions.ConnectionError(message)
    return port


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, and fail if it does not in time; servers that do not answer yet are asked again."""
    began_at = time.monotonic()
    while True:
        try:
            if condition():
                return
        except (*_AWAY, KeyError):
            pass
        assert time.monotonic() - began_at < _PATIENCE_SECONDS, "the servers are not as they should be"
        time.sleep(0.05)
