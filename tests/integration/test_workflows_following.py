"""Children start when their parents have succeeded, and at no other time."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from headrace.clock import now
from headrace.database.states import JobState
from headrace.diagnostics import echo, sleep
from headrace.errors import ConflictError
from headrace.jobs.call import Options
from headrace.jobs.parents import Needs, children_of, parents_of
from headrace.jobs.workflow import Workflow, chain
from tests import trial
from tests.road import Road, eventually, running
from tests.workflows import cancel, diamond, end, follow, redrive, start, states

ENDINGS = "SELECT count(*) FROM job_endings"


async def test_child_starts_when_its_parents_have_succeeded(road: Road) -> None:
    """A diamond runs from its top to its bottom, in one trace."""
    async with running(road):
        ids = await start(road, diamond())
        jobs = {name: await road.finished(job_id) for name, job_id in ids.items()}

    times = {name: (job.started_at or now(), job.finished_at or now()) for name, job in jobs.items()}
    assert {job.state for job in jobs.values()} == {JobState.SUCCEEDED}
    assert times["top"][1] <= min(times["left"][0], times["right"][0])
    assert max(times["left"][1], times["right"][1]) <= times["bottom"][0]
    assert [jobs[name].parent_id for name in ("top", "left", "bottom")] == [None, ids["top"], ids["left"]]
    assert len({job.trace_id for job in jobs.values()}) == 1


async def test_child_starts_soon_when_its_parent_has_succeeded(road: Road) -> None:
    """Not a tenth of a second lies between a parent's end and its child's start; the best of a chain's links counts."""
    async with running(road):
        ids = await start(road, chain(*(echo.call(number) for number in range(8))))
        jobs = [await road.finished(job_id) for job_id in ids.values()]

    pairs = pairwise(jobs)
    waited = [
        child.started_at - parent.finished_at for parent, child in pairs if child.started_at and parent.finished_at
    ]
    assert len(waited) == 7
    assert min(waited) < timedelta(milliseconds=100)


async def test_child_waits_when_a_parent_is_dead_until_it_is_retried(road: Road) -> None:
    """A dead parent holds its child up, visibly; tried again with success, it lets it go on."""
    ids = await start(road, diamond())
    await end(road, ids["top"], JobState.SUCCEEDED)
    await follow(road)
    await end(road, ids["left"], JobState.DEAD)
    await end(road, ids["right"], JobState.SUCCEEDED)
    await follow(road)

    async with road.record.engine.connect() as connection:
        awaited = await parents_of(connection, ids["bottom"], awaited=True)
        every = await parents_of(connection, ids["bottom"])
        below = await children_of(connection, ids["top"], limit=10)
    before = await states(road, ids)
    await redrive(road, ids["left"])
    await end(road, ids["left"], JobState.SUCCEEDED)
    await follow(road)

    assert before == {"top": "succeeded", "left": "dead", "right": "succeeded", "bottom": "scheduled"}
    assert [(one.name, one.id, one.state, one.needs) for one in awaited] == [
        ("left", ids["left"], JobState.DEAD, Needs.SUCCEEDED)
    ]
    assert [(one.name, one.satisfied) for one in every] == [("left", False), ("right", True)]
    assert [(one.id, one.waits_for) for one in below] == [(ids["left"], 0), (ids["right"], 0)]
    assert (await states(road, ids))["bottom"] == "pending"


async def test_child_waits_when_its_parent_has_expired(road: Road) -> None:
    """An expired parent is like a dead one."""
    ids = await start(road, chain(echo.call(1), echo.call(2)))

    await end(road, ids["1"], JobState.EXPIRED)
    await follow(road)

    assert await states(road, ids) == {"1": "expired", "2": "scheduled"}


async def test_children_are_cancelled_when_their_parent_is(road: Road) -> None:
    """All that wait for a cancelled job are cancelled, however deep, and say why; what had no part in it goes on."""
    workflow = diamond().add("last", echo.call(5), after=["bottom", "top"])
    ids = await start(road, workflow)
    await end(road, ids["top"], JobState.SUCCEEDED)
    await follow(road)

    await cancel(road, ids["left"])
    await follow(road)

    assert await states(road, ids) == {
        "top": "succeeded",
        "left": "cancelled",
        "right": "pending",
        "bottom": "cancelled",
        "last": "cancelled",
    }
    (error,) = (await road.job(ids["bottom"])).errors
    assert (error.attempt, error.outcome, error.type) == (0, "cancelled", "ParentCancelled")
    assert error.message == f"its parent left, the job {ids['left']}, was cancelled"


@pytest.mark.parametrize("ending", [JobState.DEAD, JobState.EXPIRED])
async def test_children_are_cancelled_when_a_dead_parent_is(road: Road, ending: JobState) -> None:
    """A dead or expired job for which others wait can be cancelled still, and they with it; then it is a conflict."""
    ids = await start(road, chain(echo.call(1), echo.call(2), echo.call(3)))
    await end(road, ids["1"], ending)
    await follow(road)

    await cancel(road, ids["1"])
    await follow(road)

    assert await states(road, ids) == dict.fromkeys(ids, "cancelled")
    with pytest.raises(ConflictError):
        await cancel(road, ids["1"])


