"""A watch on the event loop: a task that blocks it for over a second is named.

Owns a thread that looks ten times a second whether the loop still turns, and nothing else while it does. A block is
told at once, while it lasts: a log line and an event on the span of the run, with the stack of the blocked thread;
how long it took is put on record when it is over. A process that was paused as a whole, or got no CPU, is not
accused. Never take the loop's word for it: it says nothing while it is blocked.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from typing import Final
from uuid import UUID

import msgspec
import structlog

from headrace.database.record import Record
from headrace.jobs.blocked import Block, record_block
from headrace.loops import Pace
from headrace.tasks.attempt import Attempt
from headrace.tasks.execution import Execution
from headrace.telemetry import names

logger = structlog.get_logger(__name__)

WATCH_PACE: Final = Pace(interval_seconds=0.1, last_backoff_seconds=5.0)
_LOOK_SECONDS: Final = 0.1
_BLOCKED_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 0.5
"""A look that comes so late is itself a sign that the process was paused, or that C code holds the interpreter."""
_MAX_STACK: Final = 8_000


class LoopWatch:
    """Watches the loop that starts it, on which `execution` runs attempts."""

    def __init__(self, execution: Execution, record: Record) -> None:
        self._execution = execution
        self._record = record
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop-watch", daemon=True)
        self._beaten_at = 0.0
        self._watched = 0
        self._begun_at = 0.0
        """When the block began that lasts now; 0 without one."""
        self._block = Block("", None, 0.0, "")
        self._over: list[Block] = []
        self._wanted = asyncio.Event()

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._ended.set()
        self._beating.cancel()

    async def record_once(self) -> None:
        """Wait until a block is over, then put it on record."""
        await self._wanted.wait()
        while self._over:
            await record_block(self._record, self._over[0])
            del self._over[0]
        self._wanted.clear()

    def _beat(self) -> None:
        self._beaten_at = time.monotonic()
        self._beating = self._loop.call_later(_LOOK_SECONDS, self._beat)

    def _watch(self) -> None:
        looked_at, used = time.monotonic(), time.process_time()
        while not self._ended.wait(_LOOK_SECONDS):
            before, used_before = looked_at, used
            looked_at, used = time.monotonic(), time.process_time()
            late = looked_at - before - _LOOK_SECONDS
            if late < _LATE_SECONDS or used - used_before > late / 2:
                self._look(looked_at)

    def _look(self, now: float) -> None:
        beaten_at = self._beaten_at
        if self._begun_at and beaten_at != self._begun_at:
            seconds = beaten_at - self._begun_at
            self._begun_at = 0.0
            self._loop.call_soon_threadsafe(self._end, msgspec.structs.replace(self._block, seconds=seconds))
        elif not self._begun_at and now - beaten_at >= _BLOCKED_SECONDS:
            self._begun_at = beaten_at
            self._block = self._name(now - beaten_at)

    def _name(self, seconds: float) -> Block:
        attempt = self._culprit()
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - how the standard library offers it
        stack = "".join(traceback.format_stack(frame))[-_MAX_STACK:]
        task: str = attempt.claim.task if attempt else ""
        job_id: UUID | None = attempt.claim.job_id if attempt else None
        trace_id = None
        if attempt is not None and attempt.scope is not None:
            trace_id = attempt.scope.trace_id
            attempt.scope.event(names.LOOP_BLOCKED, {names.BLOCKED_SECONDS: seconds, names.STACKTRACE: stack})
        logger.warning(
            "loop_blocked", task=task, job_id=str(job_id), seconds=round(seconds, 3), trace_id=trace_id, stack=stack
        )
        return Block(task, job_id, seconds, stack)

    def _culprit(self) -> Attempt | None:
        """Return the attempt whose task is on the loop: itself, or the only one that can have started what is."""
        current = asyncio.current_task(self._loop)
        return None if current is None else self._execution.attempt_of(current)

    def _end(self, block: Block) -> None:
        self._over.append(block)
        self._wanted.set()
