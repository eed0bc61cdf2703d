"""What a webhook is sent: an event as CloudEvents 1.0 has it, in JSON, the same bytes at every attempt.

Owns the body and its content type. Data go out as they stand on record, in the version they were published in, which
the extension `dataversion` names, so that a message keeps its bytes whatever code sends it again. The trace context
stays here: neither the event's own nor one that a producer gave as an extension is told to other people's servers.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

CONTENT_TYPE: Final = "application/cloudevents+json"

_OURS_ALONE: Final = frozenset({"traceparent", "tracestate"})


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """An event, as far as others are told of it; `data` and `attributes` are JSON."""

    source_id: str
    source: str
    type: str
    subject: str | None
    time: datetime
    data: str
    version: int = 1
    attributes: str = "{}"


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    specversion: str = "1.0"
    id: str
    source: str
    type: str
    time: datetime
    datacontenttype: str = "application/json"
    dataversion: int
    data: msgspec.Raw


def body_of(event: Fact) -> bytes:
    """Return the body of an event's deliveries."""
    own = _Body(
        id=event.source_id,
        source=event.source,
        type=event.type,
        time=event.time,
        dataversion=event.version,
        data=msgspec.Raw(event.data.encode()),
    )
    subject = {} if event.subject is None else {"subject": event.subject}
    given: dict[str, Any] = msgspec.json.decode(event.attributes)
    extensions = {name: value for name, value in given.items() if name not in _OURS_ALONE}
    return msgspec.json.encode(extensions | msgspec.structs.asdict(own) | subject)
