"""`headrace events replay`, `headrace subscriptions replay` and `rebuild` as an operator uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest
from sqlalchemy import text

from headrace.application import Application, combine
from headrace.events.model import RecordedEvent
from headrace.subscribers.checkpoints import register
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction
from tests.integration.commands import headrace
from tests.lanes import Thing
from tests.road import Road

APPLICATIONS: Final = "tests.integration.test_commands_replays:WATCHING"


@subscriber("trial.watcher", Thing)
async def watcher(delivery: Delivery, data: Thing) -> None:
    """Listen, and do nothing."""
    del delivery, data


@projection("trial.counts", Thing, tables=("trial_counts",))
async def counts(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Count things."""
    await tx.connection.execute(text("INSERT INTO trial_counts VALUES (:things)"), {"things": len(events)})


WATCHING = Application(name="watching", events=(Thing,), subscriptions=(watcher, counts))


@pytest.fixture
async def listened(road: Road) -> Road:
    """A road with three events that have their positions, all of which the projection has passed."""
    await register(road.record.engine, combine([WATCHING]).subscriptions.values())
    await road.driver.execute("CREATE TABLE trial_counts (things int)")
    async with road.transaction() as tx:
        for number in range(3):
            await tx.publish(Thing("a", number))
    await road.driver.execute(
        "INSERT INTO lane_log (lane, position, event_id)"
        " SELECT 1, row_number() OVER (ORDER BY seq), event_id FROM outbox"
    )
    await road.driver.execute("UPDATE lanes SET head = 3 WHERE lane = 1")
    await road.driver.execute("UPDATE checkpoints SET position = 3 WHERE lane = 1 AND subscription = 'trial.counts'")
    return road


async def test_replay_begins_when_it_is_no_dry_run(listened: Road) -> None:
    """The count is told, and the job by which it is watched; a dry run has none."""
    dry = await headrace(
        listened, "events", "replay", "trial.watcher", "--types", "tests.*,orders.*", "--from-position", "1=2",
        "--dry-run", "--json", HEADRACE_APPLICATIONS=APPLICATIONS,
    )  # fmt: skip
    begun = await headrace(
        listened, "subscriptions", "replay", "trial.watcher", "--from", "2026-01-01T00:00:00Z", "--rate", "5",
        HEADRACE_APPLICATIONS=APPLICATIONS,
    )  # fmt: skip

    assert dry.json == {"count": 2, "job_id": None}, dry.err
    assert begun.code == 0, begun.err
    assert begun.out.startswith("3 events to be replayed to trial.watcher\njob ")
    args = await listened.driver.fetchval("SELECT args ->> 'rate_per_second' FROM jobs WHERE task = 'headrace.replay'")
    assert float(args) == 5.0


async def test_rebuild_begins_when_the_projection_can_be_rebuilt(listened: Road) -> None:
    """The count is told, and the job; a subscriber is refused with the reason and exit code 1."""
    begun = await headrace(
        listened, "subscriptions", "rebuild", "trial.counts", "--json", HEADRACE_APPLICATIONS=APPLICATIONS
    )
    refused = await headrace(listened, "subscriptions", "rebuild", "trial.watcher", HEADRACE_APPLICATIONS=APPLICATIONS)

    assert (begun.code, begun.json["count"]) == (0, 3), begun.err
    assert (refused.code, refused.out) == (1, "")
    assert "replay its events instead" in refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from-position", "x"), "--from-position"),
        (("--from-position", "1", "--from", "2026-01-01T00:00:00Z"), "not both"),
        (("--types", "Orders"), "--types"),
        (("--rate", "inf"), "must be a finite number above 0"),
    ],
)
async def test_usage_is_told_when_a_replay_cannot_be_meant(
    listened: Road, arguments: tuple[str, ...], said: str
) -> None:
    """What is wrong is named by its option, with exit code 2."""
    refused = await headrace(
        listened, "events", "replay", "trial.watcher", *arguments, HEADRACE_APPLICATIONS=APPLICATIONS
    )

    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err
