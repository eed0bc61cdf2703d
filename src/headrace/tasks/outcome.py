"""How an attempt ended: the decision, apart from its recording.

Owns the way from what a task returned or raised to an `Outcome`: it is a result, an error, or a wish. Whatever a task
does, this decides something that PostgreSQL can store: a result that is no JSON or too large is a dead job with that
reason, never a broken batch.
"""

from __future__ import annotations

import traceback

import msgspec

from headrace.database.states import JobState
from headrace.jobs.call import holds_nul
from headrace.jobs.claim import Claimed
from headrace.jobs.fingerprint import fingerprint_of
from headrace.jobs.losses import LOST, QUARANTINED, WHY_QUARANTINED
from headrace.jobs.model import Claim, Failure, Outcome
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.telemetry.propagation import trace_id_now, trace_id_of

MAX_RESULT_BYTES = 256 * 1024
REJECTED = "rejected"
"""The outcome, on record, of an attempt whose arguments cannot be read or whose result cannot be stored."""
_MAX_TEXT = 16_000
_SECOND = 1.0
_MOST_UNCOUNTED = 30
"""Releases of a job that may end without a counted attempt; a snooze, a shutdown or a lost belt costs one as well."""


def returned(claim: Claim, value: object, *, stored: bool = True) -> Outcome:
    """Decide for a task that returned `value`: a wish or a result, which is kept where it is to be stored."""
    if isinstance(value, (Snooze, Cancel)):
        return wished(claim, value)
    return succeeded(claim, value) if stored else Outcome(claim.job_id, claim.fence, JobState.SUCCEEDED)


def wished(claim: Claim, wish: Snooze | Cancel) -> Outcome:
    """Decide for a task that wishes to be run later, or to end its job."""
    match wish:
        case Snooze():
            key = (claim.job_id, claim.fence)
            return Outcome(*key, JobState.SCHEDULED, delay_seconds=wish.seconds, refund=True)
        case Cancel():
            failure = _failure(claim, wish, "cancelled")
            failure = msgspec.structs.replace(failure, message=_storable(wish.reason[:_MAX_TEXT]), traceback="")
            return Outcome(claim.job_id, claim.fence, JobState.CANCELLED, failure=failure)


def succeeded(claim: Claim, value: object) -> Outcome:
    """Decide for a task that returned `value`."""
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return rejected(claim, error, "the result cannot be written as JSON")
    if len(encoded) > MAX_RESULT_BYTES:
        reason = f"the result takes {len(encoded)} bytes, more than {MAX_RESULT_BYTES}: store it and return a reference"
        return rejected(claim, ValueError(reason), "the result is too large")
    if holds_nul(encoded):
        return rejected(claim, ValueError("a string holds the character NUL"), "PostgreSQL cannot store the result")
    return Outcome(claim.job_id, claim.fence, JobState.SUCCEEDED, result=encoded.decode())


def failed(
    claim: Claim, error: BaseException, retry: Retry, *, timed_out: bool = False, not_its_fault: bool = False
) -> Outcome:
    """Decide for a task that raised: another attempt after a delay, or dead.

    Where PostgreSQL went away under the task, it is tried again whatever errors its policy names, and no attempt is
    counted; but not for ever, because a task may be what makes PostgreSQL go away.
    """
    failure = _failure(claim, error, "timed_out" if timed_out else "failed")
    if timed_out and not failure.message:
        failure = msgspec.structs.replace(failure, message="the attempt took longer than its timeout allows")
    if not_its_fault and claim.fence - claim.attempt < _MOST_UNCOUNTED:
        key = (claim.job_id, claim.fence)
        return Outcome(*key, JobState.RETRYING, delay_seconds=_SECOND, refund=True, failure=failure)
    if claim.attempt < claim.max_attempts and (not_its_fault or retry.allows(error)):
        delay = retry.delay_after(error, claim.attempt)
        return Outcome(claim.job_id, claim.fence, JobState.RETRYING, delay_seconds=delay, failure=failure)
    return Outcome(claim.job_id, claim.fence, JobState.DEAD, failure=failure)


def rejected(claim: Claim, error: BaseException, reason: str) -> Outcome:
    """Decide for arguments or a result that no attempt can mend: dead, with the reason."""
    failure = _failure(claim, error, REJECTED)
    failure = msgspec.structs.replace(failure, message=f"{reason}: {failure.message}")
    return Outcome(claim.job_id, claim.fence, JobState.DEAD, failure=failure)


def cancelled(claim: Claim, error: BaseException) -> Outcome:
    """Decide for a run that was cancelled on request."""
    failure = msgspec.structs.replace(_failure(claim, error, "cancelled"), message="cancelled on request")
    return Outcome(claim.job_id, claim.fence, JobState.CANCELLED, failure=failure)


def handed_back(claim: Claim) -> Outcome:
    """Decide for a run that a stopping worker gives up: it starts anew elsewhere, and no attempt is counted."""
    return Outcome(claim.job_id, claim.fence, JobState.PENDING, refund=True)


def lost(claimed: Claimed) -> Outcome:
    """Decide for a job that the record says this worker runs, and that it does not: nobody knows how far it came."""
    losses = claimed.lost + 1
    deadly = losses >= claimed.max_losses
    failure = Failure(
        outcome=LOST,
        type=QUARANTINED if deadly else "RunLost",
        message=f"{losses} {WHY_QUARANTINED}" if deadly else "the worker lives and does not know this run any more",
        traceback="",
        trace_id=claimed.trace_id,
    )
    state = JobState.DEAD if deadly or claimed.attempt >= claimed.max_attempts else JobState.PENDING
    return Outcome(claimed.job_id, claimed.fence, state, failure=failure)


def unknown_here(claim: Claim, delay_seconds: float) -> Outcome:
    """Decide for a task that this version of the code does not know: it waits, pending, for a worker that does."""
    return Outcome(claim.job_id, claim.fence, JobState.PENDING, delay_seconds=delay_seconds, refund=True)


def name_of(outcome: Outcome) -> str:
    """Return the word for how an attempt ended: that of its failure, `succeeded`, `snoozed` or `handed_back`."""
    if outcome.failure is not None:
        return outcome.failure.outcome
    match outcome.state:
        case JobState.SUCCEEDED:
            return "succeeded"
        case JobState.SCHEDULED:
            return "snoozed"
        case _:
            return "handed_back"


def _failure(claim: Claim, error: BaseException, outcome: str) -> Failure:
    message = _storable(_text_of(error)[:_MAX_TEXT])
    return Failure(
        outcome=outcome,
        type=type(error).__qualname__,
        message=message,
        traceback=_storable("".join(traceback.format_exception(error))[-_MAX_TEXT:]),
        trace_id=trace_id_now() or trace_id_of(claim.traceparent),
        fingerprint=fingerprint_of(error, message),
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:  # noqa: BLE001 - failure table: whatever a task raises is an outcome on record
        return f"the text of this error cannot be made: {type(fault).__qualname__}"


def _storable(text: str) -> str:
    """Return a text without what PostgreSQL refuses: NUL and lone surrogates."""
    return text.replace("\x00", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
