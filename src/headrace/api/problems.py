"""Problems: how every failure of a request is told (RFC 9457, `application/problem+json`).

Owns the one table from what was raised to what is answered. Bad input is the caller's (4xx, naming the field), a store
that is away is 503 with `Retry-After`, and what remains is a fault of ours: 500, logged once with its traceback.
Never put a traceback, a statement or a value of the record into an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from headrace.database.away import is_away, is_undone, refused_text
from headrace.errors import ConflictError, FieldError, InvalidInputError, NotFoundError, TooLargeError, UnavailableError
from headrace.telemetry.propagation import trace_id_now

logger = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_RETRY_AFTER_SECONDS: Final = 1
_SILENT: Final = "PostgreSQL does not answer at present"
_UNKNOWN: Final = ": it is not known whether the request was accepted: repeat it with an Idempotency-Key"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NAMESPACE: Final = "urn:headrace:problem:"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong with a request."""

    type: str
    """Stable, for programs: `urn:headrace:problem:conflict` and so on."""
    title: str
    status: int
    detail: str
    trace_id: str
    errors: tuple[FieldError, ...] = ()
    """What is wrong with the input, field by field."""


class Verdict(msgspec.Struct, frozen=True):
    """What a failure means to the caller."""

    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()
    headers: Mapping[str, str] = {}


_FAULT: Final = Verdict(500, "this is a fault of Headrace; the trace id leads to its record")


def answer_problem(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answer a request that has failed; the one exception handler of the application."""
    found = verdict_on(error, request)
    if found.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("request_failed", method=request.method, exc_info=error)
    return Response(problem_of(found), status_code=found.status, media_type=MEDIA_TYPE, headers=dict(found.headers))


def verdict_on(error: Exception, request: Request[Any, Any, Any]) -> Verdict:
    """Decide what a failure means."""
    known = _of_ours(error) or _of_litestar(error, request) or _of_the_store(error, request)
    return known or _FAULT


def verdict_on_handshake(error: Exception) -> Verdict:
    """Decide what the failure of a WebSocket's handshake means: what it would over HTTP."""
    known = _of_ours(error)
    if known is None and isinstance(error, HTTPException) and error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        known = Verdict(error.status_code, error.detail, headers=error.headers or {})
    if known is None and is_away(error):
        known = _away(_SILENT, _RETRY_AFTER_SECONDS)
    if known is None:
        logger.error("request_failed", method="GET", exc_info=error)
    return known or _FAULT


def _of_ours(error: Exception) -> Verdict | None:
    match error:
        case TooLargeError():
            return Verdict(413, str(error), error.errors)
        case InvalidInputError():
            return Verdict(422, str(error), error.errors)
        case NotFoundError():
            return Verdict(404, str(error))
        case ConflictError():
            return Verdict(409, str(error))
        case UnavailableError():
            return _away(str(error), error.retry_after_seconds)
    return None


def _of_litestar(error: Exception, request: Request[Any, Any, Any]) -> Verdict | None:
    match error:
        case ValidationException():
            return _wrong_values(error, request)
        case HTTPException() if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            return Verdict(error.status_code, error.detail, headers=error.headers or {})
        case RecursionError():
            return Verdict(400, "the JSON is nested too deeply")
    return None


def _of_the_store(error: Exception, request: Request[Any, Any, Any]) -> Verdict | None:
    if is_undone(error):
        return _away("requests got into each other's way: nothing was changed, repeat it", _RETRY_AFTER_SECONDS)
    if is_away(error):
        return _away(_SILENT if request.method in _SAFE else _SILENT + _UNKNOWN, _RETRY_AFTER_SECONDS)
    if refused_text(error):
        return Verdict(422, "a text holds the character NUL, which cannot be stored", tuple(_nul_in(request)))
    return None


def _away(detail: str, retry_after_seconds: int) -> Verdict:
    return Verdict(503, detail, headers={"Retry-After": str(retry_after_seconds)})


def problem_of(found: Verdict) -> Problem:
    """Return what is answered, within the span of the request."""
    title = HTTPStatus(found.status).phrase
    return Problem(
        type=_NAMESPACE + title.lower().replace(" ", "-"),
        title=title,
        status=found.status,
        detail=found.detail,
        trace_id=trace_id_now(),
        errors=found.errors,
    )


def _wrong_values(error: ValidationException, request: Request[Any, Any, Any]) -> Verdict:
    """Decide for parameters that Litestar refused, and for a body that is not there."""
    found = [one for one in error.extra if isinstance(one, dict)] if isinstance(error.extra, list) else []
    if any(one.get("key") == "data" for one in found):
        return Verdict(400, "the body is missing: send JSON")
    parameters = request.route_handler.parsed_fn_signature.parameters
    errors = []
    for one in found:
        name = str(one.get("key", ""))
        definition = parameters[name].kwarg_definition if name in parameters else None
        errors.append(FieldError(getattr(definition, "name", None) or name, _plain(str(one.get("message", "")))))
    return Verdict(422, "; ".join(f"{one.field}: {one.message}" for one in errors) or error.detail, tuple(errors))


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:]


def _nul_in(request: Request[Any, Any, Any]) -> Iterable[FieldError]:
    given = [*request.query_params.multi_items(), *request.path_params.items()]
    for name, value in given:
        if "\x00" in str(value):
            yield FieldError(name, "the character NUL is not allowed")
