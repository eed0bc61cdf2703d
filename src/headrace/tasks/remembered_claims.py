"""Claims without Redis: those of one process, by its clock.

Owns a table in memory with the meaning of `headrace.tasks.claims`, for a test or a bus within one process. They are
gone with the process, as those in Redis may be at any time. Never share one between processes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from headrace.clock import now
from headrace.tasks.claims import Busy, ClaimStore, Holder, Standing


class _Held(msgspec.Struct, frozen=True):
    holder: Holder
    done: bool
    until: datetime


class RememberedClaims(ClaimStore):
    """Claims in memory; `now` of `headrace.clock` tells when one is over."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    async def take(self, key: str, holder: Holder, seconds: float) -> Standing | Busy:
        """Take a claim."""
        held = self._standing(key)
        if held is not None and held.done:
            return Standing.DONE
        if held is not None and (held.holder.job_id != holder.job_id or held.holder.fence >= holder.fence):
            return Busy((held.until - now()).total_seconds())
        self._held[key] = _Held(holder, done=False, until=now() + timedelta(seconds=seconds))
        return Standing.MINE

    async def finish(self, key: str, holder: Holder, seconds: float) -> None:
        """Say that the effect was made."""
        held = self._standing(key)
        if held is None or held.holder == holder:
            self._held[key] = _Held(holder, done=True, until=now() + timedelta(seconds=seconds))

    async def let_go(self, key: str, holder: Holder) -> None:
        """Give a claim back."""
        held = self._standing(key)
        if held is not None and held.holder == holder and not held.done:
            del self._held[key]

    def forget(self) -> None:
        """Lose every claim, as an emptied Redis does."""
        self._held.clear()

    def _standing(self, key: str) -> _Held | None:
        held = self._held.get(key)
        return held if held is not None and held.until > now() else None
