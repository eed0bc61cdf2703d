"""The decision about an attempt."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from headrace.clock import new_id
from headrace.database.states import JobState
from headrace.jobs.claim import Claimed
from headrace.jobs.model import Claim, Outcome
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.tasks.outcome import (
    MAX_RESULT_BYTES,
    cancelled,
    failed,
    handed_back,
    lost,
    rejected,
    returned,
    succeeded,
    unknown_here,
    wished,
)
from headrace.tasks.returning import Returning
from tests.trial import ERRORS

TRACE = "0af7651916cd43dd8448eb211c80319c"


def claim(*, attempt: int = 1, max_attempts: int = 3, fence: int = 7) -> Claim:
    """Return a claim of some job."""
    return Claim(
        job_id=new_id(),
        fence=fence,
        attempt=attempt,
        max_attempts=max_attempts,
        task="trial.add",
        queue="default",
        args="{}",
        traceparent=f"00-{TRACE}-b7ad6b7169203331-00",
        created_at=datetime.now(UTC),
    )


def rejection_of(outcome: Outcome) -> str:
    """Return why an outcome was rejected."""
    assert outcome.state is JobState.DEAD
    assert outcome.failure is not None
    assert outcome.failure.outcome == "rejected"
    return outcome.failure.message


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, "null"),
        ({"a": [1, 2]}, '{"a":[1,2]}'),
        (float("nan"), "null"),
        ("a text about \\u0000", '"a text about \\\\u0000"'),
        ("grüße 🌊", '"grüße 🌊"'),
    ],
)
def test_succeeded_when_the_value_is_json(value: object, stored: str) -> None:
    """What is JSON is the job's result, backslashes before `u0000` included."""
    outcome = succeeded(claim(), value)

    assert (outcome.state, outcome.result) == (JobState.SUCCEEDED, stored)


@pytest.mark.parametrize("value", ["a\x00b", "\\\x00", {"key": ["\x00"]}, {"\x00": 1}])
def test_rejected_when_a_result_holds_nul(value: object) -> None:
    """PostgreSQL stores no NUL: the job is dead with that reason and spoils no batch."""
    assert "NUL" in rejection_of(succeeded(claim(), value))


def nested(depth: int) -> object:
    """Return a list in a list in a list."""
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [object(), "\ud800", nested(20_000), {object(): 1}])
def test_rejected_when_a_result_is_no_json(value: object) -> None:
    """A result that cannot be written is a dead job with the reason, not a retry: the effects have happened."""
    assert "the result cannot be written as JSON" in rejection_of(succeeded(claim(), value))


def test_rejected_when_a_result_is_too_large() -> None:
    """A result over the limit is refused with both numbers."""
    message = rejection_of(succeeded(claim(), "x" * MAX_RESULT_BYTES))

    assert str(MAX_RESULT_BYTES) in message
    assert str(MAX_RESULT_BYTES + 2) in message


def test_failed_is_tried_again_when_attempts_are_left() -> None:
    """A failure with attempts left waits for its delay and keeps the error."""
    outcome = failed(claim(attempt=2), ValueError("as asked"), Retry(first_delay_seconds=1.0))

    assert outcome.state is JobState.RETRYING
    assert outcome.delay_seconds is not None
    assert 0 <= outcome.delay_seconds <= 2.0
    assert outcome.failure is not None
    assert (outcome.failure.type, outcome.failure.message) == ("ValueError", "as asked")


@pytest.mark.parametrize(("attempt", "retry"), [(3, Retry()), (1, Retry(on=(OSError,)))])
def test_failed_is_dead_when_no_attempt_is_left_or_the_policy_refuses(attempt: int, retry: Retry) -> None:
    """The last attempt, or an error that the policy does not name, ends the job."""
    outcome = failed(claim(attempt=attempt), ValueError("as asked"), retry)

    assert outcome.state is JobState.DEAD


def test_failed_is_tried_again_when_the_record_was_at_fault() -> None:
    """A restart of PostgreSQL is not deadly, not even in the last attempt, which is not counted."""
    outcome = failed(claim(attempt=3), ValueError(), Retry(on=(OSError,)), not_its_fault=True)

    assert outcome.state is JobState.RETRYING
    assert outcome.refund


def test_failed_is_counted_when_the_record_was_at_fault_again_and_again() -> None:
    """A task that crashes PostgreSQL itself must come to an end."""
    first, last = (
        failed(claim(fence=40, attempt=attempt), ValueError(), Retry(on=(OSError,)), not_its_fault=True)
        for attempt in (1, 3)
    )

    assert (first.state, first.refund) == (JobState.RETRYING, False)
    assert (last.state, last.refund) == (JobState.DEAD, False)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_failure_is_storable_when_the_error_is_odd(name: str) -> None:
    """Whatever is raised, its record is text that PostgreSQL can store, of bounded length."""
    outcome = failed(claim(), ERRORS[name](), Retry())

    assert outcome.failure is not None
    encoded = msgspec.json.encode(outcome.failure)
    assert b"\\u0000" not in encoded
    assert len(encoded) < 64_000


def test_failure_keeps_the_head_of_the_message_and_the_tail_of_the_traceback_when_long() -> None:
    """A message says at its beginning what it is about, a traceback at its end."""
    outcome = failed(claim(), ValueError("begin" + "x" * 50_000 + "end"), Retry())

    assert outcome.failure is not None
    assert outcome.failure.message.startswith("begin")
    assert outcome.failure.traceback.rstrip().endswith("end")
    assert len(outcome.failure.message) == len(outcome.failure.traceback) == 16_000


