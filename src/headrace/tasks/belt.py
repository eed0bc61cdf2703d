"""The worker's end of the belt: read released jobs, claim them, acknowledge what is settled.

Owns what becomes of the entries of a source. It fetches no more than can start now, claims what it read in one
statement, and hands on the won claims. What carries the entries may be emptied, restarted or replaced under it: what
was lost is released again by the dispatcher. Never run what was not won.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog
from redis.exceptions import RedisError

from headrace.database.away import DRIVER_ERRORS
from headrace.database.driver import ONE_BY_ONE
from headrace.jobs.claim import claim, return_queued
from headrace.jobs.model import Claim, Key
from headrace.loops import Stop
from headrace.tasks.source import Place, Read, Source

logger = structlog.get_logger(__name__)

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

    def __init__(self, source: Source, database_url: str, *, worker_id: UUID, slots: int) -> None:
        """Read from `source`, which is closed with this."""
        self._source = source
        self._database_url = database_url
        self._worker_id = worker_id
        self._slots = slots
        self._free = slots
        self._more_waits = False
        self._freed = asyncio.Event()
        self._won: asyncio.Queue[list[Delivery]] = asyncio.Queue()
        self._held: set[Key] = set()
        self._unclaimed: list[Read] = []
        self._settled: list[Place] = []
        self._to_acknowledge = asyncio.Event()
        self._closing = False
        self._queues: list[str] = []
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
                await self._stop.wait(_REST_SECONDS)

    async def acknowledge(self) -> None:
        """Acknowledge settled entries, many in one round trip, until cancelled."""
        while not self._closing:  # redis-py may swallow the cancellation
            await self._to_acknowledge.wait()
            self._to_acknowledge.clear()
            settled, self._settled = self._settled, []
            try:
                await self._source.remove(settled)
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
                await self._source.remove(self._settled)
        except _REDIS_FAULT as error:
            logger.debug("acknowledgement_dropped", error=repr(error))  # the dispatcher's upkeep takes them away
        await self._source.aclose()

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

    async def _fetch(self, count: int) -> list[Read]:
        if not self._queues:
            await self._stop.wait(_REST_SECONDS)
            return []
        read = await self._source.fetch(self._queues, count)
        self._more_waits = self._source.more_waits
        return read

    def _acknowledge_later(self, stream: bytes, entry_id: bytes) -> None:
        self._settled.append((stream, entry_id))
        self._to_acknowledge.set()


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(
        database_url, timeout=_PATIENCE_SECONDS, command_timeout=_PATIENCE_SECONDS, server_settings=ONE_BY_ONE
    )
    try:
        yield connection
    finally:
        connection.terminate()
