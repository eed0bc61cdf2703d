"""The one Redis that takes writes, found anew with each connection.

Owns the question where it is: sentinels know its name, the nodes of a cluster know who has the belt's slot. Because all
keys of the belt lie in one slot, both are the same to everything above: an ordinary client, whose connections lead to
wherever the primary is when they are made. A connection whose server says that it is not the one any more (it was made
a replica, the slot moved or is moving, it has too few replicas) is closed and counts as broken: Redis is away for a
moment, and the next command finds the new primary. Never send a command on to another node: whoever sent it decides
whether it may be sent twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from redis.asyncio.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ReadOnlyError, RedisError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from headrace.streams.address import Address, Node, Topology

ASK_SECONDS: Final = 1.0
"""How long one node may take to say where the primary is."""

_ELSEWHERE: Final = (AskError, ReadOnlyError, ClusterDownError, TryAgainError)
"""MOVED is an ASK, MASTERDOWN a CLUSTERDOWN."""


class Finder(Protocol):
    """Knows where the primary is."""

    must_prove: bool
    """Whether the one that was named has to say itself that it is the primary."""

    async def find(self) -> Node:
        """Return where the primary is now."""
        ...


class PrimaryConnection(Connection):
    """A connection to the primary, wherever it is; without a finder, to one address that may change its meaning."""

    def __init__(self, *, finder: Finder | None = None, **options: Any) -> None:  # noqa: ANN401 - redis-py's own
        super().__init__(**options)
        self._finder = finder

    async def _connect(self) -> None:
        if self._finder is not None:
            self.host, self.port = await self._finder.find()
        await super()._connect()  # type: ignore[no-untyped-call]  # redis-py does not annotate it

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Prepare a new connection, and let go of one to a server that is no primary."""
        await super().on_connect_check_health(check_health)
        if self._finder is not None and self._finder.must_prove:
            await self.send_command("ROLE", check_health=False)
            role = await self.read_response()
            if role[0] != b"master":
                message = f"{self.host}:{self.port} was named as the primary and is not"
                raise RedisConnectionError(message)

    async def read_response(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - redis-py's signature
        """Return a reply; one that sends us elsewhere ends the connection."""
        try:
            return await super().read_response(*arguments, **options)
        except _ELSEWHERE as error:
            await self._leave(error)
        except ResponseError as error:
            if not str(error).startswith("NOREPLICAS"):
                raise
            await self._leave(error)

    async def _leave(self, error: ResponseError) -> None:
        await self.disconnect(nowait=True)
        message = f"{self.host}:{self.port} is not the primary of the belt at present: {error}"
        raise RedisConnectionError(message) from error


class TlsPrimaryConnection(PrimaryConnection, SSLConnection):
    """The same over TLS."""


class Sentinels:
    """Sentinels name the primary; any one of them may be asked."""

    must_prove = True

    def __init__(self, address: Address) -> None:
        self._address = address

    async def find(self) -> Node:
        """Return where the primary is now."""
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
        async for _, answer in _answers(self._address.nodes, self._address.sentinel_options, question):
            if answer:
                return answer[0].decode(), int(answer[1])
        message = f"no sentinel names a primary of {self._address.service}"
        raise RedisConnectionError(message)


class Cluster:
    """The nodes of a cluster name the owner of the slot in which `key` lies; those that are known now are asked."""

    must_prove = False

    def __init__(self, address: Address, key: str) -> None:
        self._address = address
        self._slot = key_slot(key.encode())
        self._nodes = set(address.nodes)
        options = {name: value for name, value in address.options.items() if name not in {"host", "port", "db"}}
        self._options: Mapping[str, Any] = options

    async def find(self) -> Node:
        """Return where the primary is now."""
        async for asked, slots in _answers(sorted(self._nodes), self._options, ("CLUSTER", "SLOTS")):
            owner: Node | None = None
            for first, last, *nodes in slots:
                places = [(host.decode() if host else asked[0], int(port)) for host, port, *_ in nodes]
                self._nodes.update(places)
                if first <= self._slot <= last:
                    owner = places[0]
            if owner is not None:
                return owner
        message = f"no node of the cluster names an owner of slot {self._slot}"
        raise RedisConnectionError(message)


def finder_of(address: Address, key: str) -> Finder | None:
    """Return who finds the primary that has `key`; None where there is nothing to find."""
    match address.topology:
        case Topology.CLUSTER:
            return Cluster(address, key)
        case Topology.SENTINEL:
            return Sentinels(address)
        case Topology.SERVER:
            return None


async def _answers(nodes: Sequence[Node], options: Mapping[str, Any], question: Sequence[str]) -> Any:  # noqa: ANN401 - each question has its own answer
    """Yield who answers and what, in an order that differs each time: one whose view is old must not stay the first."""
    for host, port in random.sample(nodes, len(nodes)):
        try:
            async with asyncio.timeout(ASK_SECONDS):
                answer = await _ask(host, port, options, question)
        except (RedisError, OSError):
            continue
        yield (host, port), answer


async def _ask(host: str, port: int, options: Mapping[str, Any], question: Sequence[str]) -> Any:  # noqa: ANN401 - the same
    chosen = dict(options)
    connection = chosen.pop("connection_class", Connection)(host=host, port=port, **(chosen | {"protocol": 2}))
    try:
        await connection.connect()
        await connection.send_command(*question)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)