async def test_dead_job_stays_dead_when_nobody_waits_for_it(road: Road) -> None:
    """Without waiting children there is nothing to give up."""
    ids = await start(road, chain(echo.call(1), echo.call(2)))
    await end(road, ids["1"], JobState.DEAD)
    await cancel(road, ids["2"])
    await follow(road)

    with pytest.raises(ConflictError):
        await cancel(road, ids["1"])

    assert await states(road, ids) == {"1": "dead", "2": "cancelled"}


async def test_children_are_cancelled_when_a_running_parent_is(road: Road) -> None:
    """The worker ends the parent, and its children never run."""
    async with running(road):
        ids = await start(road, chain(sleep.call(30), echo.call(2), echo.call(3)))
        await road.in_state(ids["1"], JobState.RUNNING)

        await cancel(road, ids["1"])
        jobs = [await road.finished(job_id) for job_id in ids.values()]

    assert {job.state for job in jobs} == {JobState.CANCELLED}
    assert [job.started_at for job in jobs[1:]] == [None, None]


async def test_others_go_on_when_a_child_is_cancelled_alone(road: Road) -> None:
    """A cancelled child takes its own children along, and nobody else."""
    ids = await start(road, diamond())

    await cancel(road, ids["left"])
    await follow(road)
    await end(road, ids["top"], JobState.SUCCEEDED)
    await follow(road)

    assert await states(road, ids) == {
        "top": "succeeded",
        "left": "cancelled",
        "right": "pending",
        "bottom": "cancelled",
    }


async def test_child_waits_again_when_it_is_retried_before_its_parents_are_done(road: Road) -> None:
    """A cancelled child that is tried again waits for the parents that have not succeeded."""
    ids = await start(road, diamond())
    await end(road, ids["top"], JobState.SUCCEEDED)
    await follow(road)
    await end(road, ids["right"], JobState.SUCCEEDED)
    await cancel(road, ids["bottom"])
    await follow(road)

    await redrive(road, ids["bottom"])
    waiting = await states(road, ids)
    await end(road, ids["left"], JobState.SUCCEEDED)
    await follow(road)

    assert waiting["bottom"] == "scheduled"
    assert (await states(road, ids))["bottom"] == "pending"


async def test_child_runs_at_once_when_it_is_retried_after_its_parents_are_done(road: Road) -> None:
    """Parents that succeeded while a child was cancelled count."""
    ids = await start(road, chain(echo.call(1), echo.call(2)))
    await cancel(road, ids["2"])
    await end(road, ids["1"], JobState.SUCCEEDED)
    await follow(road)

    await redrive(road, ids["2"])

    assert await states(road, ids) == {"1": "succeeded", "2": "pending"}


async def test_delay_counts_from_the_parents_success(road: Road) -> None:
    """A child with a delay is due that long after its parents; one with a time, then or when its parents are done."""
    early, late = now() - timedelta(hours=1), now() + timedelta(hours=1)
    workflow = (
        Workflow()
        .add("first", echo.call(1))
        .add("delayed", echo.options(Options(delay_seconds=60)).call(2), after=["first"])
        .add("early", echo.options(Options(run_at=early)).call(3), after=["first"])
        .add("late", echo.options(Options(run_at=late)).call(4), after=["first"])
    )
    ids = await start(road, workflow)
    await road.driver.execute("UPDATE jobs SET run_at = run_at - interval '1 day' WHERE id = $1", ids["delayed"])

    succeeded_at = now()
    await end(road, ids["first"], JobState.SUCCEEDED)
    await follow(road)
    delayed = await road.job(ids["delayed"])

    assert await states(road, ids) == {
        "first": "succeeded",
        "delayed": "scheduled",
        "early": "pending",
        "late": "scheduled",
    }
    assert abs((delayed.run_at - succeeded_at).total_seconds() - 60) < 5
    assert (await road.job(ids["late"])).run_at == late
    assert (await road.job(ids["early"])).run_at >= succeeded_at


async def test_waiting_child_expires_when_its_time_is_over(road: Road) -> None:
    """`expires_at` of a child means what it means for every job."""
    async with running(road):
        soon = Options(expires_at=now() + timedelta(seconds=0.2))
        ids = await start(road, chain(sleep.call(30), echo.options(soon).call(2), echo.call(3)))
        job = await road.finished(ids["2"])
        await eventually(lambda: _nothing_to_follow(road))

        assert (job.state, job.started_at) == (JobState.EXPIRED, None)
        assert (await states(road, ids))["3"] == "scheduled"
        await cancel(road, ids["1"])


async def _nothing_to_follow(road: Road) -> bool:
    return bool(await road.driver.fetchval(ENDINGS) == 0)


async def test_workflow_goes_on_when_redis_is_emptied(road: Road) -> None:
    """FLUSHALL between the links of a chain costs time, and nothing else."""
    async with running(road):
        ids = await start(road, chain(*(trial.write.call(str(number), 0.05) for number in range(6))))
        await road.finished(ids["2"])
        await road.redis.flushdb()
        jobs = [await road.finished(job_id, 30) for job_id in ids.values()]

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert [key for key, _ in await road.effects()] == [str(number) for number in range(6)]
