"""A body is decoded in one pass, and what is wrong with it has a path."""

from __future__ import annotations

import msgspec
import pytest
from litestar.exceptions import ClientException

from headrace.api.bodies import decode
from headrace.errors import InvalidInputError


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """An item of an order."""

    sku: str
    quantity: int = 1


class Order(msgspec.Struct):
    """An order."""

    items: list[Item]
    notes: dict[str, str] = {}


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b'{"items":[{"sku":"a"},{"sku":3}]}', "items.1.sku", "expected `str`, got `int`"),
        (b'{"items":[{"quantity":3}]}', "items.0.sku", "this field is required"),
        (b'{"items":[{"sku":"a","more":1}]}', "items.0.more", "there is no such field"),
        (b"{}", "items", "this field is required"),
        (b"[]", "", "expected `object`, got `array`"),
        (b'{"items":[],"notes":{"a":1}}', "notes", "expected `str`, got `int`"),
        (b'{"items":[{"sku":"a\\u0000"}]}', "items.0.sku", "the character NUL is not allowed"),
        (b'{"items":[],"notes":{"a\\u0000":"b"}}', "notes", "the character NUL is not allowed"),
    ],
)
def test_field_is_named_when_the_shape_is_wrong(body: bytes, field: str, message: str) -> None:
    """The path is dotted and counts list places from 0."""
    with pytest.raises(InvalidInputError) as caught:
        decode(body, Order)

    assert [(error.field, error.message) for error in caught.value.errors] == [(field, message)]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'"\xff"', b'{"items":' + b"[" * 100_000])
def test_body_is_a_bad_request_when_it_is_no_json(body: bytes) -> None:
    """What is not JSON, or too deep to be read, is 400."""
    with pytest.raises(ClientException) as caught:
        decode(body, Order)

    assert caught.value.status_code == 400


def test_backslash_is_kept_when_it_only_looks_like_nul() -> None:
    """An escaped backslash before u0000 is six characters, and no NUL."""
    body = b'{"items":[{"sku":"\\\\u0000"}]}'

    order = decode(body, Order)

    assert order.items[0].sku == "\\u0000"


def test_path_begins_within_the_body_when_a_part_is_decoded() -> None:
    """A part of a body names its fields from the whole."""
    with pytest.raises(InvalidInputError) as caught:
        decode(b'{"sku":1}', Item, at="3.data")

    assert caught.value.errors[0].field == "3.data.sku"
