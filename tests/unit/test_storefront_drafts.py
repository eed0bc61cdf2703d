"""What can be an order and what cannot."""

from __future__ import annotations

import msgspec
import pytest

from headrace.errors import InvalidInputError
from storefront.drafts import LARGEST_CENTS, ItemDraft, OrderDraft, checked, is_address

MUG = ItemDraft("MUG", 2, 1250)


def draft(*items: ItemDraft, email: str = "ada@example.com", currency: str = "EUR") -> OrderDraft:
    """Make a draft."""
    return OrderDraft(email, currency, items or (MUG,))


def fields_of(wrong: OrderDraft) -> list[str]:
    """Return the fields that are reported as wrong."""
    with pytest.raises(InvalidInputError) as refusal:
        checked(wrong)
    return [error.field for error in refusal.value.errors]


@pytest.mark.parametrize(
    "address",
    ["ada@example.com", "a.b+c@sub.example.co", "o'neil@example.ie", "ζωή@παράδειγμα.ελ", "x@1.de", "a_b@my-host.org"],
)
def test_address_is_accepted_when_it_has_the_structure(address: str) -> None:
    """Ordinary addresses, and those of other scripts, pass."""
    assert is_address(address)


@pytest.mark.parametrize(
    "address",
    [
        *("", "ada", "@example.com", "ada@", "ada@example", "ada@@example.com", "ada@exa mple.com", "a b@example.com"),
        *("ada@example..com", ".ada@example.com", "ada.@example.com", "ada@-example.com", "<ada@example.com>"),
        *("ada@example.com\n", "ada@example.com\r\nBcc: eve@example.com", "ada\x00@example.com", "x" * 65 + "@a.de"),
        *("ada,eve@example.com", "ada@example.com.", "ada@example.com,eve@example.com"),
    ],
)
def test_address_is_refused_when_it_lacks_the_structure(address: str) -> None:
    """Nothing that could reach another recipient or header passes."""
    assert not is_address(address)


def test_draft_passes_unchanged_when_all_is_well() -> None:
    """A good draft is returned as it is."""
    good = draft(MUG, ItemDraft("Żółta gęś", 1, 0))

    assert checked(good) is good
    assert good.total_cents == 2500


def test_every_wrong_field_is_named_when_several_are_wrong() -> None:
    """The caller can mend all at once."""
    fields = fields_of(draft(MUG, ItemDraft("a\x00b", 1, 1), ItemDraft("  ", 1, 1), email="ada", currency="XXX"))

    assert fields == ["customer_email", "currency", "items.1.sku", "items.2.sku"]


def test_total_is_refused_when_it_is_too_large() -> None:
    """Neither the record nor a reader of JSON has to round it."""
    largest = ItemDraft("GOLD", 1, LARGEST_CENTS)

    assert checked(draft(largest)).total_cents == LARGEST_CENTS
    assert fields_of(draft(largest, ItemDraft("DUST", 1, 1))) == ["items"]


def test_items_are_refused_when_they_do_not_fit_an_event() -> None:
    """A thousand of the longest names is too much, and says so."""
    fields = fields_of(draft(*(ItemDraft("漢" * 200, 1, 1) for _ in range(1000))))

    assert fields == ["items"]


@pytest.mark.parametrize(
    "item",
    [
        '{"sku": "", "quantity": 1, "unit_price_cents": 1}',
        '{"sku": "A", "quantity": 0, "unit_price_cents": 1}',
        '{"sku": "A", "quantity": -1, "unit_price_cents": 1}',
        '{"sku": "A", "quantity": 1, "unit_price_cents": -1}',
        '{"sku": "A", "quantity": 1.5, "unit_price_cents": 1}',
        '{"sku": "A", "quantity": true, "unit_price_cents": 1}',
        '{"sku": "A", "quantity": 99999999999999999999999, "unit_price_cents": 1}',
        '{"sku": "A", "quantity": 1}',
        '"A"',
        "",
    ],
)
def test_body_is_refused_when_an_item_has_the_wrong_shape(item: str) -> None:
    """Missing, negative, fractional and mistyped values do not become a draft, nor does no item at all."""
    body = '{"customer_email": "ada@example.com", "currency": "EUR", "items": [' + item + "]}"

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=OrderDraft)


def test_body_is_refused_when_it_has_too_many_items() -> None:
    """A thousand items is the most."""
    items = [{"sku": "A", "quantity": 1, "unit_price_cents": 1}] * 1001
    body = msgspec.json.encode({"customer_email": "a@b.de", "currency": "EUR", "items": items})

    with pytest.raises(msgspec.ValidationError, match="1000"):
        msgspec.json.decode(body, type=OrderDraft)
