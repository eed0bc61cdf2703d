"""Counts handled messages, and notes when the counting was warm and when it was over.

Owns the clock of one consumer process, the same for Headrace, for FastStream and for the bare loop; it needs nothing
but Python. `BENCH_TALLY` names the file that gets both moments, of the monotonic clock, which all processes of a
machine share, and the processor time between them; `BENCH_EVENTS` says how many messages there are.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

WARM = 0.1
"""The share of the messages that is handled before the clock runs."""


class Tally:
    """Counts to the number of messages."""

    def __init__(self) -> None:
        self._path = os.environ.get("BENCH_TALLY")
        self._total = int(os.environ.get("BENCH_EVENTS", "0"))
        self._counted = 0
        self._warm_at = 0.0
        self._used = 0.0

    def __call__(self, handled: int = 1) -> None:
        """Count so many more."""
        self._counted += handled
        if self._warm_at == 0.0:
            if self._counted >= WARM * self._total:
                self._warm_at, self._used = time.monotonic(), time.process_time()
        elif self._counted >= self._total and self._path:
            used = time.process_time() - self._used
            Path(f"{self._path}.part").write_text(f"{self._warm_at} {time.monotonic()} {used}")
            Path(f"{self._path}.part").rename(self._path)
            self._path = None
