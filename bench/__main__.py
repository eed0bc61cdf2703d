"""Measure Headrace beside the alternatives, in one run on this machine: `python -m bench`.

Owns the order of the measurements and their sizes. It starts its own PostgreSQL and Redis in a temporary directory,
on ports of its own, and takes everything down again. `--quick` shows in a minute that all of it works; its numbers
are rough.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bench import table
from bench.doors import measure_doors
from bench.drain import drain_headrace, drain_taskiq
from bench.events import measure_latency, measure_relay
from bench.memory import measure_memory
from bench.stage import Stage, migrate, set_stage

README = Path(__file__).with_name("README.md")


class Sizes(msgspec.Struct, frozen=True):
    """How much is measured."""

    rounds: int
    requests: int
    turns: int
    jobs: int
    events: int
    ticks: int


FULL = Sizes(rounds=9, requests=4_000, turns=3, jobs=20_000, events=60_000, ticks=300)
QUICK = Sizes(rounds=2, requests=2_000, turns=1, jobs=5_000, events=20_000, ticks=60)


async def _doors(stage: Stage, sizes: Sizes) -> list[table.Row]:
    return table.door_rows(await measure_doors(stage, rounds=sizes.rounds, requests=sizes.requests))


async def _drain(stage: Stage, sizes: Sizes) -> list[table.Row]:
    ours, theirs = [], []
    for _ in range(sizes.turns):
        theirs.append(await drain_taskiq(stage, sizes.jobs))
        ours.append(await drain_headrace(stage, sizes.jobs))
    return [table.drain_row(ours, theirs), table.cost_row(ours, theirs)]


async def _events(stage: Stage, sizes: Sizes) -> list[table.Row]:
    moved = [await measure_relay(stage, sizes.events) for _ in range(sizes.turns)]
    return [table.relay_row(moved), table.latency_row(await measure_latency(stage, sizes.ticks))]


async def _memory(stage: Stage, _sizes: Sizes) -> list[table.Row]:
    return table.memory_rows(await measure_memory(stage))


PARTS: dict[str, Callable[[Stage, Sizes], Awaitable[list[table.Row]]]] = {
    "doors": _doors,
    "drain": _drain,
    "events": _events,
    "memory": _memory,
}


async def _measure(parts: list[str], sizes: Sizes) -> list[table.Row]:
    rows: list[table.Row] = []
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as directory:
        for part in parts:
            place = Path(directory) / part  # a part finds no rows and no files of another one
            place.mkdir()
            async with set_stage(place) as stage:
                await asyncio.to_thread(migrate, stage)
                rows += await PARTS[part](stage, sizes)
            print(f"{part}: done", file=sys.stderr)
    return rows


def main() -> None:
    """Measure, print the table, and write it where that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"which to measure: {', '.join(PARTS)} (all)")
    parser.add_argument("--quick", action="store_true", help="a minute, rough numbers")
    parser.add_argument("--write", action="store_true", help="put the table into bench/README.md")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if chosen.write and (chosen.quick or chosen.parts):
        parser.error("--write takes a whole run: no --quick and no parts")
    logging.disable(logging.WARNING)
    rows = asyncio.run(_measure(chosen.parts or list(PARTS), QUICK if chosen.quick else FULL))
    text = table.rendered(rows)
    print(text)
    if chosen.write:
        table.write(README, text)


if __name__ == "__main__":
    main()
