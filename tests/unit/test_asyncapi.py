"""The AsyncAPI document: valid by AsyncAPI's own schema, and true."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import jsonschema
import msgspec
import pytest

from headrace.api.asyncapi import asyncapi_of
from headrace.application import Application, combine
from headrace.clock import new_id, now
from headrace.events.model import RecordedEvent
from headrace.events.registry import event, upcast
from headrace.subscribers.contract import projection, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import Transaction
from storefront.application import application as storefront

SCHEMA: Final = Path(__file__).parents[1] / "asyncapi" / "schema-3.0.0.json"


class Card(msgspec.Struct, frozen=True, tag="card"):
    """Paid by card."""

    digits: str


class Transfer(msgspec.Struct, frozen=True, tag="transfer"):
    """Paid by bank transfer."""

    iban: str


@event("shop.order.paid", subject="order_id", version=2)
class OrderPaid(msgspec.Struct, frozen=True):
    """An order was paid."""

    order_id: UUID
    means: Card | Transfer
    place: tuple[float, float]
    paid_at: datetime
    more: dict[str, msgspec.Raw]


@upcast(OrderPaid, from_version=1)
def add_place(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 did not say where."""
    return data | {"place": [0.0, 0.0]}


@event("shop.order.sent")
class OrderSent(msgspec.Struct, frozen=True):
    """An order was sent."""

    order_id: UUID
    means: Card | None = None


@subscriber("shop.ledger", "shop.*", where={"means": {"type": ["card"]}}, ordered=True)
async def ledger(delivery: Delivery, data: Any) -> None:  # noqa: ANN401 - of whatever type meets the pattern
    """Write it down."""
    del delivery, data


@projection("shop.paid", OrderPaid)
async def paid(tx: Transaction, events: Sequence[RecordedEvent]) -> None:
    """Count it."""
    del tx, events


SHOP: Final = Application(name="shop", events=(OrderPaid, OrderSent), subscriptions=(ledger, paid))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document of the storefront and of a shop with every kind of type, as it is served."""
    served: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(asyncapi_of(combine([storefront, SHOP]), "1.2")))
    return served


def test_document_is_valid_by_the_official_schema(document: dict[str, Any]) -> None:
    """Tools of others read it."""
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))

    assert [error.json_path + error.message for error in validator.iter_errors(document)] == []


def test_document_refers_only_to_what_it_holds(document: dict[str, Any]) -> None:
    """Every reference leads somewhere; a type's name is one step, whatever dots it has."""
    references = [node["$ref"] for node in _nodes(document) if "$ref" in node]

    assert len(references) > 20
    for reference in references:
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            assert step in found, reference
            found = found[step]


def test_operations_are_what_subscriptions_receive(document: dict[str, Any]) -> None:
    """One for each type, those of a pattern too, with what they leave out."""
    operations = {name: one for name, one in document["operations"].items() if name.startswith("shop.")}

    assert set(operations) == {
        "shop.ledger:shop.order.paid",
        "shop.ledger:shop.order.sent",
        "shop.paid:shop.order.paid",
    }
    assert (
        operations["shop.ledger:shop.order.sent"]
        | {
            "action": "receive",
            "channel": {"$ref": "#/channels/shop.order.sent"},
            "x-patterns": ["shop.*"],
            "x-ordered": True,
            "x-filter": {"means": {"type": ["card"]}},
        }
        == operations["shop.ledger:shop.order.sent"]
    )


def test_payload_of_a_message_is_what_the_type_takes(document: dict[str, Any]) -> None:
    """Data of the type meet the schema, others do not, in the draft that AsyncAPI is written in."""
    message = document["components"]["messages"]["shop.order.paid"]
    validator = jsonschema.Draft7Validator(message["payload"] | {"components": document["components"]})
    resolving = jsonschema.Draft7Validator({"allOf": [message["payload"]], "components": document["components"]})
    paid_by_card = OrderPaid(new_id(), Card("1234"), (47.4, 8.5), now(), {"x": msgspec.Raw(b"1")})
    data = msgspec.json.decode(msgspec.json.encode(paid_by_card))

    assert resolving.is_valid(data)
    assert validator.is_valid(data)
    assert not resolving.is_valid(data | {"place": [1.0]})
    assert not resolving.is_valid(data | {"means": {"type": "cheque"}})


def test_headers_say_which_versions_are_read(document: dict[str, Any]) -> None:
    """A producer sees what it may send."""
    headers = document["components"]["messages"]["shop.order.paid"]["headers"]["properties"]

    assert headers["dataversion"] | {"minimum": 1, "maximum": 2, "default": 2} == headers["dataversion"]
    assert headers["type"]["const"] == "shop.order.paid"


def _nodes(node: object) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in _nodes(item)]
    if not isinstance(node, dict):
        return []
    return [node, *(found for item in node.values() for found in _nodes(item))]
