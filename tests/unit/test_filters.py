"""Filters on the data of events: the language of EventBridge's event patterns."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInputError
from headrace.events.filters import MAX_DEPTH, Filter

ORDER: Final = {
    "order_id": "o-17",
    "total_cents": 12_900,
    "currency": "EUR",
    "express": True,
    "note": None,
    "customer": {"email": "Ada@Example.org", "tier": "gold"},
    "tags": ["new", "gift"],
    "items": [{"sku": "a-1", "quantity": 1}, {"sku": "b-2", "quantity": 5}],
    "none": [],
}

SCALARS: Final = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from(["", "a", "ab", "B"])
)
ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "b", "$or", "prefix", "numeric", "exists", "anything-but", "wildcard"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def meets(written: object, data: object) -> bool:
    """Ask a filter about data."""
    return Filter.of(written).matches(json.dumps(data))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"currency": ["EUR"]}, True),
        ({"currency": ["CHF", "EUR"]}, True),
        ({"currency": ["eur"]}, False),
        ({"currency": ["EUR"], "total_cents": [0]}, False),
        ({"total_cents": [12900.0]}, True),
        ({"express": [True]}, True),
        ({"express": [1]}, False),
        ({"note": [None]}, True),
        ({"missing": [None]}, False),
        ({"tags": ["gift"]}, True),
        ({"tags": ["old"]}, False),
        ({"none": [{"anything-but": "x"}]}, False),
        ({"customer": {"tier": ["gold"]}}, True),
        ({"customer": {"tier": ["gold"], "email": ["x"]}}, False),
        ({"customer": ["gold"]}, False),
        ({"items": {"sku": ["b-2"], "quantity": [5]}}, True),
        ({"items": {"sku": ["a-1"], "quantity": [5]}}, False),
        ({"currency": [{"prefix": "EU"}]}, True),
        ({"currency": [{"prefix": "eu"}]}, False),
        ({"currency": [{"prefix": {"equals-ignore-case": "eu"}}]}, True),
        ({"customer": {"email": [{"suffix": ".org"}]}}, True),
        ({"total_cents": [{"prefix": "1"}]}, False),
        ({"customer": {"email": [{"equals-ignore-case": "ada@example.ORG"}]}}, True),
        ({"customer": {"email": [{"wildcard": "A*@*.org"}]}}, True),
        ({"customer": {"email": [{"wildcard": "*.com"}]}}, False),
        ({"currency": [{"anything-but": "EUR"}]}, False),
        ({"currency": [{"anything-but": ["CHF", "USD"]}]}, True),
        ({"currency": [{"anything-but": {"prefix": ["C", "E"]}}]}, False),
        ({"missing": [{"anything-but": "x"}]}, False),
        ({"tags": [{"anything-but": "new"}]}, True),
        ({"total_cents": [{"numeric": [">=", 10000]}]}, True),
        ({"total_cents": [{"numeric": [">", 0, "<", 12900]}]}, False),
        ({"total_cents": [{"numeric": ["=", 12900]}]}, True),
        ({"express": [{"numeric": ["=", 1]}]}, False),
        ({"note": [{"exists": True}]}, True),
        ({"missing": [{"exists": False}]}, True),
        ({"customer": {"vip": [{"exists": False}]}}, True),
        ({"warehouse": {"name": [{"exists": False}]}}, True),
        ({"missing": [{"exists": False}, "x"]}, True),
        ({"$or": [{"currency": ["CHF"]}, {"total_cents": [{"numeric": [">", 100]}]}]}, True),
        ({"$or": [{"currency": ["CHF"]}, {"express": [False]}], "tags": ["gift"]}, False),
        ({"customer": {"$or": [{"tier": ["gold"]}, {"vip": [True]}]}}, True),
    ],
)
def test_filter_holds_as_eventbridge_would_say(written: object, *, expected: bool) -> None:
    """Fields are joined by and, alternatives by or; lists hold by any element; a missing field only by exists."""
    assert meets(written, ORDER) is expected


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ([], "where"),
        ("x", "where"),
        ({}, "where"),
        ({"a": {}}, "where.a"),
        ({"a": []}, "where.a"),
        ({"a": "x"}, "where.a"),
        ({"a": [["x"]]}, "where.a.0"),
        ({"a": ["x", {"prefx": "y"}]}, "where.a.1.prefx"),
        ({"a": [{"prefix": ""}]}, "where.a.0.prefix"),
        ({"a": [{"prefix": {"suffix": "x"}}]}, "where.a.0.prefix"),
        ({"a": [{"prefix": "x", "suffix": "y"}]}, "where.a.0"),
        ({"a": [{"wildcard": "x"}]}, "where.a.0.wildcard"),
        ({"a": {"b": [{"exists": "yes"}]}}, "where.a.b.0.exists"),
        ({"a": [{"numeric": [">"]}]}, "where.a.0.numeric"),
        ({"a": [{"numeric": ["!", 1]}]}, "where.a.0.numeric.0"),
        ({"a": [{"numeric": [">", "1"]}]}, "where.a.0.numeric.1"),
        ({"a": [{"numeric": [">", 1, "<", True]}]}, "where.a.0.numeric.3"),
        ({"a": [{"numeric": [">", 9, "<", 1]}]}, "where.a.0.numeric"),
        ({"a": [{"anything-but": []}]}, "where.a.0.anything-but"),
        ({"a": [{"anything-but": [{}]}]}, "where.a.0.anything-but.0"),
        ({"a": [{"anything-but": {"numeric": [">", 1]}}]}, "where.a.0.anything-but"),
        ({"$or": {"a": ["x"]}}, "where.$or"),
        ({"$or": [{"a": ["x"]}, {"b": "x"}]}, "where.$or.1.b"),
        ({"$and": [{"a": ["x"]}]}, "where.$and"),
        ({"a": ["x" * 9000]}, "where"),
        ({"a": [{"prefix": "x"}] * 65}, "where"),
        ({"a": [object()]}, "where"),
    ],
)
def test_malformed_filter_is_refused_with_its_path(written: object, field: str) -> None:
    """Whoever wrote it is told where to look."""
    with pytest.raises(InvalidInputError) as refused:
        Filter.of(written, field="where")

    assert refused.value.errors[0].field == field


def test_filter_is_refused_when_it_is_nested_too_deeply() -> None:
    """A filter costs no more than its bound, whoever wrote it."""
    written: dict[str, Any] = {"a": ["x"]}
    for _ in range(MAX_DEPTH):
        written = {"a": written}

    with pytest.raises(InvalidInputError, match="nested"):
        Filter.of(written)


@pytest.mark.parametrize("deep", ["[" * 700 + "]" * 700, '{"a":' * 700 + "1" + "}" * 700, "[" * 3000 + "]" * 3000])
def test_filter_is_refused_when_it_is_deeper_than_python_goes(deep: str) -> None:
    """However deep it is: the caller's error, never a fault."""
    with pytest.raises(InvalidInputError):
        Filter.of({"a": msgspec.Raw(deep.encode())})


