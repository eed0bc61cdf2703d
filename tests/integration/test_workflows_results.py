"""A child works with what its parents returned, and a batch is followed by a job that sees how all of it ended."""

from __future__ import annotations

import msgspec
import pytest

from headrace.database.states import JobState
from headrace.diagnostics import echo, sleep
from headrace.errors import InvalidInputError
from headrace.jobs.call import Call, Options
from headrace.jobs.cancel import cancel_job
from headrace.jobs.follow import follow_endings
from headrace.jobs.queries import Job
from headrace.jobs.workflow import Batch, Workflow, chain
from headrace.transaction import Transaction
from tests import trial
from tests.road import Road, rolled_back, running
from tests.workflows import end, follow, start


async def batch(road: Road, *calls: Call, then: Call) -> Batch:
    """Enqueue a batch with a job that follows, in a transaction of its own."""
    async with road.transaction() as tx:
        made: Batch = await tx.enqueue_batch(calls, then=then)
    return made


def result_of(job: Job) -> object:
    """Return the result of a job that has succeeded."""
    assert job.state is JobState.SUCCEEDED, job.errors
    return msgspec.json.decode(job.result)


async def test_child_reads_the_results_of_its_parents(road: Road) -> None:
    """Each by its name in the workflow, of any JSON type, and all of them at once."""
    workflow = (
        Workflow()
        .add("sum", trial.add.call(1, 2))
        .add("list", echo.call([1, None]))
        .add("null", sleep.call(0))
        .add("doubled", trial.double.call("sum"), after=["sum"])
        .add("all", trial.parents.call(), after=["sum", "list", "null", "doubled"])
    )

    async with running(road):
        ids = await start(road, workflow)
        found = result_of(await road.finished(ids["all"]))

    assert found == {
        "results": {"sum": 3, "list": [1, None], "null": result_of(await road.job(ids["null"])), "doubled": 6},
        "states": dict.fromkeys(["sum", "list", "null", "doubled"], "succeeded"),
    }


@pytest.mark.parametrize(
    ("parent", "message"),
    [("9", "has no parent 9"), ("1", "the result of the parent 1 does not fit: Expected `int`, got `str`")],
)
async def test_child_is_dead_when_it_asks_for_a_result_that_is_not_there(road: Road, parent: str, message: str) -> None:
    """No further attempt would find it."""
    async with running(road):
        ids = await start(road, chain(echo.call("text"), trial.double.call(parent)))
        job = await road.finished(ids["2"])

    assert (job.state, job.attempt) == (JobState.DEAD, 1)
    assert message in job.errors[0].message


async def test_job_without_parents_finds_none(road: Road) -> None:
    """Nothing is refused: there is nothing."""
    async with running(road):
        (job_id,) = await road.enqueue(trial.parents.call())

        assert result_of(await road.finished(job_id)) == {"results": {}, "states": {}}


async def test_chain_hands_on_its_results(road: Road) -> None:
    """The links of a chain are called by their places."""
    async with running(road):
        ids = await start(road, chain(trial.add.call(1, 1), trial.double.call("1"), trial.double.call("2")))

        assert result_of(await road.finished(ids["3"])) == 8


async def test_batch_is_followed_when_all_have_finished_whatever_their_end(road: Road) -> None:
    """Success, death, expiry and cancellation all count; the results are of those that succeeded."""
    in_time, late = Options(delay_seconds=3600), Options(delay_seconds=3600)
    async with running(road):
        made = await batch(
            road,
            trial.add.call(1, 2),
            trial.fail.call("permanent"),
            echo.options(in_time).call(1),
            echo.options(late).call(2),
            then=trial.parents.call(),
        )
        await road.finished(made.ids[0])
        await road.finished(made.ids[1])
        waiting = (await road.job(made.then_id)).state
        async with road.transaction() as tx:
            await cancel_job(tx, made.ids[2])
        await road.driver.execute("UPDATE jobs SET expires_at = now() WHERE id = $1", made.ids[3])
        then = await road.finished(made.then_id)

    assert waiting is JobState.SCHEDULED
    assert then.parent_id == made.ids[0]
    assert result_of(then) == {
        "results": {"0": 3},
        "states": {"0": "succeeded", "1": "dead", "2": "cancelled", "3": "expired"},
    }


async def test_batch_is_followed_once_when_one_of_it_is_tried_again(road: Road) -> None:
    """A dead job has finished; should it succeed later, the job that followed does not run twice."""
    made = await batch(road, echo.call(1), then=echo.call(2))
    await end(road, made.ids[0], JobState.DEAD)
    await follow(road)
    await end(road, made.then_id, JobState.SUCCEEDED)

    await road.driver.execute("UPDATE jobs SET state = 'pending' WHERE id = $1", made.ids[0])
    await end(road, made.ids[0], JobState.SUCCEEDED)
    await follow(road)

    job = await road.job(made.then_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


async def test_batch_of_none_is_followed_at_once(road: Road) -> None:
    """Who fans out over a list need not ask whether it is empty."""
    made = await batch(road, then=echo.call(1))

    job = await road.job(made.then_id)
    assert (made.ids, job.state, job.parent_id) == ([], JobState.PENDING, None)


async def test_following_ten_thousand_is_cheap(road: Road) -> None:
    """The ends of a large batch are followed some hundreds at a time: the child's row is written once for each time."""
    made = await batch(road, *(echo.call(number) for number in range(10_000)), then=echo.call(1))
    for state in ("queued", "running", "succeeded"):
        await road.driver.execute(
            "UPDATE jobs SET state = CAST($1::text AS job_state) WHERE id <> $2", state, made.then_id
        )
    versions = "SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'jobs'"

    passes = 0
    async with road.driver.transaction():
        before = await road.driver.fetchval(versions)
        while await follow_endings(road.driver, {}):
            passes += 1
        written = await road.driver.fetchval(versions) - before

    assert (passes, written) == (20, 20)
    assert (await road.job(made.then_id)).state is JobState.PENDING


async def test_nothing_is_on_record_when_the_transaction_rolls_back(road: Road) -> None:
    """Neither jobs nor links."""
    await rolled_back(road, _start)

    assert await road.counts() == {}
    assert await road.driver.fetchval("SELECT count(*) FROM job_parents") == 0


async def _start(tx: Transaction) -> None:
    await tx.start(chain(echo.call(1), echo.call(2)))
    await tx.enqueue_batch([echo.call(1)], then=echo.call(2))


async def test_workflow_is_refused_when_a_job_of_it_has_a_unique_key(road: Road) -> None:
    """What the key would lead to may be somebody else's job, with other children."""
    keyed = echo.options(Options(unique_key="u")).call(1)

    for wrong in (chain(keyed, echo.call(2)), chain(echo.call(1), keyed)):
        with pytest.raises(InvalidInputError, match="unique key"):
            await start(road, wrong)
    with pytest.raises(InvalidInputError, match=r"jobs\.0\.unique_key"):
        await batch(road, keyed, then=echo.call(2))
    assert await road.counts() == {}
