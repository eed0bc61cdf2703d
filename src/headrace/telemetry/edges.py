"""The spans at the edges of a process: an HTTP request that comes in, a mail or an HTTP call that goes out.

Owns their names and attributes after the OpenTelemetry HTTP conventions: a request is named by its route's template,
never by its path; a mail's recipient appears only as a hash; a URL without user, password and query. Status codes
become outcomes in `answered_by_us` and `answered_to_us`, because a 4xx is the caller's fault on one side and a failed
call on the other.
Never send our trace context to a third party: whoever calls out decides that, not these spans.
"""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind

from headrace.telemetry import names
from headrace.telemetry.propagation import context_of, parse
from headrace.telemetry.scope import Attribute, Scope, Start, at_root, passing, start

_FIRST_CLIENT_ERROR: Final = 400
_FIRST_SERVER_ERROR: Final = 500


def serve(method: str, traceparent: str | None) -> Scope:
    """Span of one incoming request, below the caller's span if it sent one; `routed` completes its name."""
    caller = parse(traceparent)
    if caller is None:
        return start(method, SpanKind.SERVER, {names.HTTP_METHOD: method}, at_root())
    if not caller.trace_flags.sampled:
        return passing(caller)
    return start(method, SpanKind.SERVER, {names.HTTP_METHOD: method}, Start(parent=context_of(traceparent)))


def routed(scope: Scope, method: str, route: str) -> None:
    """Name a request by its route's template, such as `/v1/jobs/{id}`."""
    if scope.recording:
        scope.rename(f"{method} {route}")
        scope.set(names.HTTP_ROUTE, route)


def answered_by_us(scope: Scope, status: int) -> None:
    """Record the status that a request was answered with; only 5xx is a failure of ours."""
    _answered(scope, status, _FIRST_SERVER_ERROR)


def answered_to_us(scope: Scope, status: int) -> None:
    """Record the status that an outgoing call was answered with; 4xx and 5xx are failures."""
    _answered(scope, status, _FIRST_CLIENT_ERROR)


def call(method: str, url: str, *, resend_count: int = 0) -> Scope:
    """Span of one outgoing HTTP call; `resend_count` is 0 at the first try."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    attributes: dict[str, Attribute] = {
        names.HTTP_METHOD: method,
        names.SERVER_ADDRESS: host,
        names.SERVER_PORT: port,
        names.URL_SCHEME: parts.scheme,
        names.URL_FULL: f"{parts.scheme}://{host}:{port}{parts.path}",
    }
    if resend_count:
        attributes[names.HTTP_RESEND_COUNT] = resend_count
    return start(method, SpanKind.CLIENT, attributes)


def mail(host: str, port: int, *, recipient: str) -> Scope:
    """Span of one mail handed to a mail server."""
    attributes: dict[str, Attribute] = {
        names.SERVER_ADDRESS: host,
        names.SERVER_PORT: port,
        names.NETWORK_PROTOCOL: "smtp",
        names.RECIPIENT_HASH: hashlib.sha256(recipient.lower().encode()).hexdigest()[:16],
    }
    return start(names.SMTP_SEND, SpanKind.CLIENT, attributes)


def _answered(scope: Scope, status: int, first_failure: int) -> None:
    if not scope.recording:
        return
    scope.set(names.HTTP_STATUS, status)
    if status >= first_failure:
        scope.failed_as(str(status))