def test_filters_are_equal_when_they_are_written_alike() -> None:
    """Order of fields, tuples and enums of Python make no difference on record."""

    class Currency(Enum):
        EUR = "EUR"

    one = Filter.of({"a": (1, 2), "currency": [Currency.EUR]})
    other = Filter.of({"currency": ["EUR"], "a": [1, 2]})

    assert one == other
    assert one.written == '{"a":[1,2],"currency":["EUR"]}'


def test_fields_name_every_path_that_is_asked_for() -> None:
    """A check of a changed type needs to know them."""
    written = {"a": ["x"], "b": {"c": [1]}, "$or": [{"d": [1]}, {"e": {"f": [1]}}]}

    assert Filter.of(written).fields == {"a", "b.c", "d", "e.f"}


@pytest.mark.parametrize("data", ["1", "null", "[]", '"x"', '{"a": 1e400}', '{"b": %s}' % ("[" * 2000 + "]" * 2000)])
def test_filter_holds_not_when_data_are_no_object_of_it(data: str) -> None:
    """Whatever stands on record is answered."""
    assert Filter.of({"a": ["x"]}).matches(data) is False


def test_deep_lists_are_read_to_their_ground() -> None:
    """Lists within lists are asked for their elements without recursion."""
    data = json.dumps({"a": ["x"]}).replace("[", "[" * 400).replace("]", "]" * 400)

    assert Filter.of({"a": ["x"]}).matches(data)


@given(written=ANYTHING, data=ANYTHING)
def test_any_json_is_a_filter_that_answers_or_is_refused(written: object, data: object) -> None:
    """Nothing but InvalidInputError is raised at reading, and nothing at all at asking."""
    try:
        read = Filter.of(written)
    except InvalidInputError:
        return

    assert read.matches(json.dumps(data)) in {True, False}


@given(values=st.lists(SCALARS, min_size=1, max_size=4), value=SCALARS)
def test_anything_but_is_the_opposite_of_the_values(values: list[object], value: object) -> None:
    """A scalar that is there meets the one or the other."""
    data = {"a": value}

    assert meets({"a": values}, data) is not meets({"a": [{"anything-but": values}]}, data)


@given(parts=st.lists(st.text("ab", max_size=3), min_size=2, max_size=5), value=st.text("ab", max_size=12))
def test_wildcard_agrees_with_a_regular_expression(parts: list[str], value: str) -> None:
    """The one pass over the text finds what backtracking would."""
    expected = re.fullmatch(".*".join(parts), value) is not None

    assert meets({"a": [{"wildcard": "*".join(parts)}]}, {"a": value}) is expected


@given(low=st.integers(-9, 0), high=st.integers(1, 9), value=st.integers(-12, 12) | st.floats(-12, 12))
def test_numeric_range_agrees_with_python(low: int, high: int, value: float) -> None:
    """A range holds between its bounds."""
    assert meets({"a": [{"numeric": [">=", low, "<", high]}]}, {"a": value}) is (low <= value < high)


@given(one=st.lists(SCALARS, min_size=1, max_size=3), other=st.lists(SCALARS, min_size=1, max_size=3), value=SCALARS)
def test_or_holds_when_one_member_does(one: list[object], other: list[object], value: object) -> None:
    """`$or` is what it says, and beside it fields are joined by and."""
    data = {"a": value, "b": 1}
    either = {"$or": [{"a": one}, {"a": other}], "b": [1]}

    assert meets(either, data) is (meets({"a": one}, data) or meets({"a": other}, data))
