"""`headrace up` as an operator meets it: it starts, survives kills, keeps what it was given, leaves nothing behind."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from headrace.stack.account import Account
from tests.stacks import Stack, eventually, lives, running_stack

NAMES = {"postgres", "redis", "api", "relay", "worker", "consume", "cron"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack, shared by the tests that leave it healthy."""
    with running_stack(tmp_path_factory.mktemp("up") / "stack") as running:
        yield running


def echo(stack: Stack, value: str) -> dict[str, object]:
    """Run a job to its end and return it."""
    with stack.client() as client:
        created = client.post("/v1/jobs", json={"task": "diagnostics.echo", "args": {"value": value}})
        assert created.status_code == 202, created.text
        job: dict[str, object] = client.get(f"/v1/jobs/{created.json()['id']}", params={"wait_seconds": 20}).json()
    assert job["state"] == "succeeded", (job, stack.told())
    return job


def read_job(stack: Stack, identity: object) -> object:
    """Return a job as the API shows it."""
    with stack.client() as client:
        return client.get(f"/v1/jobs/{identity}").json()


def test_line_names_everything_when_the_stack_is_ready(stack: Stack) -> None:
    """One line has the URLs and the key, and by then every part is alive and a job runs."""
    where = stack.where

    job = echo(stack, "hello")
    docs = httpx.get(f"{where.api_url}/docs")
    mail = httpx.get(where.mail_url)

    assert job["result"] == "hello"
    assert all(part in stack.line for part in (where.api_url, where.mail_url, "/docs", stack.key))
    assert (docs.status_code, mail.status_code) == (200, 200)
    assert set(where.processes) == NAMES
    assert {path.stem for path in (stack.directory / "logs").iterdir()} >= NAMES


def test_stack_file_names_the_processes_that_work_when_it_is_read(stack: Stack) -> None:
    """The worker is not Taskiq's own parent process, and every process runs what it is named for."""
    processes = {name: psutil.Process(pid) for name, pid in stack.where.processes.items()}

    commands = {name: " ".join(process.cmdline()) for name, process in processes.items()}

    assert processes["worker"].parent() is not None
    assert "workers.tasks:broker" in " ".join(psutil.Process(processes["worker"].ppid()).cmdline())
    assert "postgres" in commands["postgres"]
    assert "valkey-server" in commands["redis"]
    assert all(name in commands[name] for name in ("api", "relay", "consume", "cron"))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_process_is_restarted_when_it_was_killed(stack: Stack, name: str) -> None:
    """A killed process has a successor, named in stack.json; soon the whole is healthy and runs jobs again."""
    killed = stack.where.processes[name]

    os.kill(killed, signal.SIGKILL)

    eventually(lambda: stack.where.processes.get(name, killed) != killed, within_seconds=15, told=stack.told)
    eventually(stack.is_healthy, within_seconds=20, told=stack.told)
    assert lives(stack.where.processes[name])
    assert echo(stack, name)["result"] == name


def test_second_up_is_refused_when_one_runs(stack: Stack) -> None:
    """Two stacks on one directory would spoil each other: the second says so, at once, and touches nothing."""
    command = (sys.executable, "-m", "headrace.cli", "up", "--port", "0", "--data-dir", str(stack.directory))

    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - our own command

    assert refused.returncode != 0
    assert "already" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert stack.is_healthy()


def test_port_is_refused_when_it_is_taken(stack: Stack, tmp_path: Path) -> None:
    """A port on which somebody listens is named, with what to do."""
    port = stack.where.api_url.rpartition(":")[2]
    command = (sys.executable, "-m", "headrace.cli", "up", "--port", port, "--data-dir", str(tmp_path / "other"))

    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - our own command

    assert refused.returncode != 0
    assert f"port {port} is taken" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_everything_is_kept_when_the_stack_is_restarted(tmp_path: Path) -> None:
    """After an orderly end the key, the URLs and the jobs are the same; it has exit code 0 and leaves no process."""
    with running_stack(tmp_path / "stack") as stack:
        first, key, job = stack.where, stack.key, echo(stack, "kept")

        code = stack.stop(signal.SIGINT)
        left = [name for name, pid in first.processes.items() if lives(pid)]
        seconds = stack.start()
        second, again = stack.where, read_job(stack, job["id"])

    assert (code, left) == (0, [])
    assert seconds < 15
    assert (second.api_url, second.redis_url, second.postgres_url) == (
        first.api_url,
        first.redis_url,
        first.postgres_url,
    )
    assert (stack.key, again) == (key, job)


def test_stack_starts_again_when_its_supervisor_was_killed(tmp_path: Path) -> None:
    """SIGKILL of `up` leaves nothing that blocks the next, which finds everything that was accepted."""
    with running_stack(tmp_path / "stack") as stack:
        first, job = stack.where, echo(stack, "kept")

        stack.stop(signal.SIGKILL)
        stack.start()
        again, healthy = read_job(stack, job["id"]), stack.is_healthy()
        left = [name for name, pid in first.processes.items() if lives(pid)]
        code = stack.stop()

    assert again == job
    assert left == []
    assert healthy
    assert code == 0


def test_given_stores_are_used_when_the_operator_names_them(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """With both stores named there is no embedded one, neither running nor on disk, and jobs run on the named ones."""
    environment = {"HEADRACE_DATABASE_URL": database_url, "HEADRACE_REDIS_URL": redis_url, "HEADRACE_API_KEY": "chosen"}
    with running_stack(tmp_path / "stack", environment=environment) as stack:
        job, where = echo(stack, "elsewhere"), stack.where

    assert job["result"] == "elsewhere"
    assert (where.postgres_url, where.redis_url, stack.key) == (database_url, redis_url, "chosen")
    assert set(where.processes) == NAMES - {"postgres", "redis"}
    assert not (tmp_path / "stack" / "postgres").exists()


def test_stack_runs_when_an_ordinary_user_starts_it() -> None:
    """Nothing needs root. Where the tests run as root, an account without rights starts the stack."""
    account = ordinary_account()
    directory = Path(tempfile.mkdtemp(prefix="headrace-"))
    if account is not None:
        os.chown(directory, account.uid, account.gid)
    try:
        with running_stack(directory / "stack", account=account) as stack:
            users = {psutil.Process(pid).uids().effective for pid in stack.where.processes.values()}
            job = echo(stack, "ordinary")
    finally:
        shutil.rmtree(directory)

    assert users == {account.uid if account else os.geteuid()}
    assert job["result"] == "ordinary"


def ordinary_account() -> Account | None:
    """Return the account of an ordinary user, who may pass to this interpreter wherever it lies, or `None` for ours."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(uid=nobody.pw_uid, gid=nobody.pw_gid, reach=True)
