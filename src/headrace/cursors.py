"""Cursors: where the next page of a listing begins.

Owns the opaque text that the API and the command line hand out as `next_cursor` and take back as `cursor`; both read
each other's. It names the last item shown. Never let a cursor say more than a place: it is no filter and no permission.
"""

from __future__ import annotations

import base64
import binascii
from uuid import UUID

from headrace.errors import FieldError, InvalidInputError


def place_of(cursor: str | None) -> str | None:
    """Return the place that a cursor names.

    Raises:
        InvalidInputError: it is none of ours.

    """
    if cursor is None:
        return None
    if not cursor:
        raise _refused()
    try:
        return base64.b64decode(cursor.encode(), b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise _refused() from error


def id_of(cursor: str | None) -> UUID | None:
    """Return the id that a cursor names.

    Raises:
        InvalidInputError: it is none of ours.

    """
    place = place_of(cursor)
    try:
        return None if place is None else UUID(place)
    except ValueError as error:
        raise _refused() from error


def cursor_of(place: str) -> str:
    """Return the cursor that names a place."""
    return base64.urlsafe_b64encode(place.encode()).decode()


def _refused() -> InvalidInputError:
    wrong = FieldError("cursor", "this is no cursor of ours: give back `next_cursor` as it came")
    return InvalidInputError("the cursor cannot be read", (wrong,))
