"""The worker's end of the belt: read released jobs, claim them, acknowledge what is settled.

Owns the reading of queue streams. It reads no more than can start now, claims what it read in one statement, and
hands on the won claims. The belt may be emptied, restarted or replaced under it: groups are made again, and what was
lost is released again by the dispatcher. Reads run on a connection of their own and are not cancelled at a shutdown: a
cancelled read strands its entries for as long as the dispatcher takes to notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog
from redis.exceptions import RedisError, ResponseError

from headrace.database.away import DRIVER_ERRORS
from headrace.database.driver import ONE_BY_ONE
from headrace.jobs.belt import GROUP, released_by, stream_of
from headrace.jobs.claim import claim, return_queued
from headrace.jobs.model import Claim, Key
from headrace.loops import Stop
from headrace.streams.connection import command, open_commands, open_reader
from headrace.streams.ensure import ensure_group

logger = structlog.get_logger(__name__)

_BLOCK_MILLISECONDS = 500
_MAX_READ = 100
_SOME = 0.25
"""The share of slots that is worth a claim of its own while more waits on the belt than can start."""
_MOMENT_SECONDS = 0.003
_MAX_SETTLED = 10_000
_REST_SECONDS = 0.2
_PATIENCE_SECONDS = 5.0
"""How much longer than it should an answer may take: a store whose machine is gone says nothing for ever."""
_REDIS_FAULT = (RedisError, OSError)
"""Not only lost connections: a replica that refuses writes, full memory and loading data pass by as well."""


class Delivery(msgspec.Struct, frozen=True):
    """A won claim and where its entry lies."""

    claim: Claim
    stream: bytes
    entry_id: bytes


class Belt:
    """Reads and claims for one worker; `next` gives what it may run."""

    def __init__(self, redis_url: str, database_url: str, *, worker_id: UUID, slots: int) -> None:
        self._reader = open_reader(redis_url)
        self._writer = open_commands(redis_url, connections=2)
        self._database_url = database_url
        self._worker_id = worker_id
        self._consumer = str(worker_id)
        self._slots = slots
        self._free = slots
        self._busy_streams = 0
        self._more_waits = False
        self._freed = asyncio.Event()
        self._won: asyncio.Queue[list[Delivery]] = asyncio.Queue()
        self._held: set[Key] = set()
        self._unclaimed: list[tuple[bytes, bytes, Claim]] = []
        self._settled: list[tuple[bytes, bytes]] = []
        self._to_acknowledge = asyncio.Event()
        self._closing = False
        self._queues: list[str] = []
        self._grouped: set[str] = set()
        self._stop = Stop()

    def serve(self, queues: Iterable[str]) -> None:
        """Read these queues from the next read on."""
        self._queues = sorted(queues)

    async def next(self) -> list[Delivery]:
        """Wait for the next jobs that this worker has won, those of one claim together."""
        return await self._won.get()

    def holds(self, attempt: Key) -> bool:
        """Tell whether an attempt was won here and is not settled yet."""
        return attempt in self._held

    def done(self, delivery: Delivery) -> None:
        """Say that a delivery is settled: its slot is free, its entry goes away with the next acknowledgement."""
        self._held.discard(delivery.claim.key)
        self._acknowledge_later(delivery.stream, delivery.entry_id)
        self._free += 1
        self._freed.set()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stop.set()
        self._freed.set()

    def finish(self) -> None:
        """Acknowledge nothing more, but for what `close` sends at last."""
        self._closing = True
        self._to_acknowledge.set()

    def unstarted(self) -> list[Claim]:
        """Take away the claims that were won and not fetched with `next`."""
        batches = [self._won.get_nowait() for _ in range(self._won.qsize())]
        return [delivery.claim for batch in batches for delivery in batch]

    async def read(self) -> None:
        """Read and claim until stopped, whatever happens to the stores; then give back what was not claimed."""
        while not self._stop.is_set():
            try:
                async with _connected(self._database_url) as connection:
                    await self._read_and_claim(connection)
            except (*_REDIS_FAULT, *DRIVER_ERRORS) as error:
                logger.warning("belt_waits", error=repr(error))
                self._grouped.clear()
                await self._stop.wait(_REST_SECONDS)

    async def acknowledge(self) -> None:
        """Acknowledge settled entries, many in one round trip, until cancelled."""
        while not self._closing:  # redis-py may swallow the cancellation
            await self._to_acknowledge.wait()
            self._to_acknowledge.clear()
            settled, self._settled = self._settled, []
            try:
                await self._remove(settled)
            except _REDIS_FAULT as error:
                logger.debug("acknowledgement_waits", error=repr(error))
                self._settled = (settled + self._settled)[-_MAX_SETTLED:]
                self._to_acknowledge.set()
                await asyncio.sleep(_REST_SECONDS)

    async def close(self) -> None:
        """Send the last acknowledgements and close the connections."""
        self.finish()
        try:
            if self._settled:
                await self._remove(self._settled)
        except _REDIS_FAULT as error:
            logger.debug("acknowledgement_dropped", error=repr(error))  # the dispatcher's upkeep takes them away
        await self._reader.aclose()
        await self._writer.aclose()

    async def _read_and_claim(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while not self._stop.is_set():
            if self._free <= 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            if self._more_waits and self._free < self._slots * _SOME:
                self._more_waits = False
                await self._stop.wait(_MOMENT_SECONDS)  # one claim of many costs little more than a claim of one
                continue
            if not self._unclaimed:
                self._unclaimed = await self._fetch(min(self._free, _MAX_READ))
            if self._unclaimed and not self._stop.is_set():
                await self._claim(connection)
            if len(self._unclaimed) > len(self._queues):
                await self._give_back(connection)
        if self._unclaimed:
            await self._give_back(connection)

    async def _give_back(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Let go of what was read and cannot start soon: another worker may have a free slot."""
        surplus, self._unclaimed = self._unclaimed, []
        await return_queued(connection, [released for _, _, released in surplus])
        for stream, entry_id, _ in surplus:
            self._acknowledge_later(stream, entry_id)

    async def _claim(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        taken = self._unclaimed[: self._free]
        won = {one.job_id: one for one in await claim(connection, [entry[2] for entry in taken], self._worker_id)}
        self._unclaimed = self._unclaimed[len(taken) :]
        deliveries: list[Delivery] = []
        for stream, entry_id, released in taken:
            if won.pop(released.job_id, None) is None:
                self._acknowledge_later(stream, entry_id)
                continue
            self._free -= 1
            self._held.add(released.key)
            deliveries.append(Delivery(released, stream, entry_id))
        if deliveries:
            self._won.put_nowait(deliveries)

    async def _fetch(self, count: int) -> list[tuple[bytes, bytes, Claim]]:
        if not self._queues:
            await self._stop.wait(_REST_SECONDS)
            return []
        await self._ensure_groups()
        keys = [stream_of(queue) for queue in self._queues]
        each = max(1, count // (self._busy_streams or len(keys)))
        try:
            async with asyncio.timeout(_BLOCK_MILLISECONDS / 1000 + _PATIENCE_SECONDS):
                reply: Any = await command(
                    self._reader, "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", each,
                    "BLOCK", _BLOCK_MILLISECONDS, "STREAMS", *keys, *(">" for _ in keys),
                )  # fmt: skip
        except ResponseError as error:
            logger.info("queues_made_anew", error=str(error))  # NOGROUP, UNBLOCKED, WRONGTYPE: the belt was replaced
            self._grouped.clear()
            await self._stop.wait(_REST_SECONDS / 10)
            return []
        self._busy_streams = len(reply or ())
        self._more_waits = any(len(entries) == each for _, entries in reply or ())
        read = [(key, entry_id, fields) for key, entries in reply or () for entry_id, fields in entries]
        return [entry for entry in map(self._decoded, read) if entry is not None]

    def _decoded(self, read: tuple[bytes, bytes, Sequence[bytes] | None]) -> tuple[bytes, bytes, Claim] | None:
        stream, entry_id, fields = read
        try:
            return stream, entry_id, released_by((fields or ())[1])
        except (IndexError, msgspec.DecodeError) as error:
            # Somebody else's entry, or another version's: the job, if it is one, is released again from the record.
            logger.warning("entry_not_readable", stream=stream.decode(), entry=entry_id.decode(), error=str(error))
            self._acknowledge_later(stream, entry_id)
            return None

    async def _ensure_groups(self) -> None:
        for queue in self._queues:
            if queue not in self._grouped:
                await ensure_group(self._writer, stream_of(queue), GROUP)
                self._grouped.add(queue)

    def _acknowledge_later(self, stream: bytes, entry_id: bytes) -> None:
        self._settled.append((stream, entry_id))
        self._to_acknowledge.set()

    async def _remove(self, entries: list[tuple[bytes, bytes]]) -> None:
        by_stream: dict[bytes, list[bytes]] = {}
        for stream, entry_id in entries:
            by_stream.setdefault(stream, []).append(entry_id)
        async with self._writer.pipeline(transaction=False) as pipeline:
            for stream, ids in by_stream.items():
                pipeline.xack(stream, GROUP, *ids)
                pipeline.xdel(stream, *ids)
            await pipeline.execute(raise_on_error=False)


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(
        database_url, timeout=_PATIENCE_SECONDS, command_timeout=_PATIENCE_SECONDS, server_settings=ONE_BY_ONE
    )
    try:
        yield connection
    finally:
        connection.terminate()
