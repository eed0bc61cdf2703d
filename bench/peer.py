"""The peers: what Headrace is compared with, and how each of them works off a backlog.

Owns the table of peers: their commands, how many jobs they get, and by what their finished jobs are counted. Each runs
in an environment of its own, from two small programs in `peers/<name>`: `app.py`, what its worker runs, and `fill.py`,
which puts the backlog there. All of them use the Redis, or the PostgreSQL, that Headrace is measured on. Counting asks
for one number that the server has at hand: watching must not cost what is watched.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import msgspec
import psutil
from redis.asyncio import Redis

from bench.backlog import Drained, watch
from bench.stage import Meter, Stage, connected
from headrace.stack.program import Program

PEERS = Path(__file__).with_name("peers")
_SUCCEEDED = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
_CELERY = ("--app", "app", "worker", "--loglevel", "WARNING", "--without-gossip", "--without-mingle")


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """How a peer is run, and what is expected of Headrace beside it."""

    name: str
    command: tuple[str, ...]
    """A program of its environment with arguments; `{workers}` stands for the number of worker processes."""
    least: float
    """How many times its rate Headrace should reach."""
    directory: str = ""
    """Where its programs are, under `peers`; as its name says by default."""
    forks: bool = True
    """Whether its command starts more than one worker process; else the command is started that often."""
    share: float = 1.0
    """The share of the jobs that it gets: a slow one would take minutes."""
    environment: dict[str, str] = {}
    done: str = ""
    """A sorted set that has one member for each finished job."""
    left: str = ""
    """A sorted set that has one member for each job that is left."""
    left_hash: str = ""
    """A hash that has one field for each job that is left."""
    on_record: bool = False
    """Whether its jobs are in PostgreSQL. Where nothing is said, a job is finished when its result is in Redis."""

    @property
    def place(self) -> Path:
        """The directory of its programs and its requirements."""
        return PEERS / (self.directory or self.name)


ALL = (
    Peer(
        name="taskiq",
        command=("taskiq", "worker", "--workers", "{workers}", "--max-async-tasks", "100",
                 "--log-level", "WARNING", "--no-parse", "app:broker"),
        least=3,
    ),
    Peer(
        name="saq",
        command=("saq", "app.settings", "--workers", "{workers}"),
        least=2,
        left="saq:peer:incomplete",
    ),
    Peer(
        name="streaq",
        command=("streaq", "run", "--workers", "{workers}", "app:worker"),
        least=2,
        share=0.5,
        done="streaq:peer:index:results",
    ),
    Peer(name="arq", command=("arq", "app.WorkerSettings"), least=2, forks=False, left="arq:queue"),
    Peer(
        name="celery",
        command=("celery", *_CELERY, "--without-heartbeat", "--pool", "solo"),
        least=4,
        forks=False,
        share=0.3,
    ),
    Peer(
        name="procrastinate",
        command=("procrastinate", "--app", "app.app", "--log-level", "warning", "worker", "--concurrency", "20"),
        least=6,
        forks=False,
        share=0.3,
        on_record=True,
    ),
    Peer(name="dramatiq", command=("dramatiq", "app", "--processes", "{workers}", "--threads", "32"), least=1),
    Peer(
        name="dramatiq, no results",
        directory="dramatiq",
        command=("dramatiq", "app", "--processes", "{workers}", "--threads", "32"),
        least=1,
        environment={"BENCH_NO_RESULTS": "1"},
        left_hash="dramatiq:default.msgs",
    ),
)  # fmt: skip


async def drain_peer(stage: Stage, peer: Peer, *, python: Path, jobs: int, workers: int) -> Drained:
    """Put a backlog where a peer finds it, start its workers, and wait for the last result."""
    counted = max(1, int(jobs * peer.share))
    async with _stores(stage, peer) as (environment, finished):
        await run_to_end(python, "fill.py", str(counted), environment=environment, place=peer.place)
        with ExitStack() as stack:
            command = tuple(part.format(workers=workers) for part in peer.command)
            running = {
                f"worker {number}": stack.enter_context(
                    _running(stage, peer, (str(python.with_name(command[0])), *command[1:]), environment)
                )
                for number in range(1 if peer.forks else workers)
            }
            meter = Meter(**running, postgres=stage.postgres, redis=stage.redis)
            return await watch(lambda: finished(counted), counted, meter)


@contextmanager
def _running(
    stage: Stage, peer: Peer, command: tuple[str, ...], environment: Mapping[str, str]
) -> Iterator[psutil.Process]:
    """Run a worker; nothing of it is needed after the last result, so it is killed with all that it has started."""
    program = Program(
        name=peer.name,
        command=command,
        environment=environment,
        working_directory=peer.place,
        stop_signal=signal.SIGKILL,
    )
    with stage.program(program) as process:
        try:
            yield process
        finally:
            for child in process.children(recursive=True):
                child.kill()


@asynccontextmanager
async def _stores(stage: Stage, peer: Peer) -> AsyncIterator[tuple[Mapping[str, str], Callable[[int], Awaitable[int]]]]:
    """Lend a peer empty stores: yield the environment that names them, and what counts finished jobs of so many."""
    server = stage.redis_url.rpartition("/")[0]
    async with (
        aclosing(Redis.from_url(f"{server}/1")) as redis,
        aclosing(Redis.from_url(f"{server}/2")) as results,
        _database(stage) as (url, database),
    ):
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": str(peer.place),
            "BENCH_REDIS_URL": f"{server}/1",
            "BENCH_RESULTS_URL": f"{server}/2",
            "BENCH_DATABASE_URL": url,
            **peer.environment,
        }

        async def finished(jobs: int) -> int:
            if peer.on_record:
                return int(await database.fetchval(_SUCCEEDED))
            if peer.left or peer.left_hash:
                return jobs - int(await (redis.zcard(peer.left) if peer.left else redis.hlen(peer.left_hash)))
            return int(await (redis.zcard(peer.done) if peer.done else results.dbsize()))

        yield environment, finished
        await redis.flushdb()
        await results.flushdb()


@asynccontextmanager
async def _database(stage: Stage) -> AsyncIterator[tuple[str, asyncpg.Connection[asyncpg.Record]]]:
    """Lend an empty database of the same server, and a connection to it."""
    url = stage.database_url.rpartition("/")[0] + "/peer"
    async with connected(stage) as connection:
        await connection.execute("CREATE DATABASE peer")
        try:
            async with connected(stage, url) as database:
                yield url, database
        finally:
            await connection.execute("DROP DATABASE peer WITH (FORCE)")


async def run_to_end(python: Path, *arguments: str, environment: Mapping[str, str], place: Path) -> None:
    """Run a program of a peer and wait for its end."""
    process = await asyncio.create_subprocess_exec(str(python), *arguments, env=dict(environment), cwd=place)
    assert await process.wait() == 0, f"{place.name}: {arguments[0]} failed"
