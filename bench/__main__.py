"""Measure Headrace beside the alternatives, in one run on this machine: `python -m bench`.

Owns the order of the measurements and their sizes. It starts its own PostgreSQL and Redis in a temporary directory,
on ports of its own, and takes everything down again. `--quick` shows in a few minutes that all of it works; its numbers
are rough.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bench import event_rows, grouped, table
from bench.backlog import Drained
from bench.doors import measure_doors
from bench.drain import Load, drain_headrace
from bench.enqueue import measure_enqueue
from bench.events import measure_latency, measure_relay
from bench.finished import measure_finished
from bench.flat import measure_flat
from bench.groups import FASTSTREAM, Delivered, deliver_bare, deliver_faststream, deliver_headrace
from bench.listeners import measure_listeners
from bench.memory import measure_memory
from bench.peer import ALL, drain_peer
from bench.peer_setup import Ready, prepared
from bench.pickup import measure_crash, measure_pickup
from bench.receiver import receiving
from bench.relay import measure_busy_relay, measure_takeover
from bench.stage import Stage, migrate, set_stage

README = Path(__file__).with_name("README.md")
PLANS = Path(__file__).with_name("plans.md")


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    rounds: int
    requests: int
    turns: int
    jobs: int
    lone: int
    batches: int
    batch: int
    steady: int
    kills: int
    finished: int
    burdens: int
    events: int
    deliveries: int
    committed: int
    seconds: float
    ticks: int
    flat: int
    listeners: int


FULL = Sizes(
    rounds=9,
    requests=4_000,
    turns=2,
    jobs=20_000,
    lone=1_000,
    batches=5,
    batch=10_000,
    steady=3_000,
    kills=5,
    finished=5_000_000,
    burdens=4,
    events=60_000,
    deliveries=3,
    committed=11_000,
    seconds=8.0,
    ticks=300,
    flat=1_000_000,
    listeners=10_000,
)
QUICK = Sizes(
    rounds=2,
    requests=2_000,
    turns=1,
    jobs=3_000,
    lone=100,
    batches=1,
    batch=10_000,
    steady=300,
    kills=1,
    finished=100_000,
    burdens=1,
    events=20_000,
    deliveries=1,
    committed=11_000,
    seconds=2.0,
    ticks=60,
    flat=50_000,
    listeners=1_000,
)


async def _doors(stage: Stage, sizes: Sizes) -> list[table.Row]:
    return table.door_rows(await measure_doors(stage, rounds=sizes.rounds, requests=sizes.requests))


async def _drain(stage: Stage, sizes: Sizes) -> list[table.Row]:
    ready = {peer.name: await asyncio.to_thread(prepared, peer) for peer in ALL}
    rows = table.missing_rows(ready)
    for workers in (1, 2):
        ours: list[Drained] = []
        theirs: dict[str, list[Drained]] = defaultdict(list)
        for _ in range(sizes.turns):
            await _turn(stage, Load(sizes.jobs, workers), ready, (ours, theirs))
        rows += table.drain_rows(workers, ours, theirs)
        rows += table.unfinished_rows(workers, [peer.name for peer in ALL if not ready[peer.name].reason], theirs)
    return rows


async def _turn(
    stage: Stage, load: Load, ready: dict[str, Ready], taken: tuple[list[Drained], dict[str, list[Drained]]]
) -> None:
    """Let every peer drain once, and Headrace at the beginning and in the middle."""
    ours, theirs = taken
    for place, peer in enumerate(ALL):
        if place in {0, len(ALL) // 2}:
            with receiving() as receiver:
                ours.append(await drain_headrace(stage, load, receiver.environment))
                assert receiver.spans, "nothing was traced"
        one = ready[peer.name]
        if one.reason:
            continue
        try:
            drained = await drain_peer(stage, peer, python=one.python, jobs=load.jobs, workers=load.workers)
            theirs[peer.name].append(drained)
        except TimeoutError:  # its last words are shown; what it did in other turns counts
            print(f"{peer.name}: not all of its jobs were finished", file=sys.stderr)


async def _enqueue(stage: Stage, sizes: Sizes) -> list[table.Row]:
    enqueued = await measure_enqueue(stage, lone=sizes.lone, batches=sizes.batches, batch=sizes.batch)
    return table.enqueue_rows(enqueued, sizes.batch)


async def _pickup(stage: Stage, sizes: Sizes) -> list[table.Row]:
    return table.pickup_rows(await measure_pickup(stage, jobs=sizes.steady, per_second=100))


async def _crash(stage: Stage, sizes: Sizes) -> list[table.Row]:
    return [table.crash_row(await measure_crash(stage, rounds=sizes.kills))]


async def _finished(stage: Stage, sizes: Sizes) -> list[table.Row]:
    taken = await measure_finished(stage, rows=sizes.finished, turns=sizes.burdens, jobs=sizes.jobs)
    return table.finished_rows(taken)


async def _relay(stage: Stage, sizes: Sizes) -> list[table.Row]:
    moved = [await measure_relay(stage, sizes.events) for _ in range(sizes.turns)]
    kept = await measure_busy_relay(stage, per_second=sizes.committed, seconds=sizes.seconds)
    taken = await measure_takeover(stage, rounds=sizes.kills)
    latency = await measure_latency(stage, sizes.ticks)
    return [
        event_rows.relay_row(moved),
        event_rows.busy_relay_row(kept),
        event_rows.takeover_row(taken),
        event_rows.latency_row(latency),
    ]


async def _groups(stage: Stage, sizes: Sizes) -> list[table.Row]:
    ready = await asyncio.to_thread(prepared, FASTSTREAM)
    rows = table.missing_rows({FASTSTREAM.name: ready})
    ours: list[Delivered] = []
    others: dict[str, list[Delivered]] = defaultdict(list)
    for _ in range(sizes.deliveries):
        ours.append(await deliver_headrace(stage, grouped.GROUPS, sizes.events))
        others[event_rows.BARE].append(await deliver_bare(stage, sizes.events))
        if not ready.reason:
            others[event_rows.BATCHES].append(await deliver_faststream(stage, ready.python, sizes.events, batch=100))
            others[event_rows.SINGLY].append(await deliver_faststream(stage, ready.python, sizes.events // 4))
    rows += event_rows.group_rows(ours, others)
    turns = range(sizes.turns)
    writers = [await deliver_headrace(stage, [grouped.writer], sizes.events // 6) for _ in turns]
    return rows + event_rows.lone_rows(
        writers, [await deliver_headrace(stage, [grouped.counter], sizes.events) for _ in turns]
    )


async def _memory(stage: Stage, _sizes: Sizes) -> list[table.Row]:
    return table.memory_rows(await measure_memory(stage))


async def _flat(stage: Stage, sizes: Sizes) -> list[table.Row]:
    return [table.flat_row(await measure_flat(stage, events=sizes.flat, jobs=sizes.jobs))]


async def _listeners(stage: Stage, sizes: Sizes) -> list[table.Row]:
    return event_rows.listener_rows(await measure_listeners(stage, listeners=sizes.listeners, events=sizes.ticks))


PARTS: dict[str, Callable[[Stage, Sizes], Awaitable[list[table.Row]]]] = {
    "doors": _doors,
    "drain": _drain,
    "enqueue": _enqueue,
    "pickup": _pickup,
    "crash": _crash,
    "finished": _finished,
    "relay": _relay,
    "groups": _groups,
    "memory": _memory,
    "flat": _flat,
    "listeners": _listeners,
}


async def _measure(parts: list[str], sizes: Sizes) -> list[table.Row]:
    rows: list[table.Row] = []
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as directory:
        for part in parts:
            place = Path(directory) / part  # a part finds no rows and no files of another one
            place.mkdir()
            async with set_stage(place) as stage:
                await asyncio.to_thread(migrate, stage)
                measured = await PARTS[part](stage, sizes)
            rows += measured
            print(f"{part}: done\n{table.rendered(measured)}\n", file=sys.stderr)  # should a later part fail
    return rows


def main() -> None:
    """Measure, print the table, and write it where that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"which to measure: {', '.join(PARTS)} (all)")
    parser.add_argument("--quick", action="store_true", help="a few minutes, rough numbers")
    parser.add_argument("--write", action="store_true", help="put the table into bench/README.md, the plans beside it")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if chosen.write and (chosen.quick or chosen.parts):
        parser.error("--write takes a whole run: no --quick and no parts")
    logging.disable(logging.WARNING)
    rows = asyncio.run(_measure(chosen.parts or list(PARTS), QUICK if chosen.quick else FULL))
    text, evidence = table.rendered(rows), table.evidence_of(rows)
    print(text)
    if chosen.write:
        table.write(README, text)
        PLANS.write_text(evidence + "\n")
    elif evidence:
        print(f"\n{evidence}")


if __name__ == "__main__":
    main()
