"""Each ending of a job that others wait for is acted upon once, by whoever comes first, at a bounded cost."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg

from headrace.clock import new_id, now
from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs import follow as follow_module
from headrace.jobs.follow import follow_endings
from headrace.jobs.prune import prune_jobs
from headrace.jobs.workflow import Workflow, chain
from tests.road import Road, eventually
from tests.workflows import cancel, diamond, end, follow, start, states

ENDINGS = "SELECT count(*) FROM job_endings"


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
