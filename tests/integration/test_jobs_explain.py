"""Why a job is not running: every reason that holds, with its details, and a forecast that comes true."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from headrace import diagnostics
from headrace.clock import new_id, now
from headrace.errors import NotFoundError
from headrace.jobs.call import Options
from headrace.jobs.explain import Explanation, explain_job
from headrace.jobs.limits import Limits, Rate, set_limits
from headrace.jobs.reasons import Code
from headrace.jobs.standing import set_paused
from headrace.jobs.workflow import Workflow
from headrace.presence import Identity, Presence
from tests import trial
from tests.road import Road, eventually, relaying, working

_IN_FLIGHT = "UPDATE jobs SET state = 'queued', released_at = now() WHERE id = $1"
_LEAD = "INSERT INTO leases (name, holder, expires_at) VALUES ('relay', gen_random_uuid(), 'infinity')"


@pytest.fixture
async def open_way(road: Road) -> AsyncIterator[Road]:
    """The stores, with a relay and a worker on record that do nothing: the way is open, and nothing moves."""
    await road.driver.execute(_LEAD)
    worker = Presence(road.settings.database_url, Identity("worker", 5.0, tasks=sorted(road.registry.names), slots=2))
    await worker.start()
    yield road
    await worker.stop()


async def explain(road: Road, job_id: UUID) -> Explanation:
    """Explain a job."""
    return await explain_job(road.record, job_id)


def codes(explanation: Explanation) -> list[str]:
    """Return the codes of the reasons."""
    return [reason.code.value for reason in explanation.reasons]


async def test_nothing_is_in_the_way_when_a_worker_has_room(open_way: Road) -> None:
    """The next job in line starts at once."""
    (job_id,) = await open_way.enqueue(trial.add.call(1))

    found = await explain(open_way, job_id)

    assert found.reasons == []
    assert found.forecast is not None
    assert found.forecast.position == 1
    assert found.forecast.start_in_seconds is not None
    assert found.forecast.start_in_seconds.high <= 1


async def test_every_reason_is_named_when_several_hold(road: Road) -> None:
    """No relay, no worker, a pause with its author and time, a due time, and the coming expiry: all at once."""
    at = now()
    call = trial.add.options(Options(delay_seconds=30, expires_at=at + timedelta(seconds=50))).call(1)
    (job_id,) = await road.enqueue(call)
    await road.driver.execute("INSERT INTO queues (name) VALUES ('default') ON CONFLICT DO NOTHING")
    async with road.transaction() as tx:
        await set_paused(tx, "default", paused=True, by="Grace")

    found = await explain(road, job_id)

    assert codes(found) == ["not_due", "queue_paused", "no_relay", "no_worker", "expires_soon"]
    by_code = {reason.code: reason for reason in found.reasons}
    paused = by_code[Code.QUEUE_PAUSED]
    assert paused.by == "Grace"
    assert paused.since is not None
    assert paused.since >= at - timedelta(seconds=1)
    assert by_code[Code.NOT_DUE].until == (await road.job(job_id)).run_at
    assert found.forecast is not None
    assert (found.forecast.position, found.forecast.start_in_seconds) == (None, None)


async def test_workers_are_named_when_none_of_them_can_take_it(open_way: Road) -> None:
    """A queue that nobody serves, and a task that nobody knows: the live workers say what they serve."""
    identity = Identity("worker", 5.0, queues=["mail"], tasks=["trial.other"], slots=4)
    mailer = Presence(open_way.settings.database_url, identity)
    await mailer.start()
    await open_way.driver.execute("UPDATE processes SET queues = '{default}' WHERE id <> $1", identity.id)
    elsewhere, unknown = await open_way.enqueue(
        trial.add.options(Options(queue="parcels")).call(1), trial.add.options(Options(queue="mail")).call(1)
    )

    nobody = (await explain(open_way, elsewhere)).reasons[0]
    other_code = (await explain(open_way, unknown)).reasons[0]
    await mailer.stop()

    assert nobody.message == "no live worker serves the queue parcels: they serve default, mail"
    assert [worker.queues for worker in nobody.workers] == [["default"], ["mail"]]
    assert other_code.message == "none of the 1 live workers that serve the queue mail knows the task trial.add"
    assert [worker.knows_task for worker in other_code.workers] == [True, False]


async def test_limits_are_named_when_they_are_reached(open_way: Road) -> None:
    """The queue's limit with its numbers, and the holders of a concurrency key."""
    keyed = trial.add.options(Options(concurrency_key="k"))
    holder, job_id = await open_way.enqueue(keyed.call(1), keyed.call(2))
    await open_way.driver.execute(_IN_FLIGHT, holder)
    async with open_way.transaction() as tx:
        await set_limits(tx, "default", Limits(concurrency=1))

    found = await explain(open_way, job_id)

    full, busy, behind = found.reasons
    assert (full.code, full.count, full.limit) == (Code.CONCURRENCY_LIMIT, 1, 1)
    assert (busy.code, [job.id for job in busy.jobs]) == (Code.CONCURRENCY_KEY_BUSY, [holder])
    assert (behind.code, behind.count) == (Code.BEHIND_OTHERS, 1)


