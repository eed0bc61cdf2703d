"""`headrace check` and events: whom a changed type breaks, and what nobody can read any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest

from headrace.application import Application, combine
from headrace.clock import new_id, now
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.check import Listening, check_events, check_redeliveries
from headrace.events.check_types import check_types
from headrace.events.model import NewEvent
from headrace.events.reading import Reading
from headrace.events.registry import event, upcast
from headrace.events.schemas import record_schemas, schemas_on_record
from headrace.jobs.check import Finding, Findings
from headrace.subscribers.checkpoints import register
from headrace.subscribers.contract import Subscription, subscriber
from headrace.subscribers.delivery import Delivery
from headrace.transaction import transaction

TYPE = "shop.order.paid"


@event(TYPE, subject="order_id")
class Former(msgspec.Struct, frozen=True):
    """An order was paid, as it was declared at first."""

    order_id: str
    total: int
    currency: str = "EUR"


@event(TYPE, subject="order_id")
class Renamed(msgspec.Struct, frozen=True):
    """The same with another name for the total."""

    order_id: str
    total_cents: int
    currency: str = "EUR"


@event(TYPE, subject="order_id", version=2)
class Unread(msgspec.Struct, frozen=True):
    """A new version that forgot the former one."""

    order_id: str
    total_cents: int


@event(TYPE, subject="order_id", version=2)
class Upcast(msgspec.Struct, frozen=True):
    """A new version that reads the former one."""

    order_id: str
    total_cents: int


@upcast(Upcast, from_version=1)
def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 called it total."""
    return {"order_id": data["order_id"], "total_cents": data["total"]}


@event(TYPE, subject="order_id")
class Widened(msgspec.Struct, frozen=True):
    """The same with one more."""

    order_id: str
    total: int | None
    currency: str = "EUR"
    note: str = ""


async def react(delivery: Delivery, data: Any) -> None:  # noqa: ANN401 - of whatever version
    """Do nothing."""
    del delivery, data


def listening(data_type: type[msgspec.Struct], **where: Any) -> tuple[Subscription, ...]:  # noqa: ANN401 - a filter
    """Return subscriptions to a version of the type, by class and by pattern."""
    return (
        subscriber("shop.ledger", data_type, where=where or None)(react),
        subscriber("shop.all", "shop.*")(react),
    )


async def published(record: Record, version: int, data: dict[str, Any]) -> UUID:
    """Put an event on record."""
    identity = new_id()
    given = NewEvent(
        id=identity,
        type=TYPE,
        version=version,
        source="/shop",
        source_id=str(identity),
        subject="o",
        time=now(),
        data=msgspec.Raw(msgspec.json.encode(data)),
    )
    async with transaction(record) as tx:
        await tx.publish_events([given])
    return identity


async def found(record: Record, events: Sequence[type[msgspec.Struct]], *listens: Subscription) -> list[Finding]:
    """Check the record with code that declares these events and subscriptions."""
    registry = combine([Application(name="shop", events=events, subscriptions=listens)])
    subscribed = {
        name: Listening(one.patterns, Reading(one.events), one.filter) for name, one in registry.subscriptions.items()
    } | {"tests.carrier": Listening(("*",), None)}
    findings = Findings()
    async with borrowed(record.engine) as driver, driver.transaction():
        await check_types(driver, registry.events, subscribed, findings)
        await check_events(driver, subscribed, findings)
        await check_redeliveries(driver, subscribed, findings, task="headrace.deliver")
    return findings.found()


@pytest.fixture
async def ran(record: Record) -> Record:
    """A record on which the first version of the code has run."""
    registry = combine([Application(name="shop", events=(Former,), subscriptions=listening(Former))])
    await register(record.engine, registry.subscriptions.values())
    async with borrowed(record.engine) as driver:
        await record_schemas(driver, registry.events.values())
    return record


async def a_webhook(record: Record, types: list[str], written: str | None = None) -> None:
    """Put a webhook's subscription on record."""
    async with borrowed(record.engine) as driver:
        await driver.execute(
            "INSERT INTO subscriptions (name, kind, types, filter) VALUES ('webhook:7', 'webhook', $1, $2::jsonb)",
            types,
            written,
        )


