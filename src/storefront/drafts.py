"""What a customer asks for, and whether it can be an order at all.

Owns the input of `POST /v1/orders` and every rule about it. msgspec enforces shapes, ranges and lengths; `checked` the
rest, and reports all that is wrong at once, field by field.
Pure: never look at the record here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Annotated

import msgspec

from headrace.errors import FieldError, InvalidInputError
from storefront.events import OrderItem
from storefront.money import is_currency

MOST_ITEMS = 1_000
LARGEST_CENTS = 2**53 - 1
"""The largest amount of an order: the largest integer that every JSON reader keeps exactly (RFC 8259, section 6)."""
LARGEST_ITEMS_BYTES = 240 * 1024
"""What the items may take as JSON, so that the order fits into an event."""

_LONGEST_ADDRESS = 254  # RFC 5321, section 4.5.3.1.3
_LONGEST_LOCAL_PART = 64
_LOCAL_PART = re.compile(r"""[^\s@()<>\[\]\\,;:".]+(\.[^\s@()<>\[\]\\,;:".]+)*""")
_LABEL = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")


class ItemDraft(msgspec.Struct, frozen=True):
    """One article that a customer asks for."""

    sku: Annotated[str, msgspec.Meta(min_length=1, max_length=200, description="the article's name in the catalogue")]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    unit_price_cents: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_CENTS, description="in minor units of the currency")]


class OrderDraft(msgspec.Struct, frozen=True):
    """An order that a customer asks for."""

    customer_email: Annotated[
        str, msgspec.Meta(min_length=3, max_length=_LONGEST_ADDRESS, examples=["ada@example.com"])
    ]
    currency: Annotated[str, msgspec.Meta(description="ISO 4217, three capital letters", examples=["EUR"])]
    items: Annotated[tuple[ItemDraft, ...], msgspec.Meta(min_length=1, max_length=MOST_ITEMS)]

    @property
    def total_cents(self) -> int:
        """What the order costs."""
        return sum(item.quantity * item.unit_price_cents for item in self.items)

    @property
    def order_items(self) -> tuple[OrderItem, ...]:
        """The items as an order has them."""
        return tuple(OrderItem(item.sku, item.quantity, item.unit_price_cents) for item in self.items)


def checked(draft: OrderDraft) -> OrderDraft:
    """Return the draft if it can become an order.

    Raises:
        InvalidInputError: it cannot; every field that is wrong is named.

    """
    errors = tuple(_errors_of(draft))
    if errors:
        message = f"the order has {len(errors)} wrong field{'s' if len(errors) > 1 else ''}"
        raise InvalidInputError(message, errors)
    return draft


def is_address(text: str) -> bool:
    """Tell whether a text has the structure of a mail address, `local@domain.tld`; letters of any script may occur."""
    local, at, domain = text.rpartition("@")
    labels = domain.split(".")
    return (
        bool(at)
        and len(local) <= _LONGEST_LOCAL_PART
        and _is_visible(text)
        and _LOCAL_PART.fullmatch(local) is not None
        and len(labels) > 1
        and all(_LABEL.fullmatch(label) for label in labels)
    )


def _errors_of(draft: OrderDraft) -> Iterator[FieldError]:
    if not is_address(draft.customer_email):
        yield FieldError("customer_email", "this is no mail address, such as ada@example.com")
    if not is_currency(draft.currency):
        yield FieldError("currency", "this is no currency of ISO 4217 in use today, such as EUR, JPY or KWD")
    for place, item in enumerate(draft.items):
        if not _is_visible(item.sku) or not item.sku.strip():
            yield FieldError(f"items.{place}.sku", "control characters are not allowed, nor a text of spaces alone")
    if draft.total_cents > LARGEST_CENTS:
        yield FieldError("items", f"the total exceeds {LARGEST_CENTS} minor units, the largest amount of an order")
    if len(msgspec.json.encode(draft.items)) > LARGEST_ITEMS_BYTES:
        yield FieldError("items", f"the items take more than {LARGEST_ITEMS_BYTES} bytes: split the order")


def _is_visible(text: str) -> bool:
    return all(unicodedata.category(letter) not in {"Cc", "Cs"} for letter in text)
