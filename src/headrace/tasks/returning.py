"""When a job whose task this worker does not know may be offered to workers again.

Owns the pace of giving back. While two versions of the code work side by side, a job of the newer one may come to a
worker of the older one any number of times. It gives the job back at once; and so that it is not busy with that alone,
each job stays away for longer each time it comes, and all of them together come no faster than a bound. Never give up
such a job here: the next deploy may know it.
"""

from __future__ import annotations

import time
from typing import Final

from headrace.jobs.model import Claim

_FIRST_SECONDS: Final = 0.1
_GROWTH: Final = 1.3
_LONGEST_SECONDS: Final = 5.0
_MOST_PER_SECOND: Final = 50.0


class Returning:
    """Says how long a job stays away from workers; one for each worker."""

    def __init__(self) -> None:
        self._next_at = 0.0

    def delay_seconds(self, claim: Claim) -> float:
        """Return for how long a job that came here in vain stays away."""
        now = time.monotonic()
        returns = min(max(0, claim.fence - claim.attempt), 100)
        self._next_at = min(max(self._next_at, now) + 1 / _MOST_PER_SECOND, now + _LONGEST_SECONDS)
        return max(self._next_at - now, min(_LONGEST_SECONDS, _FIRST_SECONDS * _GROWTH**returns))
