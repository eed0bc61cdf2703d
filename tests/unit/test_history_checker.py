"""The history checker finds what it is there to find."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import msgspec
import pytest

from headrace.database.states import JobState
from tests.history import Accepted, Attempt, Began, History, Recorded, Wrong, check

SUCCEEDS = frozenset({JobState.SUCCEEDED})
JOB = UUID(int=1)
ACCEPTED = Accepted(JOB, SUCCEEDS, "effect")
DONE = Recorded(
    JOB,
    JobState.SUCCEEDED,
    attempt=3,
    fence=4,
    starts=3,
    attempts=(Attempt(1, 1, "lost"), Attempt(2, 3, "failed")),
)
SOUND = History(
    accepted=[ACCEPTED],
    began=[Began(JOB, 1, 1), Began(JOB, 2, 3), Began(JOB, 3, 4)],
    outside=[str(JOB), str(JOB)],
    effects=["effect"],
    jobs={JOB: DONE},
)


def with_job(job: Recorded) -> History:
    """Return the sound history with another end of its job."""
    return msgspec.structs.replace(SOUND, jobs={JOB: job})


def wrongs(history: History) -> list[Wrong]:
    """Return what is wrong with a history."""
    return [fault.wrong for fault in check(history).faults]


def test_nothing_is_wrong_when_every_attempt_and_effect_is_on_record() -> None:
    """A worker lost, a failure, a success; the effect once, and a repeat outside that is only counted."""
    verdict = check(SOUND)

    assert verdict.faults == ()
    assert (verdict.accepted, verdict.states) == (1, {JobState.SUCCEEDED: 1})
    assert (verdict.attempts, verdict.lost_attempts, verdict.duplicates_outside) == (3, 1, 1)


def test_job_is_lost_when_the_record_does_not_know_it() -> None:
    """Accepted and gone; its effect then belongs to nobody."""
    history = msgspec.structs.replace(SOUND, jobs={}, effects=[])

    assert wrongs(history) == [Wrong.LOST]


@pytest.mark.parametrize("state", [JobState.SCHEDULED, JobState.PENDING, JobState.QUEUED, JobState.RUNNING])
def test_job_is_lost_when_it_never_ends(state: JobState) -> None:
    """Everybody has gone home and it still waits."""
    started = int(state is JobState.RUNNING)
    stuck = Recorded(JOB, state, attempt=started, fence=started, starts=started)
    history = History(accepted=[ACCEPTED], began=[], outside=[], effects=[], jobs={JOB: stuck})

    assert wrongs(history) == [Wrong.LOST]


def test_job_is_lost_when_it_succeeded_without_its_effect() -> None:
    """An outcome that committed apart from the session."""
    history = msgspec.structs.replace(SOUND, effects=[])

    assert wrongs(history) == [Wrong.LOST]


def test_effect_is_there_twice_when_two_attempts_committed() -> None:
    """A zombie's session that was not refused."""
    history = msgspec.structs.replace(SOUND, effects=["effect", "effect"])

    assert wrongs(history) == [Wrong.TWICE]


def test_effect_is_a_stray_when_its_job_did_not_succeed() -> None:
    """A failed attempt whose session committed all the same."""
    dead = msgspec.structs.replace(DONE, state=JobState.DEAD, attempts=(*DONE.attempts, Attempt(3, 4, "lost")))

    assert wrongs(with_job(dead)) == [Wrong.STRAY]


def test_effect_is_a_stray_when_nobody_asked_for_it() -> None:
    """A job that was enqueued twice for one acknowledgement."""
    history = msgspec.structs.replace(SOUND, effects=["effect", "another"])

    assert wrongs(history) == [Wrong.STRAY]


@pytest.mark.parametrize("missing", [0, 1])
def test_attempt_is_unrecorded_when_its_row_is_missing(missing: int) -> None:
    """Without the row of attempt 1 or 2 there is a gap, whatever the number of starts says."""
    kept = tuple(attempt for n, attempt in enumerate(DONE.attempts) if n != missing)

    assert Wrong.UNRECORDED in wrongs(with_job(msgspec.structs.replace(DONE, attempts=kept)))


def test_attempt_is_unrecorded_when_a_task_began_what_the_record_never_started() -> None:
    """A run without a claim."""
    history = msgspec.structs.replace(SOUND, began=[*SOUND.began, Began(JOB, 2, 2)])

    assert wrongs(history) == [Wrong.UNRECORDED]


def test_attempt_is_unrecorded_when_a_dead_job_lacks_its_last_one() -> None:
    """The reason of its death is what an operator needs first."""
    dead = Recorded(JOB, JobState.DEAD, attempt=2, fence=2, starts=2, attempts=(Attempt(1, 1, "failed"),))
    history = History(accepted=[ACCEPTED], began=[], outside=[], effects=[], jobs={JOB: dead})

    assert Wrong.UNRECORDED in wrongs(history)


def test_attempt_is_invented_when_the_record_has_more_than_it_started() -> None:
    """An attempt that was written down twice, by the rescue and by its worker."""
    twice = (*DONE.attempts, Attempt(2, 2, "failed"))

    assert wrongs(with_job(msgspec.structs.replace(DONE, attempts=twice))) == [Wrong.INVENTED]


def test_run_that_was_handed_back_is_counted_and_no_fault() -> None:
    """A shutdown burns no attempt and leaves no row: the record knows it as a start."""
    handed_back = msgspec.structs.replace(DONE, starts=4)
    history = msgspec.structs.replace(with_job(handed_back), began=[*SOUND.began, Began(JOB, 2, 2)])

    verdict = check(history)

    assert verdict.faults == ()
    assert verdict.handed_back == 1


def test_refunded_attempt_leaves_its_number_to_the_next() -> None:
    """PostgreSQL went away under attempt 2: its row and that of the next one have one number, and two fences."""
    refunded = msgspec.structs.replace(
        DONE, attempt=2, starts=3, attempts=(Attempt(1, 1, "lost"), Attempt(2, 3, "failed"))
    )

    assert wrongs(with_job(refunded)) == []


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [((Attempt(1, 1, "failed"),), [Wrong.ENDED_OTHERWISE]), ((Attempt(1, 1, "lost"),), []), ((), [])],
)
def test_death_needs_a_reason_when_the_job_should_have_succeeded(
    attempts: Iterable[Attempt], expected: list[Wrong]
) -> None:
    """A lost worker is one; an error that the task does not raise is none. A cancelled job never died."""
    rows = tuple(attempts)
    state = JobState.DEAD if rows else JobState.CANCELLED
    ended = Recorded(JOB, state, attempt=len(rows), fence=1, starts=len(rows), attempts=rows)
    accepted = Accepted(JOB, frozenset({JobState.SUCCEEDED, JobState.CANCELLED}))
    history = History(accepted=[accepted], began=[], outside=[], effects=[], jobs={JOB: ended})

    verdict = check(history)

    assert [fault.wrong for fault in verdict.faults] == expected
    assert verdict.quarantined == verdict.innocent == (bool(rows) and not expected)