def test_failure_names_the_trace_of_the_job_outside_any_span() -> None:
    """The error leads to a trace."""
    outcome = failed(claim(), ValueError(), Retry())

    assert outcome.failure is not None
    assert outcome.failure.trace_id == TRACE


def test_rejected_keeps_its_reason_when_the_error_is_long() -> None:
    """The reason stands first."""
    outcome = rejected(claim(), ValueError("x" * 50_000), "the arguments do not fit")

    assert rejection_of(outcome).startswith("the arguments do not fit: x")


def test_handed_back_and_unknown_burn_no_attempt() -> None:
    """A shutdown, or a worker of an older version, costs the job nothing."""
    assert handed_back(claim()).refund
    assert unknown_here(claim(), 1.0).refund
    assert handed_back(claim()).delay_seconds is None
    assert handed_back(claim()).failure is None


def test_cancelled_is_on_record_when_a_run_was_cancelled() -> None:
    """A cancelled run says so among the job's errors."""
    outcome = cancelled(claim(), ValueError("what the task made of it"))

    assert outcome.state is JobState.CANCELLED
    assert outcome.failure is not None
    assert (outcome.failure.outcome, outcome.failure.message) == ("cancelled", "cancelled on request")


@pytest.mark.parametrize(("attempt", "state"), [(1, JobState.PENDING), (3, JobState.DEAD)])
def test_lost_counts_the_attempt_when_a_run_is_unaccounted_for(attempt: int, state: JobState) -> None:
    """A run that nobody knows any more is counted, so that a poisonous job comes to an end."""
    claimed = Claimed(new_id(), 1, attempt, 3, TRACE, cancel_requested=False, long_ago=True)

    outcome = lost(claimed)

    assert (outcome.state, outcome.refund) == (state, False)
    assert outcome.failure is not None
    assert outcome.failure.outcome == "lost"


def test_lost_is_quarantined_when_it_was_the_last_loss_that_the_task_allows() -> None:
    """A job that kills its workers is dead although it has attempts left, and its error says what to do."""
    claimed = Claimed(new_id(), 3, 3, 10, TRACE, cancel_requested=False, long_ago=True, lost=2)

    outcome = lost(claimed)
    allowed = lost(msgspec.structs.replace(claimed, max_losses=4))

    assert (outcome.state, allowed.state) == (JobState.DEAD, JobState.PENDING)
    assert outcome.failure is not None
    assert (outcome.failure.outcome, outcome.failure.type) == ("lost", "Quarantined")
    assert outcome.failure.message.startswith("3 workers died")
    assert "then retry the job" in outcome.failure.message


def test_snooze_waits_and_costs_no_attempt() -> None:
    """What a task wishes is no failure: nothing is among its errors."""
    outcome = returned(claim(), Snooze(30))

    assert (outcome.state, outcome.delay_seconds, outcome.refund) == (JobState.SCHEDULED, 30.0, True)
    assert (outcome.result, outcome.failure) == (None, None)


def test_cancel_ends_the_job_with_its_reason() -> None:
    """The reason is on record as the attempt's, in a text that PostgreSQL stores."""
    outcome = wished(claim(), Cancel("the order\x00is gone"))

    assert outcome.state is JobState.CANCELLED
    assert outcome.failure is not None
    assert (outcome.failure.outcome, outcome.failure.type) == ("cancelled", "Cancel")
    assert outcome.failure.message == "the order\N{SYMBOL FOR NULL}is gone"
    assert outcome.failure.traceback == ""


@pytest.mark.parametrize("value", [{"a": 1}, object(), "x" * MAX_RESULT_BYTES])
def test_result_is_not_looked_at_when_the_task_stores_none(value: object) -> None:
    """What nobody keeps may be anything."""
    outcome = returned(claim(), value, stored=False)

    assert (outcome.state, outcome.result, outcome.failure) == (JobState.SUCCEEDED, None, None)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e12])
def test_snooze_is_refused_when_its_time_is_none(seconds: float) -> None:
    """The mistake is told where it is made."""
    with pytest.raises(ValueError, match="snoozed"):
        Snooze(seconds)


def test_returning_jobs_stay_away_for_longer_each_time_and_come_back_apart() -> None:
    """One job is offered again within a moment, a crowd of them fifty a second, each within seconds."""
    returning = Returning()

    first = returning.delay_seconds(claim(fence=1))
    crowd = [returning.delay_seconds(claim(fence=1)) for _ in range(500)]
    known = Returning().delay_seconds(claim(fence=30))

    assert first == pytest.approx(0.1)
    assert 4.0 < max(crowd) <= 5.001
    assert known == pytest.approx(5.0)


def test_timeout_says_so_when_its_error_says_nothing() -> None:
    """An empty message helps nobody."""
    outcome = failed(claim(), TimeoutError(), Retry(), timed_out=True)
    own = failed(claim(), TimeoutError("killed after 3 s"), Retry(), timed_out=True)

    assert outcome.failure is not None
    assert own.failure is not None
    assert outcome.failure.message == "the attempt took longer than its timeout allows"
    assert own.failure.message == "killed after 3 s"
