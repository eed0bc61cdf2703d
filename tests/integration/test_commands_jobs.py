"""`headrace jobs` and `headrace queues` as an operator uses them: what they print, what they change, how they exit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from headrace.database.record import Bell
from headrace.jobs.queries import Job
from headrace.stack import stackfile
from headrace.stack.stackfile import Whereabouts
from tests import trial
from tests.integration.commands import headrace
from tests.road import Road, running


async def test_job_runs_when_it_is_enqueued_and_waited_for(road: Road) -> None:
    """The id is printed, then the result; the exit code is the job's."""
    async with running(road):
        added = await headrace(road, "jobs", "run", "trial.add", "--args", '{"a": 2, "b": 3}', "--tag", "x", "--wait")
        failed = await headrace(road, "jobs", "run", "trial.picky", "--wait", "10")
        shown = await headrace(road, "jobs", "show", added.out.split()[0])
        told = await headrace(road, "jobs", "run", "trial.add", "--args", '{"a": 1}', "--wait", "10", "--json")

    assert (added.code, added.out.splitlines()[1]) == (0, "succeeded: 5"), added.err
    assert (failed.code, failed.out.splitlines()[1]) == (1, "dead: ValueError: not an OSError")
    moves = [line.split()[2] for line in shown.out.splitlines() if line.startswith("20")]
    assert moves == ["pending", "queued", "running", "succeeded"]
    assert "waited " in shown.out
    assert (told.json["state"], told.json["result"]) == ("succeeded", 2)


