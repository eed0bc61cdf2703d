"""Group commit of outcomes: what several runs decide at about the same time is one statement.

Owns the connection on which outcomes are recorded. While one batch is on its way, the next one gathers; a batch waits
for what is about to end anyway, and never for a timer. With PostgreSQL away, outcomes wait here and are recorded when
it is back, unless the fence has gone to others. An outcome that PostgreSQL refuses to store does not hold up the batch
it came in: it is recorded as dead by itself. A stopping worker does not wait for PostgreSQL for ever: what it abandons
is rescued when its lease has run out.
"""

from __future__ import annotations

import asyncio
from collections import deque

import asyncpg
import structlog

from headrace.database.away import DRIVER_ERRORS
from headrace.database.driver import ONE_BY_ONE
from headrace.database.states import JobState
from headrace.jobs.model import Failure, Key, Outcome
from headrace.jobs.settle import Tell, nobody, settle

logger = structlog.get_logger(__name__)

_MAX_BATCH = 500
_ENOUGH = 50
"""How many outcomes make a batch that waits for no more: half of a worker's usual slots, so that the others run on."""
_QUIET_TURNS = 16
"""After how many turns of the loop without another outcome none is about to come: a tenth of a millisecond."""
_REST_SECONDS = 0.25
_PATIENCE_SECONDS = 15.0
"""How long a statement may take before the connection counts as lost."""
_REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""What PostgreSQL raises because of an outcome, and would raise again."""


class Settler:
    """Records outcomes; `run` must be running for `settle` to return."""

    def __init__(self, database_url: str, *, release: str = "") -> None:
        self._database_url = database_url
        self._release = release
        self._waiting: deque[tuple[Outcome, asyncio.Future[bool]]] = deque()
        self._wanted = asyncio.Event()
        self._abandoned = False

    async def settle(self, outcome: Outcome) -> bool:
        """Record an outcome and return whether it counted; False when the fence was lost or this was abandoned."""
        if self._abandoned:
            return False
        settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcome, settled))
        self._wanted.set()
        return await settled

    def abandon(self) -> None:
        """Wait for PostgreSQL no longer: nobody gets more recorded here."""
        self._abandoned = True
        if self._waiting:
            logger.error("outcomes_abandoned", count=len(self._waiting), first=str(self._waiting[0][0].job_id))
        for _, settled in self._waiting:
            if not settled.done():
                settled.set_result(False)

    async def run(self, tell: Tell = nobody) -> None:
        """Record what comes in until cancelled, and tell when others wait for it; a lost connection is made anew."""
        while True:
            try:
                connection = await asyncpg.connect(
                    self._database_url, timeout=5, command_timeout=_PATIENCE_SECONDS, server_settings=ONE_BY_ONE
                )
                try:
                    await self._record_batches(connection, tell)
                finally:
                    connection.terminate()
            except DRIVER_ERRORS as error:
                logger.warning("settling_waits", error=repr(error), waiting=len(self._waiting))
                await asyncio.sleep(_REST_SECONDS)

    async def _record_batches(self, connection: asyncpg.Connection[asyncpg.Record], tell: Tell) -> None:
        while True:
            await self._wanted.wait()
            await self._gather()
            batch = [self._waiting[place] for place in range(min(len(self._waiting), _MAX_BATCH))]
            settled = await self._settle_all(connection, [outcome for outcome, _ in batch], tell)
            for outcome, future in batch:
                self._waiting.popleft()
                if not future.done():
                    future.set_result(outcome.key in settled)
            if not self._waiting:
                self._wanted.clear()

    async def _gather(self) -> None:
        """Let attempts that are about to end come along: a commit costs PostgreSQL as much as the rows of fifty."""
        quiet, before = 0, len(self._waiting)
        while quiet < _QUIET_TURNS and before < _ENOUGH:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == before else 0
            before = len(self._waiting)

    async def _settle_all(
        self, connection: asyncpg.Connection[asyncpg.Record], outcomes: list[Outcome], tell: Tell
    ) -> set[Key]:
        try:
            return await settle(connection, outcomes, tell=tell, release=self._release)
        except _REFUSED as error:
            if len(outcomes) == 1:
                logger.warning("outcome_not_storable", job_id=str(outcomes[0].job_id), error=str(error))
                unstorable = _unstorable(outcomes[0], error)
                return await settle(connection, [unstorable], tell=tell, release=self._release)
            return {key for outcome in outcomes for key in await self._settle_all(connection, [outcome], tell)}


def _unstorable(outcome: Outcome, error: asyncpg.PostgresError) -> Outcome:
    failure = Failure(
        outcome="rejected",
        type=type(error).__qualname__,
        message="PostgreSQL cannot store what this attempt returned or raised",
        traceback=str(error),
        trace_id=outcome.failure.trace_id if outcome.failure else "",
    )
    return Outcome(outcome.job_id, outcome.fence, JobState.DEAD, failure=failure)