async def test_check_is_content_when_a_type_only_widens(ran: Record) -> None:
    """One more field with a default, and null beside the former type, break nobody."""
    assert await found(ran, (Widened,), *listening(Widened)) == []


async def test_check_names_every_listener_when_a_field_is_renamed(ran: Record) -> None:
    """Within one version: subscriptions by class and pattern, and webhooks; each with what to do."""
    await a_webhook(ran, ["shop.order.*"])

    broken = await found(ran, (Renamed,), *listening(Renamed))

    assert {(one.name, one.code.value) for one in broken} == {
        (name, "changed_event_type") for name in ("shop.ledger", "shop.all", "webhook:7")
    }
    messages = {one.message for one in broken}
    assert (
        f"{TYPE}, still version 1: total is gone (renamed to total_cents?); publish a new version, with an upcast"
        in messages
    )
    assert any("total_cents is new and has to be there" in message for message in messages)


async def test_check_names_the_log_when_a_version_is_not_read_any_more(ran: Record) -> None:
    """With events of it in the log it is told with their number; with an upcast all is well."""
    identity = await published(ran, 1, {"order_id": "o", "total": 5})
    async with borrowed(ran.engine) as driver:
        await driver.execute("DELETE FROM outbox")  # everybody has handled it

    (unread,) = await found(ran, (Unread,), *listening(Unread))
    upcasting = await found(ran, (Upcast,), *listening(Upcast))

    assert (unread.name, unread.code.value, unread.count, unread.examples) == (
        TYPE,
        "unread_version",
        1,
        [str(identity)],
    )
    assert upcasting == []


async def test_check_is_content_when_no_event_of_an_unread_version_is_left(ran: Record) -> None:
    """What retention has dropped needs no upcast."""
    assert await found(ran, (Unread,), *listening(Unread)) == []


async def test_check_names_the_subscription_when_its_events_wait_for_newer_code(ran: Record) -> None:
    """To go back to code that does not know a version leaves its events waiting."""
    registry = combine([Application(name="shop", events=(Upcast,))])
    async with borrowed(ran.engine) as driver:
        await record_schemas(driver, registry.events.values())
    await published(ran, 2, {"order_id": "o", "total_cents": 5})

    broken = await found(ran, (Former,), *listening(Former))

    assert {(one.name, one.code.value) for one in broken} == {
        (name, "newer_event") for name in (TYPE, "shop.ledger", "shop.all")
    }


@pytest.mark.parametrize(("large", "codes"), [(5, ["unreadable_event"] * 2), (1, ["unreadable_event"])])
async def test_check_asks_the_filter_of_events_that_are_not_handled_yet(
    ran: Record, large: int, codes: list[str]
) -> None:
    """An event that a subscription passes over need not be readable for it."""
    await published(ran, 1, {"order_id": 7, "total": large})

    broken = await found(ran, (Former,), *listening(Former, total=[{"numeric": [">", 1]}]))

    assert [one.code.value for one in broken] == codes


async def test_check_names_the_webhook_when_its_type_or_field_is_gone(ran: Record) -> None:
    """A pattern that meets nothing any more, and a filter that asks for what no event has."""
    await a_webhook(ran, ["shop.order.*", "other.*"], '{"total": [1], "never": [1]}')

    vanished = await found(ran, (Upcast,), *listening(Upcast))
    dead = await found(ran, ())

    assert [(one.name, one.code.value, one.examples) for one in vanished] == [
        ("webhook:7", "vanished_field", ["total"])
    ]
    assert [(one.name, one.code.value, one.examples) for one in dead] == [
        ("webhook:7", "dead_event_type", ["shop.order.*"])
    ]


async def test_shapes_on_record_follow_the_code_that_runs(ran: Record) -> None:
    """The present shape of a version replaces the former one; other versions stay."""
    for declared in (Widened, Upcast):
        registry = combine([Application(name="shop", events=(declared,))])
        async with borrowed(ran.engine) as driver:
            await record_schemas(driver, registry.events.values())

    async with borrowed(ran.engine) as driver:
        recorded = await schemas_on_record(driver)

    assert set(recorded[TYPE]) == {1, 2}
    assert "note" in recorded[TYPE][1]["$defs"]["Widened"]["properties"]
