"""Pages: how every listing is cut, the short ones too.

Owns `limit` (1 to 200, 50 by default), the opaque cursor, and the answer `{"items", "next_cursor"}`. A cursor names the
last item shown, so a page that is asked for later continues there whatever came in between.
Never let a cursor say more than a place: it is no filter and no permission.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Generic, TypeVar
from uuid import UUID

import msgspec
from litestar.params import QueryParameter

from headrace.errors import FieldError, InvalidInputError

T = TypeVar("T")

Limit = Annotated[int, QueryParameter(ge=1, le=200, description="how many items to answer with")]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before")]
DEFAULT_LIMIT = 50


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of a listing."""

    items: list[T]
    next_cursor: str | None
    """What to give as `cursor` for the next page; null at the end."""


def page_of(found: Sequence[T], limit: int, place: Callable[[T], str]) -> Page[T]:
    """Cut a page of at most `limit` items out of what was found, which is one item more where there are more."""
    items = list(found[:limit])
    return Page(items, cursor_of(place(items[-1])) if len(found) > limit else None)


def page_by_name(everything: Iterable[T], limit: int, cursor: str | None, name: Callable[[T], str]) -> Page[T]:
    """Cut a page out of a short listing that is sorted by name."""
    after = place_of(cursor)
    found = sorted((item for item in everything if after is None or name(item) > after), key=name)
    return page_of(found, limit, name)


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
