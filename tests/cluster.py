"""A Redis Cluster of six servers on loopback: three primaries, each with a replica.

Owns its making, and what can happen to a cluster alone: a slot that moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import redis
from redis.crc import key_slot

from headrace.belt import PREFIX
from headrace.stack.ports import free_port
from tests.topologies import AWAY, DEATH_MILLISECONDS, Server, Topology, wait_for

_SLOTS: Final = 16384
_OPTIONS: Final = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": str(DEATH_MILLISECONDS),
    "cluster-replica-validity-factor": "0",
    "appendonly": "yes",
    "save": '""',
    "repl-diskless-sync-delay": "0",
}


class Cluster(Topology):
    """The cluster."""

    replica_count = 1

    def primary(self, key: str = PREFIX) -> Server:
        """Return the owner of a key's slot, as a node says that sees the cluster whole."""
        slot = key_slot(key.encode())
        for node in self.servers:
            try:
                slots = node.ask("CLUSTER", "SLOTS") if _is_whole(node) else []
            except AWAY:
                continue
            for first, last, *places in slots:
                if first <= slot <= last:
                    return next(one for one in self.servers if one.port == int(places[0][1]))
        message = "nobody knows the owner"
        raise redis.exceptions.ConnectionError(message)

    def is_well(self) -> bool:
        """Tell whether every node sees the cluster whole, and every primary has its replica."""
        facts = [node.ask("INFO", "replication") for node in self.servers]
        followed = [fact for fact in facts if int(fact.get("connected_slaves", 0)) > 0]
        linked = [fact for fact in facts if fact.get("master_link_status") == "up"]
        return len(followed) == len(linked) == len(facts) / 2 and all(map(_is_whole, self.servers))

    def hand_over(self) -> None:
        """Have the replica ask for the place of its primary."""
        before = self.primary()
        self.replicas()[0].ask("CLUSTER", "FAILOVER")
        wait_for(lambda: self.primary() is not before)

    def rejoin(self, server: Server) -> None:
        """Do nothing: a node knows its cluster."""


@contextmanager
def running_cluster(directory: Path) -> Iterator[Cluster]:
    """Run the cluster."""
    with ExitStack() as stack:
        nodes = [Server(directory, _OPTIONS | {"cluster-port": str(free_port())}) for _ in range(6)]
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        _join(nodes)
        yield Cluster("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes), nodes)


@contextmanager
def moving_slot(cluster: Cluster, key: str = PREFIX) -> Iterator[None]:
    """Move the slot of a key to another primary of a cluster; during the block half of its keys are moved."""
    slot = key_slot(key.encode())
    source = cluster.primary(key)
    primaries = [one for one in cluster.servers if one.is_running and one.ask("ROLE")[0] == "master"]
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


def _join(nodes: Sequence[Server]) -> None:
    """Make one cluster of the nodes, and wait until all of them know it."""
    share = _SLOTS // 3
    for number, node in enumerate(nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < 3:
            last = _SLOTS - 1 if number == 2 else share * (number + 1) - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", share * number, last)
        if number:
            bus = node.options["cluster-port"]
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
    wait_for(lambda: all(node.ask("CLUSTER", "NODES").count("\n") == len(nodes) for node in nodes))
    for number in range(3):
        identity = str(nodes[number].ask("CLUSTER", "MYID"))
        nodes[number + 3].ask("CLUSTER", "REPLICATE", identity)
    wait_for(lambda: all(map(_is_whole, nodes)))
    wait_for(lambda: all(node.ask("INFO", "replication")["master_link_status"] == "up" for node in nodes[3:]))


def _is_whole(node: Server) -> bool:
    return "cluster_state:ok" in node.ask("CLUSTER", "INFO")
