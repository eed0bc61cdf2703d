"""Real clocks: `arq workers.cron.WorkerSettings`, killed, starved and brought back."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from headrace.database import migrate
from headrace.stack import postgres as stack_postgres
from headrace.stack import readiness
from headrace.stack import redis as stack_redis
from headrace.stack.ports import free_port
from tests.conftest import MIGRATIONS
from tests.otlp import collector
from tests.servers import PostgresServer, environment, running

pytestmark = [pytest.mark.processes, pytest.mark.slow]

APPLICATION = f"""
from headrace.application import Application
from headrace.jobs.schedule import Misfire, Schedule
from headrace.tasks.contract import task
from headrace.tasks.run import Run

@task("clock.work")
async def work(run: Run, note: str) -> None:
    pass

application = Application(
    name="clock",
    tasks=(work,),
    schedules=(Schedule("clock.second", cron="* * * * * *", call=work.call("tick"), misfire=Misfire.ALL),),
    migrations={MIGRATIONS[0] if MIGRATIONS else None!r},
)
"""
RUNS = "SELECT due_at, fired_at, outcome, job_id FROM schedule_runs ORDER BY due_at"
UNPAIRED = """
    SELECT r.due_at, j.id FROM schedule_runs r FULL JOIN jobs j ON j.id = r.job_id
    WHERE r.job_id IS NULL OR j.id IS NULL
"""
"""Jobs that no ledger row knows, and ledger rows whose job is not there."""
SECOND = timedelta(seconds=1)


class Clock:
    """One clock process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Ask it to end and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)

    def said(self, words: str) -> bool:
        """Tell whether its log has these words."""
        return words in self.log.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Clock]]:
    """Starts clocks, which are killed after the test."""
    (tmp_path / "clock_application.py").write_text(APPLICATION)
    clocks: list[Clock] = []

    def start_one(database_url: str, redis_url: str, more: Mapping[str, str] = MappingProxyType({})) -> Clock:
        log = tmp_path / f"clock{len(clocks)}.log"
        chosen = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(tmp_path),
            "HEADRACE_DATABASE_URL": database_url,
            "HEADRACE_REDIS_URL": redis_url,
            "HEADRACE_APPLICATIONS": "clock_application:application",
            **more,
        }
        command = (sys.executable, "-m", "arq", "workers.cron.WorkerSettings")
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=chosen, cwd=tmp_path, stdout=output, stderr=output)  # noqa: S603 - our own
        clocks.append(Clock(process, log))
        return clocks[-1]

    yield start_one
    for clock in clocks:
        clock.kill()
        print(clock.log.read_text())  # noqa: T201 - pytest shows it where a test fails


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Callable[[str], Awaitable[Sequence[Any]]]]:
    """Give a function that runs a query on the record."""
    connection = await asyncpg.connect(url)
    try:
        yield connection.fetch
    finally:
        await connection.close()


