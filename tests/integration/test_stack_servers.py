"""The embedded servers, and the fixtures that are made of them."""

from __future__ import annotations

import asyncio
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio

from headrace.errors import ConfigurationError
from headrace.stack import postgres, readiness
from headrace.stack import redis as belt
from headrace.stack.ports import free_port
from tests.servers import environment, running, running_postgres, running_redis


async def query(url: str, statement: str) -> object:
    """Run a statement on a connection of its own and return its first value."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def postgres_server_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded PostgreSQL, whatever server the other tests use."""
    with running_postgres(tmp_path_factory.mktemp("ours") / "cluster") as server:
        yield server.url_of("postgres")


async def test_database_is_migrated_and_empty_when_a_test_asks_for_one(database_url: str) -> None:
    """A test gets a database of its own with every table and no job."""
    jobs = await query(database_url, "SELECT count(*) FROM jobs")
    await query(database_url, "CREATE TABLE left_behind ()")

    assert jobs == 0


async def test_database_is_another_one_when_the_next_test_asks(database_url: str) -> None:
    """What one test did to its database is not seen by the next."""
    left_behind = await query(database_url, "SELECT to_regclass('left_behind')")

    assert left_behind is None


async def test_redis_is_empty_when_a_test_asks_for_one(redis_url: str) -> None:
    """A test gets an empty Redis database, of a server that evicts nothing."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        keys = await client.dbsize()
        policy = await client.config_get("maxmemory-policy")

    assert keys == 0
    assert policy == {"maxmemory-policy": "noeviction"}


def test_postgres_keeps_its_rows_when_it_is_restarted(tmp_path: Path) -> None:
    """What was committed is there after an orderly restart on another port, with durability on."""
    with running_postgres(tmp_path / "cluster", settings={}) as server:
        asyncio.run(query(server.url_of("postgres"), "CREATE TABLE kept AS SELECT 7 AS value"))

    with running_postgres(tmp_path / "cluster", settings={}) as server:
        value = asyncio.run(query(server.url_of("postgres"), "SELECT value FROM kept"))
        durability = asyncio.run(
            query(server.url_of("postgres"), "SELECT current_setting('fsync') || current_setting('synchronous_commit')")
        )

    assert value == 7
    assert durability == "onon"


def test_postgres_keeps_its_rows_when_it_is_killed(tmp_path: Path) -> None:
    """What was committed is there after SIGKILL of the server."""
    cluster = postgres.prepare(tmp_path / "cluster", free_port())
    program = cluster.program(environment())
    with running(program, tmp_path / "postgres.log") as process:
        assert asyncio.run(readiness.until(lambda: readiness.postgres_answers(cluster.url()), 20))
        asyncio.run(query(cluster.url(), "CREATE TABLE kept AS SELECT 7 AS value"))
        process.send_signal(signal.SIGKILL)
        process.wait()

    with running_postgres(tmp_path / "cluster", settings={}) as server:
        value = asyncio.run(query(server.url_of("postgres"), "SELECT value FROM kept"))

    assert value == 7


def test_redis_keeps_its_keys_when_it_is_restarted(tmp_path: Path) -> None:
    """What was written is there after an orderly restart."""
    with running_redis(tmp_path / "belt") as server, redis.Redis.from_url(server.url_of(0)) as client:
        client.set("kept", "7")

    with running_redis(tmp_path / "belt") as server, redis.Redis.from_url(server.url_of(0)) as client:
        value = client.get("kept")

    assert value == b"7"


def test_postgres_changes_no_mode_outside_when_it_runs_below_a_private_directory(tmp_path: Path) -> None:
    """In a directory that only its owner may enter it runs, for root as another account, and leaves all modes alone."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    cluster = postgres.prepare(private / "cluster", free_port())
    parents = [*cluster.directory.parents]
    modes = [path.stat().st_mode for path in parents]

    with running(cluster.program(environment(), postgres.FOR_TESTS), tmp_path / "log") as process:
        answered = asyncio.run(readiness.until(lambda: readiness.postgres_answers(cluster.url()), 20))
        uid = psutil.Process(process.pid).uids().effective

    assert answered
    assert uid != 0
    assert [path.stat().st_mode for path in parents] == modes
    assert stat.S_IMODE(cluster.directory.stat().st_mode) == 0o700


def test_postgres_runs_when_its_binaries_lie_in_a_private_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual environment in root's own home serves too, although PostgreSQL runs as another account there."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    installed = postgres.binaries().parents[1]
    for part in (f"{installed.name}.libs", f"{installed.name}/pginstall18"):
        shutil.copytree(installed.parent / part, private / part, ignore=shutil.ignore_patterns("include"))
    (private / installed.name / "__init__.py").touch()
    monkeypatch.syspath_prepend(private)

    with running_postgres(tmp_path / "cluster") as server:
        answered = asyncio.run(readiness.postgres_answers(server.url_of("postgres")))

    assert postgres.binaries().is_relative_to(private)
    assert answered


async def test_postgres_refuses_when_the_password_is_wrong(postgres_server_of_ours: str) -> None:
    """Another user of the machine, who can reach the port, is not the superuser of the database."""
    url = postgres_server_of_ours.replace("postgres:", "postgres:not", 1)

    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url)


def test_prepare_refuses_when_the_cluster_is_of_another_version(tmp_path: Path) -> None:
    """A cluster of another PostgreSQL is not touched, and the message says what to do."""
    cluster = tmp_path / "cluster"
    postgres.prepare(cluster, free_port())
    (cluster / "PG_VERSION").write_text("16\n")

    with pytest.raises(ConfigurationError, match=r"PostgreSQL 16.*dump and restore"):
        postgres.prepare(cluster, free_port())


def test_prepare_begins_anew_when_an_earlier_one_was_killed(tmp_path: Path) -> None:
    """What a killed first start left is not taken for a cluster."""
    unfinished = tmp_path / "cluster.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")

    made = postgres.prepare(tmp_path / "cluster", free_port())

    assert (made.directory / "global").is_dir()
    assert not unfinished.exists()


def test_servers_listen_on_loopback_only_when_they_run(tmp_path: Path) -> None:
    """Neither server can be reached from another machine, nor leaves a socket file."""
    cluster, server = postgres.prepare(tmp_path / "p", free_port()), belt.prepare(tmp_path / "r", free_port())

    with (
        running(cluster.program(environment(), postgres.FOR_TESTS), tmp_path / "p.log") as first,
        running(server.program(environment()), tmp_path / "r.log") as second,
    ):
        assert asyncio.run(readiness.until(lambda: readiness.postgres_answers(cluster.url()), 20))
        assert asyncio.run(readiness.until(lambda: readiness.redis_answers(server.url()), 20))
        sockets = [each for process in (first, second) for each in psutil.Process(process.pid).net_connections("all")]

    listening = {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
