"""A child process of a worker: `python -m headrace.tasks.child <descriptor>`.

Owns the running of plain functions where the worker wants them killed when their time is up, and where a CPU kept busy
must not hold up anything else. One attempt at a time comes over the socket that the worker has opened. SIGTERM raises
`InterruptedRunError` wherever the function is, so that `finally` runs; whoever does not end in time is killed. A child
never outlives its worker: the kernel kills it, or, where the kernel cannot, a thread that watches the socket.
Never open the record here: what must commit with the outcome belongs into a coroutine or a thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn, cast

import msgspec

from headrace.errors import ConfigurationError
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.settings import Settings
from headrace.tasks.child_messages import LENGTH, Begin, Ended, Progressed, Ready, begin_of, framed
from headrace.tasks.contract import Task
from headrace.tasks.outcome import failed, returned, wished
from headrace.tasks.sync_run import InterruptedRunError, SyncRun
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.propagation import parse
from headrace.telemetry.scope import passing, staying
from headrace.telemetry.setup import configure

_PR_SET_PDEATHSIG: Final = 1
_RAISED: Final = (Exception, asyncio.CancelledError, SystemExit, BaseExceptionGroup)


class ProcessRun(SyncRun):
    """One attempt of a job, as a function in a process of its own sees it."""

    def __init__(self, claim: Claim, worker: socket.socket) -> None:
        super().__init__(claim)
        self._worker = worker
        self._telling = threading.Lock()

    @property
    def interrupted(self) -> bool:
        """False: an interruption is raised where the function is."""
        return False

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell how far this run is; see `Run.progress`."""
        with self._telling:
            self._worker.sendall(framed(Progressed(done, total, note)))


def main() -> None:
    """Serve the worker until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's; the worker decides
    signal.signal(signal.SIGTERM, _interrupt)
    worker = socket.socket(fileno=int(sys.argv[1]))
    _end_with(worker, int(sys.argv[2]))
    configure_logging(Settings.from_environment(os.environ), "worker")
    telemetry = configure("worker")
    try:
        worker.sendall(framed(Ready()))
        while (received := _receive(worker)) is not None:
            begin = begin_of(received)
            worker.sendall(framed(Ended(_run(begin, ProcessRun(begin.claim, worker)))))
    except (InterruptedRunError, ConnectionError):
        sys.stdout.flush()
        os._exit(0)  # the function has cleaned up, and whoever cancels waits: not for a collector too
    telemetry.shutdown()


def _run(begin: Begin, run: ProcessRun) -> Outcome:
    context = parse(begin.traceparent)
    retry = Retry()
    with staying() if context is None else passing(context):
        try:
            task = _task_of(begin)
            args = task.decoder.decode(begin.claim.args)
            policy = task.policy_for(args).with_overrides(begin.claim.overrides)
            retry = policy.retry
            function = cast("Callable[..., object]", task.function)
            value = function(run, **msgspec.structs.asdict(args))
        except (Snooze, Cancel) as wish:
            return wished(begin.claim, wish)
        except _RAISED as error:  # failure table: whatever a task raises is an outcome on record
            return failed(begin.claim, error, retry)
        return returned(begin.claim, value, stored=policy.result)


def _task_of(begin: Begin) -> Task[Any, Any]:
    for declared in vars(importlib.import_module(begin.module)).values():
        if isinstance(declared, Task) and declared.name == begin.task:
            return declared
    message = f"the module {begin.module} has no task {begin.task}: declare it at the top of its module"
    raise ConfigurationError(message)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    message = "the run is over"
    raise InterruptedRunError(message)


def _receive(worker: socket.socket) -> bytes | None:
    length = _receive_exactly(worker, LENGTH)
    return None if length is None else _receive_exactly(worker, int.from_bytes(length))


def _receive_exactly(worker: socket.socket, count: int) -> bytes | None:
    received = b""
    while len(received) < count:
        part = worker.recv(count - len(received))
        if not part:
            return None
        received += part
    return received


def _end_with(worker: socket.socket, worker_pid: int) -> None:
    """Make sure that this process does not outlive the worker."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != worker_pid:  # it died before the kernel was asked
        os._exit(1)
    threading.Thread(target=_exit_at_hangup, args=(worker.fileno(),), name="hangup", daemon=True).start()


def _exit_at_hangup(descriptor: int) -> None:
    watched = select.poll()
    watched.register(descriptor, select.POLLHUP)
    watched.poll()
    os._exit(1)


if __name__ == "__main__":
    main()
