"""`headrace check`: jobs of one version of an application, read by another one."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.application import Application
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.registry import event
from headrace.jobs.check import Findings, check_jobs
from headrace.subscribers.checkpoints import register
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.tasks.contract import task
from headrace.tasks.run import Run
from headrace.transaction import transaction

ROOT = Path(__file__).parents[2]

HEAD = """
    import msgspec
    from headrace.application import Application
    from headrace.events.registry import event
    from headrace.subscribers.contract import subscriber
    from headrace.subscribers.delivery import Delivery
    from headrace.tasks.contract import task
    from headrace.tasks.run import Run

    @task("shop.greet")
    async def greet(run: Run, name: str) -> str:
        return name
"""
SAME = """
    @task("shop.count")
    async def count(run: Run, to: int) -> int:
        return to

    application = Application(name="shop", tasks=[greet, count])
"""
ALIAS = """
    @task("shop.tally", aliases=("shop.count",))
    async def tally(run: Run, to: int) -> int:
        return to

    application = Application(name="shop", tasks=[greet, tally])
"""
RENAMED = """
    application = Application(name="shop", tasks=[greet])
"""
RETYPED = """
    @task("shop.count")
    async def count(run: Run, to: str) -> str:
        return to

    application = Application(name="shop", tasks=[greet, count])
"""
REACTING = """
    @event("shop.customer.joined", subject="name")
    class Joined(msgspec.Struct, frozen=True):
        name: {kind}

    @subscriber("shop.welcome", Joined)
    async def welcome(delivery: Delivery, joined: Joined) -> None:
        pass

    application = Application(name="shop", tasks=[greet], events=[Joined], subscriptions=[welcome])
"""


@task("shop.greet")
async def greet(run: Run, name: str) -> str:
    """Greet."""
    del run
    return name


@task("shop.count")
async def count(run: Run, to: int) -> int:
    """Count."""
    del run
    return to


@event("shop.customer.joined", subject="name")
class Joined(msgspec.Struct, frozen=True):
    """Somebody joined."""

    name: str


@subscriber("shop.welcome", Joined)
async def welcome(delivery: Delivery, joined: Joined) -> None:
    """Welcome."""
    del delivery, joined


FIRST = Application(name="shop", tasks=(greet, count), events=(Joined,), subscriptions=(welcome,))
"""The version that has made what is on record."""


async def check(database_url: str, directory: Path, version: str, *arguments: str) -> tuple[int, str]:
    """Run `headrace check` with a version of the application; return its exit code and what it printed."""
    (directory / "shop.py").write_text(textwrap.dedent(HEAD) + textwrap.dedent(version))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace.cli", "check", *arguments),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{directory}",
            "HEADRACE_DATABASE_URL": database_url,
            "HEADRACE_APPLICATIONS": "shop:application",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, out.decode()


async def findings(database_url: str, directory: Path, version: str) -> tuple[int, list[dict[str, Any]]]:
    """Run `headrace check --json` and return its exit code and what it found."""
    code, out = await check(database_url, directory, version, "--json")
    report = msgspec.json.decode(out)
    assert report["ok"] is (code == 0)
    return code, report["findings"]


async def put(record: Record) -> dict[str, str]:
    """Put unfinished and finished jobs on record; return the unfinished ones' ids by task."""
    async with transaction(record) as tx:
        ids = await tx.enqueue_calls([greet.call("Ada"), count.call(3)])
        (finished,) = await tx.enqueue_calls([count.call(4)])
    async with borrowed(record.engine) as driver:
        await driver.execute("UPDATE jobs SET state = 'cancelled', finished_at = now() WHERE id = $1", finished)
    return {"shop.greet": str(ids[0]), "shop.count": str(ids[1])}


