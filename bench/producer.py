"""A producer in a process of its own: somebody's code that enqueues jobs, as a deployment has it.

Owns three ways of enqueueing and their timing: `kiq` one after the other, `kiq` at a steady rate, and many calls in one
transaction. `python -m bench.producer` reads one `Order` as msgpack from standard input and writes one `Produced` to
standard output. One job in ten begins a recorded trace, as the environment says.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import msgspec
import uvloop

from bench.noted import noted
from bench.stage import Stage
from headrace.diagnostics import echo
from headrace.resources import Resources, build_registry, open_resources
from headrace.settings import Settings
from headrace.telemetry.setup import configure
from headrace.transaction import transaction


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """How many of each; `steady` calls are `per_second`."""

    lone: int = 0
    steady: int = 0
    per_second: float = 100.0
    batches: int = 0
    batch: int = 10_000


class Produced(msgspec.Struct, frozen=True):
    """The seconds that each `kiq` took, one after the other, and each batch."""

    lone: list[float]
    batches: list[float]


async def produce(stage: Stage, order: Order, environment: dict[str, str]) -> Produced:
    """Have a process enqueue."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.producer"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=stage.environment(**environment),
    )
    answer, _ = await process.communicate(msgspec.msgpack.encode(order))
    assert process.returncode == 0, "the producer failed"
    return msgspec.msgpack.decode(answer, type=Produced)


async def _lone(order: Order) -> list[float]:
    taken = []
    for number in range(order.lone):
        began_at = time.perf_counter()
        await echo.kiq(number)
        taken.append(time.perf_counter() - began_at)
    return taken


async def _steady(order: Order) -> None:
    """Enqueue at the times of a clock, whether the former call has returned or not."""
    began_at = time.perf_counter()
    async with asyncio.TaskGroup() as calls:
        for number in range(order.steady):
            await asyncio.sleep(max(0.0, began_at + number / order.per_second - time.perf_counter()))
            calls.create_task(noted.kiq(number))


async def _batches(resources: Resources, order: Order) -> list[float]:
    taken = []
    for _ in range(order.batches):
        calls = [echo.call(number) for number in range(order.batch)]
        began_at = time.perf_counter()
        async with transaction(resources.record) as tx:
            await tx.enqueue_calls(calls)
        taken.append(time.perf_counter() - began_at)
    return taken


async def _main() -> None:
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    telemetry = configure("producer")
    settings = Settings.from_environment(os.environ)
    async with open_resources(settings, build_registry(settings)) as resources:
        lone = await _lone(order)
        await _steady(order)
        produced = Produced(lone, await _batches(resources, order))
    telemetry.shutdown()
    sys.stdout.buffer.write(msgspec.msgpack.encode(produced))


if __name__ == "__main__":
    uvloop.run(_main())
