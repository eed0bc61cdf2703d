"""A listing is cut into pages that join without a gap."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.api.auth import scope_of
from headrace.api.paging import page_by_name, page_of
from headrace.cursors import id_of, place_of
from headrace.errors import InvalidInputError
from headrace.keys import Principal


@given(st.sets(st.text(min_size=1)), st.integers(min_value=1, max_value=5))
def test_pages_join_when_cursors_are_followed(names: set[str], limit: int) -> None:
    """Every item is shown once and in order, whatever its name."""
    seen: list[str] = []
    cursor = None

    while True:
        page = page_by_name(names, limit, cursor, str)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == sorted(names)


def test_cursor_names_the_last_item_when_there_are_more() -> None:
    """One item more than the limit says that there is another page."""
    ids = [UUID(int=number) for number in (3, 2, 1)]

    page = page_of(ids, 2, str)

    assert page.items == ids[:2]
    assert id_of(page.next_cursor) == ids[1]
    assert page_of(ids, 3, str).next_cursor is None


@pytest.mark.parametrize("cursor", ["%", "a", "\N{SNOWMAN}", "/w==", "_w=="])
def test_cursor_is_refused_when_it_is_not_ours(cursor: str) -> None:
    """What nobody gave out is the caller's mistake."""
    with pytest.raises(InvalidInputError) as caught:
        place_of(cursor)

    assert caught.value.errors[0].field == "cursor"


@pytest.mark.parametrize(
    ("route", "method", "scope"),
    [
        ("/v1/jobs", "GET", "jobs:read"),
        ("/v1/jobs/{job_id}/cancel", "POST", "jobs:write"),
        ("/v1/orders/{order_id}", "DELETE", "orders:write"),
        ("/v1/event-types", "GET", "event-types:read"),
        ("/own", "GET", "own:read"),
        ("/", "POST", ":write"),
    ],
)
def test_scope_follows_the_path_when_a_route_names_none(route: str, method: str, scope: str) -> None:
    """The resource is the path's first part, the verb follows from the method."""
    assert scope_of(route, method) == scope


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [({"*"}, True), ({"jobs:write"}, True), ({"*:write"}, True), ({"jobs:read", "*:read"}, False), (set(), False)],
)
def test_principal_may_when_a_scope_says_so(scopes: set[str], *, allowed: bool) -> None:
    """One scope does not include another."""
    assert Principal("1", "trial", frozenset(scopes)).may("jobs:write") is allowed
