"""Children start when their parents have succeeded, and at no other time."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import asyncpg
import pytest

from headrace.clock import new_id, now
from headrace.database.states import JobState
from headrace.diagnostics import echo, sleep
from headrace.errors import ConflictError
from headrace.jobs import follow as follow_module
from headrace.jobs.call import Options
from headrace.jobs.cancel import cancel_job
from headrace.jobs.follow import follow_endings
from headrace.jobs.parents import Needs, children_of, parents_of
from headrace.jobs.prune import prune_jobs
from headrace.jobs.redrive import redrive_job
from headrace.jobs.workflow import Workflow, chain
from tests import trial
from tests.road import Road, eventually, running
from tests.workflows import end, follow, start, states

ENDINGS = "SELECT count(*) FROM job_endings"


def diamond() -> Workflow:
    """A top, two that wait for it, and a bottom that waits for both."""
    return (
        Workflow()
        .add("top", echo.call(1))
        .add("left", echo.call(2), after=["top"])
        .add("right", echo.call(3), after=["top"])
        .add("bottom", echo.call(4), after=["left", "right"])
    )


async def cancel(road: Road, job_id: UUID) -> None:
    """Cancel a job as an operator does."""
    async with road.transaction() as tx:
        await cancel_job(tx, job_id)


async def redrive(road: Road, job_id: UUID) -> None:
    """Try a job again as an operator does."""
    async with road.transaction() as tx:
        await redrive_job(tx, job_id, attempts=3)


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


async def test_child_becomes_due_once_when_two_follow_its_parents_at_once(road: Road, database_url: str) -> None:
    """Two followers that each take some of the endings lower the count together, and lose none."""
    workflow = Workflow()
    for number in range(60):
        workflow.add(f"p{number}", echo.call(number))
    for number in range(5):
        workflow.add(f"c{number}", echo.call(number), after=[f"p{place}" for place in range(number, 60)])
    ids = await start(road, workflow)
    for name in ids:
        if name.startswith("p"):
            await end(road, ids[name], JobState.SUCCEEDED)

    async def follow_all() -> None:
        connection = await asyncpg.connect(database_url)
        while await follow_endings(connection, {}, limit=3):
            await asyncio.sleep(0)
        await connection.close()

    await asyncio.gather(*(follow_all() for _ in range(4)))

    assert {name: state for name, state in (await states(road, ids)).items() if name.startswith("c")} == {
        f"c{number}": "pending" for number in range(5)
    }
    assert await road.driver.fetchval("SELECT count(*) FROM jobs WHERE waits_for <> 0") == 0


async def test_ending_is_followed_again_when_the_follower_dies_in_between(road: Road, database_url: str) -> None:
    """What a follower took out and did not commit is there for the next one."""
    ids = await start(road, chain(echo.call(1), echo.call(2)))
    await end(road, ids["1"], JobState.SUCCEEDED)
    dying = await asyncpg.connect(database_url)
    await dying.execute("BEGIN")
    await dying.execute("DELETE FROM job_endings")
    await dying.execute("UPDATE job_parents SET satisfied_at = now()")

    meanwhile = await follow(road)
    dying.terminate()
    await eventually(lambda: _was_followed(road))

    assert meanwhile == 0
    assert await states(road, ids) == {"1": "succeeded", "2": "pending"}


async def _was_followed(road: Road) -> bool:
    return await follow(road) > 0


async def test_nothing_is_written_when_nobody_waits_for_a_job(road: Road) -> None:
    """The end of a job without children leaves no row behind to look at."""
    (job_id,) = await road.enqueue(echo.call(1))

    await end(road, job_id, JobState.SUCCEEDED)

    assert await road.driver.fetchval(ENDINGS) == 0


async def test_parent_stays_on_record_when_a_child_may_still_need_it(road: Road) -> None:
    """Neither the parents of a waiting child nor those of one that may be retried are pruned; then links go too."""
    ids = await start(road, diamond())
    await end(road, ids["top"], JobState.SUCCEEDED)
    await follow(road)
    await end(road, ids["left"], JobState.SUCCEEDED)
    await end(road, ids["right"], JobState.SUCCEEDED)
    await follow(road)
    later = now() + timedelta(days=1)

    await prune_jobs(road.record, later)
    waiting = await road.counts()
    await end(road, ids["bottom"], JobState.SUCCEEDED)
    await prune_jobs(road.record, later)
    await prune_jobs(road.record, later)

    assert waiting == {"pending": 1, "succeeded": 2}
    assert await road.counts() == {}
    assert await road.driver.fetchval("SELECT count(*) FROM job_parents") == 0


async def test_ended_job_stays_on_record_until_its_end_was_followed(road: Road) -> None:
    """With the relay away for longer than the retention, what should follow from an end still can."""
    ids = await start(road, chain(echo.call(1), echo.call(2)))
    await end(road, ids["2"], JobState.CANCELLED)
    await end(road, ids["1"], JobState.SUCCEEDED)

    await prune_jobs(road.record, now() + timedelta(days=1))
    kept = await road.counts()
    await follow(road)

    await prune_jobs(road.record, now() + timedelta(days=1))

    assert kept == {"succeeded": 1}
    assert await road.counts() == {}


async def test_workflow_goes_on_when_redis_is_emptied(road: Road) -> None:
    """FLUSHALL between the links of a chain costs time, and nothing else."""
    async with running(road):
        ids = await start(road, chain(*(trial.write.call(str(number), 0.05) for number in range(6))))
        await road.finished(ids["2"])
        await road.redis.flushdb()
        jobs = [await road.finished(job_id, 30) for job_id in ids.values()]

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert [key for key, _ in await road.effects()] == [str(number) for number in range(6)]


async def test_ends_with_many_children_are_followed_a_few_at_a_time(road: Road) -> None:
    """What one transaction does is bounded by the links it touches; nothing is left out."""
    workflow = Workflow()
    for parent in range(4):
        workflow.add(f"p{parent}", echo.call(parent))
        for child in range(2000):
            workflow.add(f"p{parent}c{child}", echo.call(child), after=[f"p{parent}"])
    ids = await start(road, workflow)
    for parent in range(4):
        await end(road, ids[f"p{parent}"], JobState.SUCCEEDED)

    followed = []
    while ended := await follow_endings(road.driver, {}):
        followed.append(ended)

    assert followed == [3, 1]
    assert await road.counts() == {"succeeded": 4, "pending": 8000}


async def test_all_below_are_cancelled_at_once_when_a_workflow_is_deep(road: Road) -> None:
    """Ten thousand jobs in a row cost one look, and each says whose end was its own."""
    ids = await start(road, chain(*(echo.call(number) for number in range(10_000))))
    await cancel(road, ids["1"])

    await follow_endings(road.driver, {})
    cancelled = await road.counts()
    await follow(road)

    assert cancelled == {"cancelled": 10_000}
    assert (await road.job(ids["10000"])).errors[0].message.startswith("its parent 9999, ")


async def test_links_are_followed_by_an_index_whatever_the_statistics_say(road: Road) -> None:
    """Of all jobs that wait, and of all links, only those are read that the endings name."""
    await start(road, diamond())
    await road.driver.execute("ANALYZE jobs, job_parents")  # tables of a few rows are what misleads a planner
    await road.driver.execute("SET enable_seqscan = off")  # as the relay does

    parameters: dict[str, tuple[object, ...]] = {
        follow_module._TAKE: (500,),
        follow_module._CANCEL_CHILDREN: ([new_id()],),
        follow_module._SATISFY: ([new_id()], [True]),
        follow_module._DEATHS: ([new_id()], [1]),
    }
    for statement, given in parameters.items():
        plan = "\n".join(row[0] for row in await road.driver.fetch(f"EXPLAIN {statement}", *given))
        assert "Seq Scan" not in plan, plan
        assert "jobs_children" not in plan, plan
