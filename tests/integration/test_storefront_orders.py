"""Orders on record: placed, confirmed once, with the events that tell of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from headrace.database.record import Record, open_record
from headrace.errors import ConflictError, NotFoundError
from headrace.events.queries import history_of
from headrace.settings import Settings
from headrace.transaction import transaction
from storefront.drafts import ItemDraft, OrderDraft
from storefront.history import Act, fold, read
from storefront.orders import Order, Status, confirm, find, place

DRAFT = OrderDraft("ada@example.com", "EUR", (ItemDraft("MUG", 2, 1250), ItemDraft("Żółta gęś", 1, 0)))


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    """A record of its own for this test."""
    async with open_record(Settings(database_url=database_url)) as opened:
        yield opened


async def placed(record: Record) -> Order:
    """Place an order."""
    async with transaction(record) as tx:
        return await place(tx, DRAFT, actor="ada")


async def confirmed(record: Record, order_id: UUID) -> Order:
    """Confirm an order."""
    async with transaction(record) as tx:
        return await confirm(tx, order_id, actor="bob")


async def acts_of(record: Record, order_id: UUID) -> list[Act]:
    """Return the events of an order, in their order."""
    async with record.engine.connect() as connection:
        events = await history_of(connection, str(order_id))
    return [act for event in events if (act := read(event))]


async def test_order_is_a_draft_when_it_is_placed(record: Record) -> None:
    """What was asked for is on record and priced."""
    order = await placed(record)

    async with record.engine.connect() as connection:
        assert await find(connection, order.id) == order
    assert (order.status, order.total_cents, order.confirmed_at) == (Status.DRAFT, 2500, None)
    assert [item.sku for item in order.items] == ["MUG", "Żółta gęś"]


async def test_events_tell_the_whole_order_when_it_is_confirmed(record: Record) -> None:
    """The state folded from the events is the order on record."""
    order = await confirmed(record, (await placed(record)).id)

    acts = await acts_of(record, order.id)
    state = fold(acts)
    assert state is not None
    assert {name: getattr(state, name) for name in Order.__struct_fields__} == {
        name: getattr(order, name) for name in Order.__struct_fields__
    }
    assert [act.actor for act in acts] == ["ada", "bob"]


async def test_one_confirmation_wins_when_many_come_at_once(record: Record) -> None:
    """Of ten confirmations at once, one is answered and one event is published."""
    order = await placed(record)

    answers = await asyncio.gather(*(confirmed(record, order.id) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(answer, Order) for answer in answers) == 1
    assert sum(isinstance(answer, ConflictError) for answer in answers) == 9
    assert len(await acts_of(record, order.id)) == 2


async def test_order_is_not_found_when_nobody_placed_it(record: Record) -> None:
    """Neither reading nor confirming makes one up."""
    with pytest.raises(NotFoundError):
        await confirmed(record, uuid4())


async def test_nothing_remains_when_the_transaction_is_rolled_back(record: Record) -> None:
    """An order whose placing failed later has no row and no event."""
    placed_before: list[Order] = []

    async def place_and_fail() -> None:
        async with transaction(record) as tx:
            placed_before.append(await place(tx, DRAFT, actor="ada"))
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await place_and_fail()

    async with record.engine.connect() as connection:
        with pytest.raises(NotFoundError):
            await find(connection, placed_before[0].id)
    assert await acts_of(record, placed_before[0].id) == []