async def wait_for(question: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Wait until the answer is yes, or fail."""
    assert await readiness.until(question, seconds), "it did not happen in time"


async def until_fired(fetch: Callable[[str], Awaitable[Sequence[Any]]], number: int) -> None:
    """Wait until that many due times have a job."""

    async def fired() -> bool:
        (row,) = await fetch("SELECT count(*) FROM schedule_runs WHERE job_id IS NOT NULL")
        return bool(row["count"] >= number)

    await wait_for(fired)


@asynccontextmanager
async def own_redis(directory: Path, port: int) -> AsyncIterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a Redis that a test may kill."""
    server = stack_redis.prepare(directory, port)
    with running(server.program(environment()), directory.with_name("own_redis.log")) as process:
        await wait_for(lambda: readiness.redis_answers(server.url()))
        yield server.url(), process


def assert_one_row_per_second(runs: Sequence[Any]) -> None:
    """Every due time has its row and its job, and no second is missing."""
    times = [run["due_at"] for run in runs]
    assert times == [times[0] + SECOND * n for n in range(len(times))]
    assert len({run["job_id"] for run in runs}) == len(runs)


async def test_each_second_fires_once_when_two_clocks_run(
    database_url: str, redis_url: str, start: Callable[..., Clock]
) -> None:
    """Two clocks, one ledger row and one job per second, half a second late at most as a rule; both are seen alive."""
    first, second = start(database_url, redis_url), start(database_url, redis_url)
    async with connected(database_url) as fetch:
        await until_fired(fetch, 5)
        alive = await fetch("SELECT pid FROM processes WHERE role = 'cron' AND expires_at > now()")

        codes = [first.end(), second.end()]
        runs = await fetch(RUNS)
        unpaired = await fetch(UNPAIRED)
        left = await fetch("SELECT id FROM processes")

    assert_one_row_per_second(runs)
    assert unpaired == []
    assert statistics.median((run["fired_at"] - run["due_at"]).total_seconds() for run in runs) < 0.5
    assert {row["pid"] for row in alive} == {first.process.pid, second.process.pid}
    assert codes == [0, 0]
    assert left == []


async def test_nothing_is_lost_or_doubled_when_both_clocks_are_killed_over_a_tick(
    database_url: str, redis_url: str, start: Callable[..., Clock]
) -> None:
    """The due times that passed with no clock are made up for at the next start: one row and one job each."""
    clocks = [start(database_url, redis_url), start(database_url, redis_url)]
    async with connected(database_url) as fetch:
        await until_fired(fetch, 2)
        for clock in clocks:
            clock.kill()
        before = await fetch(RUNS)
        await wait_for(lambda: _overdue(fetch, 3))

        start(database_url, redis_url)
        await until_fired(fetch, len(before) + 5)
        runs = await fetch(RUNS)
        unpaired = await fetch(UNPAIRED)

    assert_one_row_per_second(runs)
    assert unpaired == []
    assert [run["outcome"] for run in runs].count("caught_up") >= 2


async def test_nothing_is_fired_twice_when_a_stopped_clock_wakes_up(
    database_url: str, redis_url: str, start: Callable[..., Clock]
) -> None:
    """A clock that stood still while another one ticked finds on the ledger what was done."""
    stopped, other = start(database_url, redis_url), start(database_url, redis_url)
    async with connected(database_url) as fetch:
        await until_fired(fetch, 2)
        stopped.process.send_signal(signal.SIGSTOP)
        await until_fired(fetch, len(await fetch(RUNS)) + 4)
        stopped.process.send_signal(signal.SIGCONT)
        other.kill()

        await until_fired(fetch, len(await fetch(RUNS)) + 4)
        runs = await fetch(RUNS)
        unpaired = await fetch(UNPAIRED)

    assert_one_row_per_second(runs)
    assert unpaired == []


async def test_the_tick_goes_on_when_redis_is_emptied_again_and_again(
    database_url: str, tmp_path: Path, start: Callable[..., Clock]
) -> None:
    """FLUSHALL may take away what ARQ had put there at any moment: within five seconds it ticks again, by itself."""
    async with own_redis(tmp_path / "belt", free_port()) as (redis_url, _):
        clock = start(database_url, redis_url)
        async with connected(database_url) as fetch, redis.asyncio.Redis.from_url(redis_url) as client:
            await until_fired(fetch, 2)
            for number in range(3, 8):
                await client.flushall()
                await until_fired(fetch, number)
            runs = await fetch(RUNS)

        assert clock.process.poll() is None

    assert_one_row_per_second(runs)
    assert max(later["fired_at"] - run["fired_at"] for run, later in itertools.pairwise(runs)) < SECOND * 5


async def test_the_clock_goes_on_when_redis_dies_and_comes_back(
    database_url: str, tmp_path: Path, start: Callable[..., Clock]
) -> None:
    """Without Redis the second hand ticks; when Redis is back, so does ARQ; the process is the same all the time."""
    port = free_port()
    async with own_redis(tmp_path / "belt", port) as (redis_url, server):
        clock = start(database_url, redis_url)
        async with connected(database_url) as fetch:
            await until_fired(fetch, 2)
            server.kill()
            server.wait()
            seen = len(await fetch(RUNS))
            await until_fired(fetch, seen + 5)
            assert clock.said('"step":"arq"')

            async with own_redis(tmp_path / "belt", port):
                await wait_for(lambda: _answer(clock.said("step_recovered")))
                seen = len(await fetch(RUNS))
                await until_fired(fetch, seen + 3)
                code = clock.end()
            runs = await fetch(RUNS)

    assert_one_row_per_second(runs)
    assert max(run["fired_at"] - run["due_at"] for run in runs) < SECOND * 5
    assert code == 0


async def test_the_clock_goes_on_when_the_memory_of_redis_is_full(
    database_url: str, tmp_path: Path, start: Callable[..., Clock]
) -> None:
    """ARQ cannot write its ticks then: the second hand ticks, and the process stays."""
    async with own_redis(tmp_path / "belt", free_port()) as (redis_url, _):
        clock = start(database_url, redis_url)
        async with connected(database_url) as fetch, redis.asyncio.Redis.from_url(redis_url) as client:
            await until_fired(fetch, 2)
            await client.config_set("maxmemory", 1)
            await until_fired(fetch, len(await fetch(RUNS)) + 3)
            await client.config_set("maxmemory", 0)
            await until_fired(fetch, len(await fetch(RUNS)) + 1)
            runs = await fetch(RUNS)

        assert clock.process.poll() is None

    assert_one_row_per_second(runs)


async def test_the_clock_ends_in_time_when_redis_is_away(
    database_url: str, tmp_path: Path, start: Callable[..., Clock]
) -> None:
    """ARQ's farewell to Redis does not keep the process."""
    async with own_redis(tmp_path / "belt", free_port()) as (redis_url, server):
        clock = start(database_url, redis_url)
        async with connected(database_url) as fetch:
            await until_fired(fetch, 2)
        server.kill()
        server.wait()

        clock.end()  # fails after fifteen seconds


async def test_the_clock_waits_when_redis_is_not_there_yet(
    database_url: str, tmp_path: Path, start: Callable[..., Clock]
) -> None:
    """The order in which the processes of a host start does not matter."""
    port = free_port()
    clock = start(database_url, f"redis://127.0.0.1:{port}/0")
    await wait_for(lambda: _answer(clock.said("redis connection error")))

    async with own_redis(tmp_path / "belt", port), connected(database_url) as fetch:
        await until_fired(fetch, 2)


async def test_each_fire_is_a_trace_linked_to_the_one_before_when_the_clock_is_traced(
    database_url: str, redis_url: str, start: Callable[..., Clock]
) -> None:
    """A root per fire, with the enqueued job below it; ticks that find nothing due leave no span."""
    with collector() as eyes:
        clock = start(database_url, redis_url, eyes.environment)
        async with connected(database_url) as fetch:
            await until_fired(fetch, 3)
            clock.end()
            traces = {row["trace_id"] for row in await fetch("SELECT trace_id FROM jobs")}
        spans = eyes.spans

    fires = [span for span in spans if span.name == "process cron.clock.second"]
    sends = [span for span in spans if span.name == "send tasks.default"]
    assert len(fires) + len(sends) == len(spans)
    assert {span.service for span in spans} == {"headrace-cron"}
    assert all((fire.kind, fire.parent_id) == ("CONSUMER", "") for fire in fires)
    assert {send.parent_id for send in sends} == {fire.span_id for fire in fires}
    assert {fire.trace_id for fire in fires} == traces
    assert [fire.links[0][0] for fire in fires[1:]] == [fire.trace_id for fire in fires[:-1]]


async def test_the_clock_refuses_to_run_when_the_schema_does_not_fit(
    postgres_server: PostgresServer, redis_url: str, start: Callable[..., Clock]
) -> None:
    """It ends at once, and says which command mends it."""
    empty = await postgres_server.create("clock_without_schema")

    clock = start(empty, redis_url)

    assert clock.process.wait(timeout=20) != 0
    assert clock.said("headrace migrate")
    await postgres_server.drop("clock_without_schema")


def test_no_store_is_needed_when_the_settings_are_imported(tmp_path: Path) -> None:
    """ARQ's command line imports first; what it finds has opened nothing."""
    nowhere = {"HEADRACE_DATABASE_URL": "postgresql://nowhere:1/x", "HEADRACE_REDIS_URL": "redis://nowhere:1/0"}
    command = (sys.executable, "-c", "import workers.cron; print(workers.cron.WorkerSettings.queue_name)")

    done = subprocess.run(  # noqa: S603 - our own
        command, env={"PATH": os.environ["PATH"], **nowhere}, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("headrace:{arq:abort}:clock\n", "")


async def test_every_second_is_made_up_for_when_postgresql_was_away(
    tmp_path: Path, redis_url: str, start: Callable[..., Clock]
) -> None:
    """The clock waits for PostgreSQL and goes on in the same process; no due time is missing."""
    cluster = stack_postgres.prepare(tmp_path / "cluster", free_port())
    program = cluster.program(environment(), stack_postgres.FOR_TESTS)
    with running(program, tmp_path / "postgres.log") as server:
        await wait_for(lambda: readiness.postgres_answers(cluster.url()))
        await asyncio.to_thread(migrate.upgrade, cluster.url(), MIGRATIONS)
        clock = start(cluster.url(), redis_url)
        async with connected(cluster.url()) as fetch:
            await until_fired(fetch, 2)
        server.send_signal(signal.SIGQUIT)  # at once, without a checkpoint
        server.wait()
        await wait_for(lambda: _answer(clock.said("step_failing")))

    with running(program, tmp_path / "postgres.log"):
        await wait_for(lambda: readiness.postgres_answers(cluster.url()))
        async with connected(cluster.url()) as fetch:
            seen = len(await fetch(RUNS))
            await until_fired(fetch, seen + 4)
            runs = await fetch(RUNS)

        assert clock.process.poll() is None
        clock.kill()

    assert_one_row_per_second(runs)


async def _overdue(fetch: Callable[[str], Awaitable[Sequence[Any]]], seconds: int) -> bool:
    (row,) = await fetch(f"SELECT next_due_at < now() - interval '{seconds} seconds' AS overdue FROM schedules")  # noqa: S608 - our own number
    return bool(row["overdue"])


async def _answer(answer: object) -> bool:
    await asyncio.sleep(0)
    return bool(answer)
