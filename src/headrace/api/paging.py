"""Pages: how every listing is cut, the short ones too.

Owns `limit` (1 to 200, 50 by default) and the answer `{"items", "next_cursor"}`. A page that is asked for later
continues after the last item shown, whatever came in between: `headrace.cursors` says where that is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

from headrace.cursors import cursor_of, place_of

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
