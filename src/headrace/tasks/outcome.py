"""How an attempt ended: the decision, apart from its recording.

Owns the way from what a task returned or raised to an `Outcome`. Whatever a task does, this decides something that
PostgreSQL can store: a result that is no JSON or too large is a dead job with that reason, never a broken batch.
"""

from __future__ import annotations

import traceback

import msgspec

from headrace.database.states import JobState
from headrace.jobs.model import Claim, Failure, Outcome
from headrace.jobs.retry import Retry
from headrace.telemetry.propagation import trace_id_of

MAX_RESULT_BYTES = 256 * 1024
_MAX_TEXT = 16_000
_SECOND = 1.0


def succeeded(claim: Claim, value: object) -> Outcome:
    """Decide for a task that returned `value`."""
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError) as error:
        return rejected(claim, error, "the result cannot be written as JSON")
    if len(encoded) > MAX_RESULT_BYTES:
        reason = f"the result takes {len(encoded)} bytes, more than {MAX_RESULT_BYTES}: store it and return a reference"
        return rejected(claim, ValueError(reason), "the result is too large")
    if b"\\u0000" in encoded:
        return rejected(claim, ValueError("a string holds the character NUL"), "PostgreSQL cannot store the result")
    return Outcome(claim.job_id, claim.fence, JobState.SUCCEEDED, result=encoded.decode())


def failed(claim: Claim, error: BaseException, retry: Retry, *, timed_out: bool = False) -> Outcome:
    """Decide for a task that raised: another attempt after a delay, or dead."""
    failure = _failure(claim, error, "timed_out" if timed_out else "failed")
    if claim.attempt < claim.max_attempts and retry.allows(error):
        delay = retry.delay_seconds(claim.attempt)
        return Outcome(claim.job_id, claim.fence, JobState.RETRYING, delay_seconds=delay, failure=failure)
    return Outcome(claim.job_id, claim.fence, JobState.DEAD, failure=failure)


def rejected(claim: Claim, error: BaseException, reason: str) -> Outcome:
    """Decide for arguments or a result that no attempt can mend: dead, with the reason."""
    failure = _failure(claim, error, "rejected")
    failure = msgspec.structs.replace(failure, message=_storable(f"{reason}: {error}"))
    return Outcome(claim.job_id, claim.fence, JobState.DEAD, failure=failure)


def cancelled(claim: Claim, error: BaseException) -> Outcome:
    """Decide for a run that was cancelled on request."""
    failure = msgspec.structs.replace(_failure(claim, error, "cancelled"), message="cancelled on request")
    return Outcome(claim.job_id, claim.fence, JobState.CANCELLED, failure=failure)


def handed_back(claim: Claim) -> Outcome:
    """Decide for a run that a stopping worker gives up: it starts anew elsewhere, and no attempt is counted."""
    return Outcome(claim.job_id, claim.fence, JobState.PENDING, delay_seconds=0.0, refund=True)


def unknown_here(claim: Claim) -> Outcome:
    """Decide for a task that this version of the code does not know: it waits for a worker that does."""
    return Outcome(claim.job_id, claim.fence, JobState.SCHEDULED, delay_seconds=_SECOND, refund=True)


def _failure(claim: Claim, error: BaseException, outcome: str) -> Failure:
    lines = traceback.format_exception(error)
    return Failure(
        outcome=outcome,
        type=type(error).__qualname__,
        message=_storable(str(error)),
        traceback=_storable("".join(lines)),
        trace_id=trace_id_of(claim.traceparent),
    )


def _storable(text: str) -> str:
    """Return the end of a text without what PostgreSQL refuses: NUL and lone surrogates."""
    return text[-_MAX_TEXT:].replace("\x00", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()
