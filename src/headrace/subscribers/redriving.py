"""The task `headrace.redrive`: dead deliveries are tried again, a canary first where one is wanted.

Owns the way through them: a portion comes back to `pending` in one transaction together with the redrive's count, the
oldest first and not faster than asked. What is pending again is not dead any more, so a run that was killed or
cancelled goes on where it was, and nothing is counted twice; what dies again meanwhile died after the redrive was asked
for and is left alone. The canary gets one attempt. Where it dies again the redrive is dead with that reason and has
touched nothing else; tried again, it means what is dead by then, the canary too. Effects stay once: a delivery that had
succeeded after all finds that in the inbox. What waits in order behind a dead delivery goes on when that has succeeded.
Never change a delivery's arguments here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text

from headrace.application import Application
from headrace.database.record import Bell
from headrace.jobs.redrive import REVIVED
from headrace.jobs.retry import PermanentError, Retry, Snooze
from headrace.subscribers.contract import Subscription
from headrace.subscribers.failures import QUEUE
from headrace.subscribers.metre import Metre
from headrace.subscribers.redrive import ATTEMPTS, MEANT, REDRIVE, Selection
from headrace.tasks.contract import Task
from headrace.tasks.policy import Policy
from headrace.tasks.run import Run
from headrace.webhooks.schedule import ATTEMPTS as WEBHOOK_ATTEMPTS

PORTION: Final = 500

_LOOKS: Final = 10
_LOOK_SECONDS: Final = 0.2
_CANARY_SECONDS: Final = 1.0

# The count is locked first: a run of this redrive that was taken over waits here, and then finds nothing.
_TAKE: Final = text("SELECT total, done, asked_at, canary FROM redrives WHERE job_id = :job_id FOR UPDATE")
_NOTE: Final = text("UPDATE redrives SET done = done + :moved WHERE job_id = :job_id RETURNING done")
_CANARY: Final = text("UPDATE redrives SET canary = :canary, done = done + 1 WHERE job_id = :job_id")
_NO_CANARY: Final = text("UPDATE redrives SET canary = NULL, done = done - 1, asked_at = now() WHERE job_id = :job_id")
_ENDED: Final = text("SELECT state FROM jobs WHERE id = :canary")

_REVIVE: Final = text(f"""
    WITH chosen AS (
        SELECT j.id FROM dead_deliveries d JOIN jobs j ON j.id = d.job_id
        WHERE {MEANT} AND d.job_id > :after AND j.state = 'dead'
        ORDER BY d.job_id LIMIT :limit FOR UPDATE OF j)
    UPDATE jobs SET {REVIVED},
        max_attempts = coalesce(attempt + CAST(:once AS integer),
                                greatest(max_attempts, attempt + least(max_attempts, :attempts)))
    FROM chosen WHERE jobs.id = chosen.id
    RETURNING jobs.id
