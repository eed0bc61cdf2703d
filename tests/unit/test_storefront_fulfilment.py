"""How far an effect is, derived from the record and the jobs."""

from __future__ import annotations

import pytest

from headrace.database.states import JobState
from storefront.fulfilment import Progress, derive


@pytest.mark.parametrize(
    ("jobs", "progress"),
    [
        ([], Progress.PENDING),
        ([JobState.PENDING], Progress.PENDING),
        ([JobState.RETRYING], Progress.PENDING),
        ([JobState.RUNNING], Progress.PENDING),
        ([JobState.DEAD], Progress.FAILED),
        ([JobState.CANCELLED], Progress.FAILED),
        ([JobState.EXPIRED], Progress.FAILED),
        ([JobState.DEAD, JobState.QUEUED], Progress.PENDING),
        ([JobState.DEAD, JobState.SUCCEEDED], Progress.FAILED),
        ([JobState.SUCCEEDED], Progress.PENDING),
    ],
)
def test_progress_follows_the_jobs_when_there_is_no_effect(jobs: list[JobState], progress: Progress) -> None:
    """An effect has failed only when nothing is left that would bring it about."""
    assert derive(jobs, on_record=False) is progress


def test_effect_is_ready_when_it_is_on_record() -> None:
    """What is on record is done, whatever became of other jobs."""
    assert derive([JobState.DEAD], on_record=True) is Progress.READY
