"""Watching what follows a confirmation, line by line as it happens.

Owns the watch: it looks at the order's jobs and deliveries over the API until everything has happened or the time is
up. What is printed is what the record says; times count from the confirmation's answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from rich.console import Console

from headrace.stack.demo.client import Client, DemoError, Event, Job, Order

_LOOK_SECONDS = 0.03
_DONE = {"handled", "skipped"}
_FINISHED = {"succeeded", "dead", "cancelled", "expired"}


class Watch:
    """Prints each job and delivery of one order once, when it is finished."""

    def __init__(self, client: Client, console: Console, order_id: str) -> None:
        self._client = client
        self._console = console
        self._order_id = order_id
        self._since = time.monotonic()
        self._seen: set[tuple[str, str, int]] = set()

    async def until_complete(self, timeout_seconds: float) -> Order:
        """Watch until every effect is there and every delivery is handled.

        Raises:
            DemoError: the time is up, or something has failed for good.

        """
        while time.monotonic() - self._since < timeout_seconds:
            order, jobs, events = await self._look()
            self._print_jobs(jobs)
            self._print_deliveries(events)
            if order.fulfilment.is_complete and _all_handled(events) and _all_finished(jobs):
                return order
            if "failed" in {order.fulfilment.invoice, order.fulfilment.confirmation_mail, order.fulfilment.warehouse}:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        message = (
            f"the order {self._order_id} is not fulfilled: {(await self._client.order(self._order_id)).fulfilment}"
        )
        raise DemoError(message)

    async def until_running(self, task: str, timeout_seconds: float) -> Job:
        """Watch until a job of this task is running, and return it.

        Raises:
            DemoError: the time is up.

        """
        while time.monotonic() - self._since < timeout_seconds:
            _, jobs, events = await self._look()
            self._print_jobs(jobs)
            self._print_deliveries(events)
            for job in jobs:
                if job.task == task and job.state == "running":
                    return job
            await asyncio.sleep(_LOOK_SECONDS)
        message = f"no job of {task} was seen running within {timeout_seconds:.0f} seconds"
        raise DemoError(message)

    async def _look(self) -> tuple[Order, list[Job], list[Event]]:
        order, jobs, events = await asyncio.gather(
            self._client.order(self._order_id),
            self._client.jobs_of(self._order_id),
            self._client.events_of(self._order_id),
        )
        return order, jobs, events

    def _print_jobs(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            for error in job.errors:
                self._once(
                    (job.id, "error", error.attempt),
                    f"job      {job.task}",
                    f"attempt {error.attempt}: {error.message}",
                )
            if job.state in _FINISHED:
                took = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else 0.0
                attempt = f", attempt {job.attempt}" if job.attempt > 1 else ""
                self._once((job.id, "done", 0), f"job      {job.task}", f"{job.state} in {took * 1000:.0f} ms{attempt}")

    def _print_deliveries(self, events: Sequence[Event]) -> None:
        for event in events:
            self._once(
                (event.id, "event", 0), f"event    {event.type}", f"lane {event.lane}, position {event.position}"
            )
            for delivery in event.deliveries:
                if delivery.state in _DONE:
                    self._once(
                        (event.id, delivery.subscription, 1),
                        f"delivery {delivery.subscription}",
                        f"{event.type} {delivery.state}",
                    )

    def _once(self, key: tuple[str, str, int], what: str, how: str) -> None:
        if key in self._seen:
            return
        self._seen.add(key)
        since = (time.monotonic() - self._since) * 1000
        self._console.print(f"  [dim]{since:7.0f} ms[/]  {what:<42} {how}", highlight=False)


def _all_handled(events: Sequence[Event]) -> bool:
    return all(delivery.state in _DONE for event in events for delivery in event.deliveries)


def _all_finished(jobs: Sequence[Job]) -> bool:
    return all(job.state in _FINISHED for job in jobs)