async def test_time_is_up_when_a_job_does_not_end(road: Road) -> None:
    """Waiting ends with exit code 1; the job stays."""
    ended = await headrace(road, "jobs", "run", "trial.add", "--args", '{"a": 2}', "--wait", "0.1")

    assert ended.code == 1
    assert ended.out.splitlines()[1] == "it is still pending: the time is up"
    assert (await road.job(UUID(ended.out.split()[0]))).state == "pending"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "trial.nothing"), "has the task trial.nothing"),
        (("run", "trial.add", "--args", '{"a": "x"}'), "Expected `int`, got `str`"),
        (("run", "trial.add", "--args", "{"), "--args"),
        (("run", "trial.add", "--args", '{"a": 1}', "--priority", "10"), "--priority"),
        (("show", "nothing"), "not a valid UUID"),
        (("list", "--state", "gone"), "--state"),
        (("list", "--limit", "0"), "--limit"),
        (("retry",), "name at least one of state, task, queue and tag"),
        (("retry", "--state", "running"), "--state"),
        (("cancel", str(UUID(int=7)), "--task", "trial.add"), "not both"),
        (("retry", "--task", "trial.add", "--args", "{}"), "for one job"),
    ],
)
async def test_command_is_refused_when_it_is_not_well_given(road: Road, arguments: tuple[str, ...], said: str) -> None:
    """A usage error is exit code 2 and says what is wrong."""
    ended = await headrace(road, "jobs", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


@pytest.mark.parametrize("verb", ["show", "explain", "retry", "cancel"])
async def test_command_fails_when_there_is_no_such_job(road: Road, verb: str) -> None:
    """An unknown id is one line on standard error, and exit code 1."""
    ended = await headrace(road, "jobs", verb, str(UUID(int=7)))

    assert (ended.code, ended.out, ended.err) == (1, "", f"headrace: there is no job {UUID(int=7)}\n")


async def test_jobs_are_listed_when_they_meet_the_conditions(road: Road) -> None:
    """The same page as the API's as JSON, aligned columns otherwise; a cursor leads on."""
    first, second = await road.enqueue(trial.add.call(1), trial.add.call(2))
    await road.enqueue(trial.fail.call("value"))

    page = (await headrace(road, "jobs", "list", "--task", "trial.add", "--limit", "1", "--json")).json
    cursor = page["next_cursor"]
    rest = (await headrace(road, "jobs", "list", "--task", "trial.add", "--cursor", cursor, "--json")).json
    table = await headrace(road, "jobs", "list", "--state", "pending")

    assert page["items"][0]["id"] == str(second)
    assert page["items"][0].keys() == set(Job.__struct_fields__)
    assert [job["id"] for job in rest["items"]] == [str(first)]
    head, *lines = table.out.splitlines()
    assert [line[head.index("TASK") :].split()[0] for line in lines] == ["trial.fail", "trial.add", "trial.add"]


async def test_many_jobs_are_changed_when_it_is_said_twice(road: Road) -> None:
    """Without `--yes`, and with nobody to ask, nothing is changed; with it all that match are."""
    await road.enqueue(*(trial.add.call(number) for number in range(3)))

    asked = await headrace(road, "jobs", "cancel", "--task", "trial.add")
    between = await road.counts()
    told = await headrace(road, "jobs", "cancel", "--task", "trial.add", "--yes")
    none = await headrace(road, "jobs", "cancel", "--task", "trial.add")
    again = await headrace(road, "jobs", "retry", "--state", "cancelled", "--yes", "--json")

    assert (asked.code, between) == (2, {"pending": 3})
    assert "cancel 3 jobs? Say --yes." in asked.err
    assert (told.code, told.out) == (0, "cancel: 3 jobs\n")
    assert (none.code, none.out) == (0, "cancel: 0 jobs\n")
    assert again.json == {"count": 3}
    assert await road.counts() == {"pending": 3}


async def test_one_job_is_tried_again_when_it_gets_other_arguments(road: Road) -> None:
    """The arguments are checked against the task; a conflict is exit code 1."""
    (job_id,) = await road.enqueue(trial.add.call(1))
    early = await headrace(road, "jobs", "retry", str(job_id))
    cancelled = await headrace(road, "jobs", "cancel", str(job_id))

    wrong = await headrace(road, "jobs", "retry", str(job_id), "--args", '{"c": 1}')
    right = await headrace(road, "jobs", "retry", str(job_id), "--args", '{"a": 7}')

    assert (early.code, len(early.err.splitlines())) == (1, 1)
    assert cancelled.out == f"{job_id} is cancelled\n"
    assert wrong.code == 2
    assert right.out == f"{job_id} is pending\n"
    assert msgspec.json.decode((await road.job(job_id)).args) == {"a": 7, "b": 1}


async def test_workers_hear_of_it_when_a_running_job_is_cancelled(road: Road) -> None:
    """The command does not end before the bell has been rung."""
    (job_id,) = await road.enqueue(trial.add.call(1))
    for state in ("queued", "running"):
        await road.driver.execute("UPDATE jobs SET state = CAST($2::text AS job_state) WHERE id = $1", job_id, state)
    heard = asyncio.Event()
    await road.driver.add_listener(Bell.CANCELS.value, lambda *_: heard.set())

    ended = await headrace(road, "jobs", "cancel", str(job_id))
    async with asyncio.timeout(5):
        await heard.wait()

    assert ended.out == f"{job_id} is running, and is asked to end\n"


async def test_job_explains_itself_when_its_queue_is_paused(road: Road) -> None:
    """Every reason that holds is a line; the forecast says why nothing can be said."""
    (job_id,) = await road.enqueue(trial.add.call(1))
    await road.driver.execute("INSERT INTO queues (name) VALUES ('default') ON CONFLICT DO NOTHING")
    paused = await headrace(road, "queues", "pause", "default")

    told = await headrace(road, "jobs", "explain", str(job_id))
    reasons = (await headrace(road, "jobs", "explain", str(job_id), "--json")).json["reasons"]
    resumed = await headrace(road, "queues", "resume", "default", "--json")

    assert paused.out == "the queue default is paused\n"
    assert told.out.splitlines()[0] == f"{job_id} is pending"
    assert [reason["code"] for reason in reasons] == ["queue_paused", "no_relay", "no_worker"]
    assert told.out.splitlines()[-1] == "place 1 in line; when it starts cannot be said: the queue is paused"
    assert resumed.json["paused"] is False


async def test_limits_are_kept_when_others_are_set(road: Road) -> None:
    """Each limit is set, shown and lifted by itself."""
    first = await headrace(road, "queues", "limits", "mail", "--concurrency", "3", "--rate", "100/60")
    second = await headrace(road, "queues", "limits", "mail", "--rate", "none", "--per-key-concurrency", "2", "--json")
    wrong = await headrace(road, "queues", "limits", "mail", "--rate", "100")
    listed = await headrace(road, "queues")

    assert first.out == "the queue mail: 3 at once, 100 starts in 60 s\n"
    assert second.json["limits"] == {"concurrency": 3, "rate": None, "per_key_concurrency": 2}
    assert wrong.code == 2
    assert "3 at once, 2 at once per key" in listed.out


async def test_stack_is_found_when_no_record_is_named(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a `headrace up` that keeps everything in `.headrace`, a command works on its record."""
    (tmp_path / ".headrace").mkdir()
    where = Whereabouts(api_url="", redis_url="", mail_url="", postgres_url=road.settings.database_url)
    stackfile.write(tmp_path / ".headrace", where)
    monkeypatch.chdir(tmp_path)
    await road.enqueue(trial.add.call(1))

    ended = await headrace(road, "jobs", "list", "--json", HEADRACE_DATABASE_URL="")

    assert len(ended.json["items"]) == 1, ended.err


async def test_command_says_so_when_postgresql_is_away(road: Road) -> None:
    """A record that cannot be reached is one line and exit code 1, without a traceback."""
    ended = await headrace(road, "jobs", "list", HEADRACE_DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")

    assert ended.code == 1
    assert ended.err == "headrace: PostgreSQL does not answer at 127.0.0.1:9: is HEADRACE_DATABASE_URL right?\n"
