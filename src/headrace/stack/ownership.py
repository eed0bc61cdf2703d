"""One stack per directory.

Owns the lock on a data directory, and the end of what an earlier stack on it left running when it was killed. A
process belongs to a directory by `HEADRACE_STACK_DIR` in its environment, which children inherit; the embedded servers
also by their arguments, because the environment of another account's process is not always readable. Never end a
process that does not belong to this directory, and never one while somebody else holds the lock.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import structlog

from headrace.errors import ConfigurationError

logger = structlog.get_logger(__name__)

VARIABLE = "HEADRACE_STACK_DIR"
_PATIENCE_SECONDS = 10.0
_SERVERS = {"postgres": signal.SIGINT, "valkey-server": signal.SIGTERM}


@contextmanager
def held(data_dir: Path) -> Iterator[Path]:
    """Hold the directory, made where it is missing, until the block or this process ends; give its resolved path.

    Raises:
        ConfigurationError: a stack runs on it.

    """
    directory = data_dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            message = f"`headrace up` runs on {directory} already (process {file.read().strip() or 'unknown'})"
            raise ConfigurationError(message) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield directory


def end_leftovers(directory: Path) -> None:
    """End every process that an earlier stack on this directory left behind. Hold the lock."""
    left = leftovers(directory)
    for process in left:
        _signal(process, _SERVERS.get(process.name(), signal.SIGKILL))
    if left:
        logger.warning("ended_leftovers", directory=str(directory), processes=[process.pid for process in left])
    _, stubborn = psutil.wait_procs(left, timeout=_PATIENCE_SECONDS)
    for process in stubborn:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=_PATIENCE_SECONDS)
    _forget_postmaster(directory / "postgres")


def leftovers(directory: Path) -> list[psutil.Process]:
    """Return the processes of this directory's stack, without the caller and its ancestors."""
    own = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and _belongs(process, directory)]


def _belongs(process: psutil.Process, directory: Path) -> bool:
    try:
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.name() in _SERVERS:
                # not by the environment: PostgreSQL's children have it too, and a signal means something else to them
                return any(str(directory / server) in process.cmdline() for server in ("postgres", "redis"))
            return process.environ().get(VARIABLE) == str(directory)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _forget_postmaster(cluster: Path) -> None:
    """Remove the note of a dead postmaster: PostgreSQL would take whoever has its process id by now for a server."""
    note = cluster / "postmaster.pid"
    if not note.exists():
        return
    pid = int(note.read_text().split(maxsplit=1)[0])
    if not psutil.pid_exists(pid) or psutil.Process(pid).name() != "postgres":
        note.unlink()
