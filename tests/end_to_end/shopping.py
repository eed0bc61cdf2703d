"""A customer of the storefront, for tests that play whole journeys on a running stack.

Owns the calls that place, confirm and follow an order over HTTP, and what the outside world (the stack's sink) saw of
it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from tests.stacks import Stack, eventually

FULFILLED = {"invoice": "ready", "confirmation_mail": "ready", "warehouse": "ready"}
FOLLOW_SECONDS = 40.0


class Confirmed(msgspec.Struct, frozen=True):
    """A confirmed order, its customer, and the trace of the confirmation."""

    order_id: str
    customer: str
    trace_id: str


class Shopper:
    """Talks to one stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.api = stack.client()

    def confirm_new_order(self, *, lines: int = 2) -> Confirmed:
        """Place an order with that many lines and confirm it."""
        customer = f"{secrets.token_hex(4)}@example.com"
        items = [{"sku": f"part-{number}", "quantity": number + 1, "unit_price_cents": 250} for number in range(lines)]
        placed = self.api.post("/v1/orders", json={"customer_email": customer, "currency": "EUR", "items": items})
        assert placed.status_code == httpx.codes.CREATED, placed.text
        order_id = placed.json()["id"]
        confirmed = self.api.post(f"/v1/orders/{order_id}/confirm")
        assert confirmed.status_code == httpx.codes.ACCEPTED, confirmed.text
        return Confirmed(order_id, customer, confirmed.json()["trace_id"])

    def order(self, order_id: str) -> dict[str, Any]:
        """Return the order."""
        found: dict[str, Any] = self.api.get(f"/v1/orders/{order_id}").json()
        return found

    def jobs(self, order_id: str, task: str | None = None) -> list[dict[str, Any]]:
        """Return the order's jobs, of one task or of all."""
        items = self.api.get("/v1/jobs", params={"tag": f"order:{order_id}"}).json()["items"]
        return [job for job in items if task in {None, job["task"]}]

    def wait_until_running(self, order_id: str, task: str) -> None:
        """Wait until a job of this task is running for the order."""
        eventually(
            lambda: any(job["state"] == "running" for job in self.jobs(order_id, task)),
            within_seconds=FOLLOW_SECONDS,
            told=lambda: f"{self.jobs(order_id)}\n{self.stack.told()}",
        )

    def wait_until_fulfilled(self, order_id: str) -> None:
        """Wait until everything that should follow the confirmation has followed."""
        eventually(
            lambda: self.order(order_id)["fulfilment"] == FULFILLED,
            within_seconds=FOLLOW_SECONDS,
            told=lambda: f"{self.order(order_id)}\n{self.jobs(order_id)}\n{self.stack.told()}",
        )

    def mails(self, customer: str) -> list[dict[str, Any]]:
        """Return the mails that a customer got."""
        mails = httpx.get(f"{self.stack.where.mail_url}/mails", trust_env=False).json()
        return [mail for mail in mails if customer in mail["to"]]

    def receipts(self, order_id: str) -> list[dict[str, Any]]:
        """Return the warehouse's effects for an order: one per idempotency key."""
        receipts = httpx.get(f"{self.stack.where.mail_url}/warehouse/receipts", trust_env=False).json()
        return [receipt for receipt in receipts if receipt["order_id"] == order_id]

    def slow_warehouse(self, seconds: float) -> None:
        """Let the warehouse take its time."""
        url = f"{self.stack.where.mail_url}/warehouse/pace"
        httpx.put(url, json={"seconds": seconds}, trust_env=False).raise_for_status()

    def event_types(self, order_id: str) -> Sequence[str]:
        """Return the types of the order's events, oldest first."""
        items = self.api.get("/v1/events", params={"subject": order_id}).json()["items"]
        return [event["type"] for event in reversed(items)]
