"""Times in queries: RFC 3339 with a zone, and nothing else.

Owns how such a parameter is declared and read. It arrives as text: what the framework would read besides as a time (a
number of seconds, `null`) is refused as the same thing in a body is. Never let a time pass that the record cannot hold.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from litestar.params import QueryParameter

from headrace.errors import FieldError, InvalidInputError

Moment = Annotated[str | None, QueryParameter(format="date-time", description="RFC 3339 with a time zone")]

_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 1, 1, tzinfo=UTC)
_Zoned = Annotated[datetime, msgspec.Meta(tz=True)]


def moment_of(written: str | None, field: str) -> datetime | None:
    """Return the time that a parameter holds; None where it is missing.

    Raises:
        InvalidInputError: it is no time of RFC 3339, has no zone, or lies out of all bounds.

    """
    if written is None:
        return None
    try:
        moment = msgspec.convert(written, _Zoned)
    except msgspec.ValidationError as error:
        raise _wrong(field, "this must be RFC 3339 with a time zone, such as 2026-01-31T12:00:00Z") from error
    if not _FIRST <= moment <= _LAST:
        raise _wrong(field, "this must lie between the years 1970 and 9999")
    return moment


def _wrong(field: str, message: str) -> InvalidInputError:
    return InvalidInputError(f"{field}: {message}", (FieldError(field, message),))