async def test_rate_is_named_when_its_window_is_full(open_way: Road) -> None:
    """It says when the next start is allowed, and the forecast begins there."""
    (job_id,) = await open_way.enqueue(trial.add.call(1))
    async with open_way.transaction() as tx:
        await set_limits(tx, "default", Limits(rate=Rate(2, 60.0)))
    await open_way.driver.execute("INSERT INTO queue_starts (queue, at, jobs) VALUES ('default', now(), 2)")

    found = await explain(open_way, job_id)

    (reason,) = found.reasons
    assert (reason.code, reason.limit) == (Code.RATE_LIMITED, 2)
    assert reason.until is not None
    assert found.forecast is not None
    assert found.forecast.start_in_seconds is not None
    assert 55 < found.forecast.start_in_seconds.low <= 60 < found.forecast.start_in_seconds.high


async def test_parents_are_named_when_they_are_awaited(open_way: Road) -> None:
    """Each parent with its name, id and state; those that have succeeded are not in the way."""
    workflow = Workflow().add("a", trial.add.call(1)).add("b", trial.add.call(2))
    async with open_way.transaction() as tx:
        ids = await tx.start(workflow.add("c", trial.add.call(3), after=["a", "b"]))

    found = await explain(open_way, ids["c"])

    (reason,) = found.reasons
    assert (reason.code, reason.count) == (Code.WAITING_FOR_PARENTS, 2)
    assert [(job.name, job.id, job.state) for job in reason.jobs] == [
        ("a", ids["a"], "pending"),
        ("b", ids["b"], "pending"),
    ]
    assert found.forecast is not None
    assert found.forecast.basis == "its parents decide"


async def test_job_that_is_under_way_has_no_reason_unless_it_is_to_be_cancelled(open_way: Road) -> None:
    """A running job has nothing in its way; a wish to cancel it shows. A finished one says so."""
    (job_id,) = await open_way.enqueue(trial.add.call(1))
    await open_way.driver.execute(_IN_FLIGHT, job_id)
    await open_way.driver.execute("UPDATE jobs SET state = 'running' WHERE id = $1", job_id)
    running = await explain(open_way, job_id)
    await open_way.driver.execute("UPDATE jobs SET cancel_requested_at = now() WHERE id = $1", job_id)
    wanted = await explain(open_way, job_id)
    await open_way.driver.execute("UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = $1", job_id)
    ended = await explain(open_way, job_id)

    assert (codes(running), codes(wanted), codes(ended)) == ([], ["cancel_requested"], ["finished"])
    assert running.forecast is ended.forecast is None


async def test_job_is_unknown_when_there_is_none(open_way: Road) -> None:
    """An id that nothing has."""
    with pytest.raises(NotFoundError):
        await explain(open_way, new_id())


async def test_forecast_comes_true_when_a_queue_drains(road: Road) -> None:
    """Of jobs all along a line that really drains, nearly all start within the range that was told before."""
    settings = msgspec.structs.replace(road.settings, worker_concurrency=4)
    told: dict[UUID, tuple[float, Any]] = {}
    async with relaying(settings), working(road, settings):
        ids = await road.enqueue(*(diagnostics.sleep.call(0.1) for _ in range(300)))
        await eventually(lambda: _has_ended(road, 110))  # after a whole second in which the queue was full
        for job_id in ids[150::15]:
            found = (await explain(road, job_id)).forecast
            if found is not None and found.start_in_seconds is not None:
                told[job_id] = (now().timestamp(), found.start_in_seconds)
        await road.all_finished(60)

    started = {job_id: (await road.job(job_id)).started_at for job_id in told}
    waited = {job_id: at.timestamp() - told[job_id][0] for job_id, at in started.items() if at}
    hits = [told[job_id][1].low <= seconds <= told[job_id][1].high for job_id, seconds in waited.items()]
    assert len(hits) >= 8
    assert sum(hits) >= 0.8 * len(hits), [(waited[job_id], told[job_id][1]) for job_id in waited]


async def _has_ended(road: Road, count: int) -> bool:
    return (await road.counts()).get("succeeded", 0) >= count
