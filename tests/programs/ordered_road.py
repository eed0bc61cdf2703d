"""The processes of an ordered subscriber, for tests that kill them: `ordered_road.py relay`, and so on.

Roles are `relay`, `consume` and `work`. Everything is the real thing on the settings of the environment; the worker is
run by Taskiq's own receiver; `relay:8` wants eight lanes. The ordered subscriber fails the first attempt of every
seventh event, and the first two of every forty-ninth; the other one never fails. Both write to the table `effects`.
"""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec
import uvloop
from sqlalchemy import text

from headrace.jobs.retry import Retry
from headrace.loops import Stop
from headrace.relay.moving import move_events
from headrace.relay.process import run_relay
from headrace.relay.releasing import keep_jobs, mend_belt, release_jobs
from headrace.relay.sessions import end_sessions
from headrace.resources import open_resources
from headrace.settings import Settings
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from headrace.subscribers.process import run_consume
from headrace.testing.working import working
from tests.conftest import MIGRATIONS
from tests.lanes import Thing
from tests.ordered import whole

PARTS = (move_events, release_jobs, keep_jobs, mend_belt, end_sessions)
TABLE = "CREATE TABLE effects (place bigserial, by text NOT NULL, key text NOT NULL, number int NOT NULL)"
_ENDS_SECONDS = 30.0


@subscriber("tests.strict", Thing, ordered=True, retry=Retry(first_delay_seconds=0.05, max_losses=50))
async def strict(delivery: Delivery, thing: Thing) -> None:
    """Write an effect; fail some first attempts."""
    await _write(delivery, "strict", thing)
    failures = (thing.number % 7 == 0) + (thing.number % 49 == 0)
    if delivery.attempt <= failures:
        raise ConnectionError


@subscriber("tests.loose", Thing)
async def loose(delivery: Delivery, thing: Thing) -> None:
    """Write an effect."""
    await _write(delivery, "loose", thing)


async def _write(delivery: Delivery, by: str, thing: Thing) -> None:
    tx = await delivery.begin()
    row = {"by": by, "key": thing.key, "number": thing.number}
    await tx.connection.execute(text("INSERT INTO effects (by, key, number) VALUES (:by, :key, :number)"), row)


async def work(settings: Settings, stop: Stop) -> None:
    """Run the jobs of failed deliveries."""
    async with open_resources(settings, whole(strict, loose)) as resources, working(resources, seconds=_ENDS_SECONDS):
        await stop.wait()


async def main(role: str) -> None:
    """Be the process."""
    settings, stop = Settings.from_environment(os.environ), Stop()
    asyncio.get_running_loop().add_signal_handler(15, stop.set)
    role, _, lanes = role.partition(":")
    match role:
        case "relay":
            settings = msgspec.structs.replace(settings, lanes=int(lanes) if lanes else None)
            await run_relay(settings, stop, migrations=MIGRATIONS, parts=PARTS)
        case "consume":
            await run_consume(settings, whole(strict, loose), stop)
        case _:
            await work(settings, stop)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
