"""An order is confirmed while processes are killed and Redis is emptied: what should follow, follows, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import redis

from tests.end_to_end.shopping import Shopper
from tests.stacks import Stack, eventually, running_stack

HISTORY = {
    "orders.order.created",
    "orders.order.confirmed",
    "orders.order.invoiced",
    "orders.order.confirmation_mailed",
    "orders.order.shipment_requested",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack for all of these journeys: what one kills is running again when the next begins."""
    with running_stack(tmp_path_factory.mktemp("journey") / "stack") as running:
        yield running


@pytest.fixture
def shopper(stack: Stack) -> Iterator[Shopper]:
    """A customer of a stack whose parts are all alive."""
    eventually(stack.is_healthy, within_seconds=40, told=stack.told)
    shopper = Shopper(stack)
    yield shopper
    shopper.slow_warehouse(0)
    shopper.api.close()


def kill(stack: Stack, name: str) -> None:
    """SIGKILL the process that does the work of this name."""
    os.kill(stack.where.processes[name], signal.SIGKILL)


def assert_happened_once(shopper: Shopper, order_id: str, customer: str) -> None:
    """Assert that each effect of a confirmation is there, and there once."""
    assert set(shopper.event_types(order_id)) == HISTORY
    assert len(shopper.event_types(order_id)) == len(HISTORY)
    assert len({mail["message_id"] for mail in shopper.mails(customer)}) == 1
    assert len(shopper.receipts(order_id)) == 1
    assert shopper.api.get(f"/v1/orders/{order_id}/invoice").content.startswith(b"%PDF")


def test_order_is_fulfilled_when_the_worker_is_killed_in_the_middle_of_the_invoice(shopper: Shopper) -> None:
    """The attempt is on record as lost, the next one draws the invoice, and there is one."""
    order = shopper.confirm_new_order(lines=1000)
    shopper.wait_until_running(order.order_id, "storefront.render_invoice")

    kill(shopper.stack, "worker")

    shopper.wait_until_fulfilled(order.order_id)
    (invoice,) = shopper.jobs(order.order_id, "storefront.render_invoice")
    assert invoice["attempt"] == 2
    assert [error["type"] for error in invoice["errors"]] == ["WorkerLost"]
    assert_happened_once(shopper, order.order_id, order.customer)


def test_order_is_fulfilled_when_the_worker_is_killed_in_the_middle_of_the_warehouse_call(shopper: Shopper) -> None:
    """The warehouse sees the same idempotency key twice and counts one effect."""
    shopper.slow_warehouse(2)
    order = shopper.confirm_new_order()
    shopper.wait_until_running(order.order_id, "storefront.request_shipment")
    eventually(lambda: bool(shopper.receipts(order.order_id)), within_seconds=10, told=shopper.stack.told)

    kill(shopper.stack, "worker")
    shopper.slow_warehouse(0)

    shopper.wait_until_fulfilled(order.order_id)
    assert shopper.receipts(order.order_id)[0]["duplicates"] == 1
    assert_happened_once(shopper, order.order_id, order.customer)


@pytest.mark.parametrize("name", ["consume", "relay"])
def test_order_is_fulfilled_when_a_carrier_is_killed_at_once(shopper: Shopper, name: str) -> None:
    """Whoever carries or hears the events may die right after the answer."""
    order = shopper.confirm_new_order()

    kill(shopper.stack, name)

    shopper.wait_until_fulfilled(order.order_id)
    assert_happened_once(shopper, order.order_id, order.customer)


def test_order_is_fulfilled_when_redis_is_emptied_in_the_middle(shopper: Shopper) -> None:
    """FLUSHALL takes streams, groups and queues away; the record brings them back."""
    shopper.slow_warehouse(1)
    order = shopper.confirm_new_order()

    with redis.Redis.from_url(shopper.stack.where.redis_url) as belt:
        for _ in range(5):
            belt.flushall()

    shopper.wait_until_fulfilled(order.order_id)
    assert_happened_once(shopper, order.order_id, order.customer)


def test_order_is_fulfilled_when_redis_is_killed_in_the_middle(shopper: Shopper) -> None:
    """Redis dies with SIGKILL and comes back."""
    order = shopper.confirm_new_order()

    kill(shopper.stack, "redis")

    shopper.wait_until_fulfilled(order.order_id)
    assert_happened_once(shopper, order.order_id, order.customer)


def test_order_is_fulfilled_when_postgresql_is_killed_in_the_middle(shopper: Shopper) -> None:
    """PostgreSQL dies with SIGKILL, comes back, and every process goes on."""
    order = shopper.confirm_new_order()

    kill(shopper.stack, "postgres")
    eventually(shopper.stack.is_healthy, within_seconds=40, told=shopper.stack.told)

    shopper.wait_until_fulfilled(order.order_id)
    assert_happened_once(shopper, order.order_id, order.customer)
