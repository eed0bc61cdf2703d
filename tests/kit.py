"""The application `kit`: what the tests of the testing kit run, as a user's own application would be.

Owns tasks, an event with a subscriber and a projection, and schedules, none of which knows that it is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
from sqlalchemy import text

from headrace.application import Application
from headrace.clock import now
from headrace.events.model import RecordedEvent
from headrace.events.registry import event
from headrace.jobs.call import Options
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.jobs.schedule import Overlap, Schedule
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.tasks.sync_run import SyncRun
from headrace.transaction import Transaction

TABLES = (
    "CREATE TABLE kit_effects (what text NOT NULL, at timestamptz NOT NULL DEFAULT now())",
    "CREATE TABLE kit_counts (name text PRIMARY KEY, joined integer NOT NULL)",
)


class Mailer:
    """A mail server: what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []


@event("kit.customer.joined", subject="name")
class Joined(msgspec.Struct, frozen=True):
    """A customer joined."""

    name: str


@task("kit.greet", retry=Retry(max_attempts=3, first_delay_seconds=60.0))
async def greet(run: Run, name: str) -> str:
    """Mail a greeting and note it."""
    run.get(Mailer).sent.append(name)
    tx = await run.begin()
    await tx.connection.execute(text("INSERT INTO kit_effects (what) VALUES (:what)"), {"what": name})
    return f"Good morning, {name}, at {now():%H:%M}"


@task("kit.remind")
async def remind(run: Run, name: str) -> Snooze | Cancel | str:
    """Wait until the customer has been greeted."""
    async with run.read() as connection:
        greeted = (await connection.execute(text("SELECT count(*) FROM kit_effects"))).scalar_one()
    if name == "nobody":
        return Cancel("there is nobody to remind")
    return "reminded" if greeted else Snooze(3600)


@task("kit.mourn")
async def mourn(run: Run, job_id: UUID, task: str, error: str) -> str:
    """Be told of a death."""
    del run, job_id
    return f"{task}: {error}"


@task("kit.double", retry=Retry(max_attempts=2), on_dead=mourn)
def double(run: SyncRun, number: int) -> int:
    """Return twice the number, in a thread."""
    del run
    return number * 2


@task("kit.sum")
async def total(run: Run) -> int:
    """Return the sum of what its parents returned."""
    return sum((await run.parents()).values())


@task("kit.square", runs_in="process")
def square(run: SyncRun, number: int) -> int:
    """Return the square, in a process of its own."""
    del run
    return number**2


@task("kit.again")
async def again(run: Run) -> None:
    """Enqueue itself, for ever."""
    await (await run.begin()).enqueue(again)


@subscriber("kit.welcome", Joined, retry=Retry(max_attempts=3, first_delay_seconds=10.0))
async def welcome(delivery: Delivery, joined: Joined) -> None:
    """Greet at once, and remind in a day."""
    tx = await delivery.begin()
    await tx.enqueue(greet, joined.name)
    await tx.enqueue(remind.options(Options(delay_seconds=86_400)), joined.name)


@projection("kit.counts", Joined)
async def counts(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Count who joined."""
    for one in events:
        await tx.connection.execute(
            text(
                "INSERT INTO kit_counts VALUES (:name, 1)"
                " ON CONFLICT (name) DO UPDATE SET joined = kit_counts.joined + 1"
            ),
            {"name": one.key},
        )


application = Application(
    name="kit",
    tasks=(greet, remind, again, mourn, double, total, square),
    events=(Joined,),
    subscriptions=(welcome, counts),
    schedules=(
        Schedule("kit.daily", cron="0 8 * * *", call=greet.call("everybody"), overlap=Overlap.SKIP),
        Schedule("kit.hourly", cron="30 * * * *", call=remind.call("nobody")),
    ),
)
