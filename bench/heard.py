"""An application that listens to one event and writes down when it heard it.

Owns the event `bench.tick.happened` and its subscriber, which appends the moment to the file named by `BENCH_HEARD`.
It opens no transaction: what is measured ends where the handler begins.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from headrace.application import Application
from headrace.events.registry import event
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery

VARIABLE = "BENCH_HEARD"


@event("bench.tick.happened", subject="number")
class Ticked(msgspec.Struct, frozen=True):
    """Something happened."""

    number: int
    text: str = "x" * 100


@subscriber("bench.heard", Ticked)
async def heard(delivery: Delivery, ticked: Ticked) -> None:
    """Write the moment down."""
    del delivery
    moment = time.time_ns()
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:  # noqa: ASYNC230 - a line in the page cache, some microseconds
            file.write(f"{ticked.number} {moment}\n")


application = Application(name="bench", events=(Ticked,), subscriptions=(heard,))