""")  # noqa: S608 - composed of constants

Work = Callable[..., Coroutine[Any, Any, int]]


def redrives_to(subscriptions: Mapping[str, Subscription]) -> Application:
    """Return what workers need besides the applications: the task that tries their dead deliveries again."""
    return Application(name="headrace.redrives", tasks=(Redrive(subscriptions),))


class Redrive(Task[..., int]):
    """The task over the subscriptions of the loaded applications."""

    def __init__(self, subscriptions: Mapping[str, Subscription]) -> None:
        """Redrive the deliveries of these subscriptions, and of webhooks."""
        retry = Retry(max_attempts=ATTEMPTS)
        super().__init__(REDRIVE, _redriving(subscriptions), Policy(queue=QUEUE, retry=retry, timeout_seconds=None))


def _redriving(subscriptions: Mapping[str, Subscription]) -> Work:
    async def redrive(  # noqa: PLR0913, PLR0917 - what can be asked for
        run: Run,
        subscription: str,
        fingerprint: str | None = None,
        release: str | None = None,
        event_id: UUID | None = None,
        types: tuple[str, ...] | None = None,
        canary: bool = False,  # noqa: FBT001, FBT002 - an argument of a job is named
        rate_per_second: float | None = None,
    ) -> int:
        """Try dead deliveries of a subscription again; return how many."""
        selection = Selection(
            fingerprint=fingerprint,
            release=release,
            event_id=event_id,
            types=types,
            canary=canary,
            rate_per_second=rate_per_second,
        )
        found = subscriptions.get(subscription)
        attempts = WEBHOOK_ATTEMPTS if found is None else found.policy.retry.max_attempts
        return await Redriving(run, subscription, selection, attempts=attempts).run()

    return redrive


class Redriving:
    """One run of a redrive."""

    def __init__(self, run: Run, subscription: str, selection: Selection, *, attempts: int) -> None:
        self._run = run
        self._selection = selection
        self._meaning = selection.meaning(subscription)
        self._attempts = attempts
        self._metre = Metre(selection.rate_per_second)
        self._after = UUID(int=0)
        """The last delivery that this run has brought back: those before it need not be looked through again."""

    async def run(self) -> int:
        """Bring back what is left; return how many the redrive has brought back in all."""
        if self._selection.canary:
            await self._follow_canary(await self._canary())
        while True:
            limit = self._metre.portion(PORTION)
            moved, done = await self._portion(limit)
            if moved < limit:
                return done
            await self._metre.pass_(moved)

    async def _portion(self, limit: int) -> tuple[int, int]:
        """Bring back the next deliveries; return how many, and how many in all."""
        async with self._run.apart() as tx:
            place = (await tx.connection.execute(_TAKE, {"job_id": self._run.job_id})).one()
            chosen = self._meaning | {"asked_at": place.asked_at, "after": self._after, "limit": limit}
            given = chosen | {"attempts": self._attempts, "once": None}
            moved = list((await tx.connection.execute(_REVIVE, given)).scalars())
            noted = {"job_id": self._run.job_id, "moved": len(moved)}
            done: int = (await tx.connection.execute(_NOTE, noted)).scalar_one()
            tx.bells.add(Bell.JOBS)
        self._after = max(moved, default=self._after)
        self._run.report(done, max(place.total, done))
        return len(moved), done

    async def _canary(self) -> UUID | None:
        """Return the delivery that goes first, which is sent now unless it was before; None where nothing is left."""
        async with self._run.apart() as tx:
            place = (await tx.connection.execute(_TAKE, {"job_id": self._run.job_id})).one()
            if place.canary is not None:
                known: UUID = place.canary
                return known
            chosen = self._meaning | {"asked_at": place.asked_at, "after": self._after, "limit": 1}
            given = chosen | {"attempts": self._attempts, "once": 1}
            sent: UUID | None = (await tx.connection.execute(_REVIVE, given)).scalar_one_or_none()
            if sent is not None:
                await tx.connection.execute(_CANARY, {"job_id": self._run.job_id, "canary": sent})
            tx.bells.add(Bell.JOBS)
        return sent

    async def _follow_canary(self, canary: UUID | None) -> None:
        """Return when the canary has succeeded, or left the record since.

        Raises:
            Snooze: it is still under way.
            PermanentError: it was to no avail.

        """
        for _ in range(_LOOKS):
            async with self._run.read() as connection:
                row = (await connection.execute(_ENDED, {"canary": canary})).one_or_none()
            if row is None or row.state == "succeeded":
                return
            if row.state in {"dead", "cancelled", "expired"}:
                async with self._run.apart() as tx:
                    await tx.connection.execute(_NO_CANARY, {"job_id": self._run.job_id})
                message = (
                    f"the canary, the delivery of job {canary}, is {row.state} again: the others were left as they are"
                )
                raise PermanentError(message)
            await asyncio.sleep(_LOOK_SECONDS)
        raise Snooze(_CANARY_SECONDS)
