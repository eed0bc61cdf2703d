"""When a job is taken for what kills its workers.

Owns the words of a quarantine. A worker that died, or lost its lease, while it ran a job is a loss of that job; losses
are counted on its row, apart from attempts that failed. At the last one that its task allows the job is dead, and it
stays so until a person has tried it again, which counts from nought. A shutdown is no loss, and a snooze forgets those
before it. Never decide by the attempts alone: a job with many of them would kill as many workers.
"""

from __future__ import annotations

from typing import Final

LOST: Final = "lost"
"""The outcome, on record, of an attempt of which nobody knows how it ended."""

QUARANTINED: Final = "Quarantined"
"""The type of the last loss that a job is allowed."""

WHY_QUARANTINED: Final = (
    "workers died or lost their lease while they ran this job, as many as its task allows: find out what it does to "
    "its process (memory, a crash in native code, a machine that stops), mend that, then retry the job"
)
"""What the record says of a quarantined job, after the number of its losses."""
