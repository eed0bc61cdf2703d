"""Changes of a type's shape: which of them break those who rely on it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from headrace.events.changes import breaking_changes


class Former(msgspec.Struct):
    """The inner object as it was."""

    country: str
    city: str = ""


class Present(msgspec.Struct):
    """The inner object without its city."""

    country: str


class Strict(msgspec.Struct):
    """The inner object with one more."""

    country: str
    street: str
    city: str = ""


class Card(msgspec.Struct, tag=True):
    """Paid by card."""

    digits: str


class Transfer(msgspec.Struct, tag=True):
    """Paid by transfer."""

    iban: str


def shape(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any types
    """Return the schema of a type with these fields; one with a default is a pair."""
    made = [(name, *given) if isinstance(given, tuple) else (name, given) for name, given in fields.items()]
    return msgspec.json.schema(msgspec.defstruct("Thing", made))


@pytest.mark.parametrize(
    ("former", "present", "told"),
    [
        ({"a": str, "b": int}, {"a": str}, ["b is gone"]),
        ({"a": str, "total": int}, {"a": str, "total_cents": (int, 0)}, ["total is gone (renamed to total_cents?)"]),
        ({"a": str}, {"a": int}, ["a was string and is integer"]),
        ({"a": float}, {"a": int}, ["a was number and is integer"]),
        ({"a": int | None}, {"a": int}, ["a was integer or null and is integer"]),
        ({"a": str}, {"a": UUID}, ["a was string and is string (uuid)"]),
        ({"a": list[str]}, {"a": list[int]}, ["a was array of string and is array of integer"]),
        ({"a": (str, "")}, {"a": str}, ["a has to be there, and did not have to"]),
        ({"a": str}, {"a": str, "b": str}, ["b is new and has to be there"]),
        ({"a": Literal["x", "y"]}, {"a": Literal["x"]}, ["a takes fewer values: without y"]),
        ({"a": str}, {"a": Literal["x"]}, ["a takes fewer values"]),
        ({"a": int}, {"a": Annotated[int, msgspec.Meta(ge=1)]}, ["a takes less: minimum 1"]),
        (
            {"a": Annotated[str, msgspec.Meta(max_length=9)]},
            {"a": Annotated[str, msgspec.Meta(max_length=5)]},
            ["a takes less: maxLength 5"],
        ),
        ({"to": Former}, {"to": Present}, ["to.city is gone"]),
        ({"to": list[Former]}, {"to": list[Strict]}, ["to.street is new and has to be there"]),
        ({"to": Former}, {"a": (int, 0)}, ["to is gone"]),
        (
            {"by": Card | Transfer},
            {"by": Card},
            [
                "by.iban is gone",
                "by.digits has to be there, and did not have to",
                "by.type takes fewer values: without Transfer",
            ],
        ),
    ],
)
def test_change_is_breaking_when_former_data_or_readers_fail(
    former: dict[str, Any], present: dict[str, Any], told: list[str]
) -> None:
    """Each is one sentence about one field."""
    assert breaking_changes(shape(**former), shape(**present)) == told


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ({"a": str}, {"a": str}),
        ({"a": str}, {"a": str, "b": (str, "")}),
        ({"a": int}, {"a": int | None}),
        ({"a": int}, {"a": float}),
        ({"a": UUID}, {"a": str}),
        ({"a": datetime}, {"a": datetime | None}),
        ({"a": str}, {"a": (str, "")}),
        ({"a": str}, {"a": Any}),
        ({"a": Literal["x"]}, {"a": Literal["x", "y"]}),
        ({"a": Literal["x"]}, {"a": str}),
        ({"a": Annotated[int, msgspec.Meta(ge=1, le=5)]}, {"a": Annotated[int, msgspec.Meta(ge=0)]}),
        ({"to": Present}, {"to": Former}),
        ({"to": Present}, {"to": Present | None}),
        ({"a": list[int]}, {"a": list[float]}),
        ({"a": str}, {"a": str, "to": (Former | None, None)}),
        ({"by": Card}, {"by": Card | Transfer}),
    ],
)
def test_change_breaks_nobody_when_it_only_adds_or_widens(former: dict[str, Any], present: dict[str, Any]) -> None:
    """A deploy of these needs no new version."""
    assert breaking_changes(shape(**former), shape(**present)) == []