@pytest.mark.parametrize("version", [SAME, ALIAS])
async def test_check_is_content_when_every_job_can_be_read(
    record: Record, database_url: str, tmp_path: Path, version: str
) -> None:
    """The same tasks, or one renamed with its old name as an alias: exit code 0."""
    await put(record)

    code, out = await check(database_url, tmp_path, version)

    assert (code, out) == (
        0,
        "ok: this code can read them all: 2 unfinished jobs, 0 stored schedules, 0 events under way, 0 event types\n",
    )


async def test_check_names_the_task_when_it_is_gone(record: Record, database_url: str, tmp_path: Path) -> None:
    """A task renamed without an alias: its unfinished jobs, and no others, with their number and examples."""
    ids = await put(record)

    code, found = await findings(database_url, tmp_path, RENAMED)

    assert code == 1
    assert found == [
        {
            "kind": "job",
            "name": "shop.count",
            "code": "unknown_task",
            "message": "no application of this code has this task, by its name or as an alias",
            "count": 1,
            "examples": [ids["shop.count"]],
        }
    ]


async def test_check_names_the_argument_when_its_type_has_changed(
    record: Record, database_url: str, tmp_path: Path
) -> None:
    """Arguments that no longer decode: the field and what is wrong with it, for a person too."""
    ids = await put(record)

    code, out = await check(database_url, tmp_path, RETYPED)

    assert code == 1
    assert re.split(" {2,}", out.splitlines()[-1].strip()) == [
        *("1", "job", "shop.count", "unreadable_arguments", "Expected `str`, got `int` - at `$.to`"),
        ids["shop.count"],
    ]


async def test_check_names_the_schedule_when_its_task_is_gone(
    record: Record, database_url: str, tmp_path: Path
) -> None:
    """A schedule made at run time calls a task that this code does not have."""
    async with borrowed(record.engine) as driver:
        await driver.execute("""
            INSERT INTO schedules (name, cron, task, args, origin) VALUES
                ('nightly', '0 3 * * *', 'shop.count', '{"to": 3}', 'api'),
                ('hourly', '0 * * * *', 'shop.greet', '{"name": 1}', 'api'),
                ('daily', '0 4 * * *', 'shop.greet', '{"name": "Ada"}', 'api')
        """)

    code, found = await findings(database_url, tmp_path, RENAMED)

    assert code == 1
    assert [(one["kind"], one["name"], one["code"], one["examples"]) for one in found] == [
        ("schedule", "shop.count", "unknown_task", ["nightly"]),
        ("schedule", "shop.greet", "unreadable_arguments", ["hourly"]),
    ]


@pytest.mark.parametrize(
    ("version", "codes"),
    [
        (REACTING.format(kind="str"), []),
        (REACTING.format(kind="int"), ["unreadable_event"]),
        (RENAMED, ["unknown_subscription"]),
    ],
)
async def test_check_looks_at_events_when_they_are_not_handled_yet(
    record: Record, database_url: str, tmp_path: Path, version: str, codes: list[str]
) -> None:
    """An accepted event that a subscription has yet to handle is decoded as this code would decode it."""
    await register(record.engine, [welcome])
    async with transaction(record) as tx:
        event_id = await tx.publish(Joined("Ada"))

    _, found = await findings(database_url, tmp_path, version)

    assert [one["code"] for one in found] == codes
    assert all(one["examples"] == [str(event_id)] and one["name"] == "shop.welcome" for one in found)


async def test_memory_stays_the_same_when_many_jobs_are_checked(record: Record) -> None:
    """Jobs are read in portions, and findings keep counts and five examples, however many there are."""
    async with borrowed(record.engine) as driver:
        await driver.execute("""
            INSERT INTO jobs (id, task, args, queue, state, max_attempts, trace_id, traceparent)
            SELECT gen_random_uuid(), 'shop.gone', '{}', 'default', 'pending', 1, '', '' FROM generate_series(1, 5000)
        """)
        async with driver.transaction():
            found = Findings()
            checked = await check_jobs(driver, {}, found)

    (finding,) = found.found()
    assert (checked, finding.count, len(finding.examples)) == (5000, 5000, 5)
