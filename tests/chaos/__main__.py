"""Chaos, at the length you choose: `python -m tests.chaos --seconds 300 --jobs 10000 --seed 7`.

Owns the command line; `python -m tests.chaos events --events 200000` does it to events. The seed is printed first, so
that a run can be made again; the exit code is 1 where the promise was not kept, and then the directory with the logs
and the ledger stays.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import structlog

from tests.chaos import event_report, report
from tests.chaos.event_run import EventMeasure, run_event_chaos
from tests.chaos.run import Measure, run_chaos

PAGE = Path(__file__).parents[2] / "docs" / "chaos.md"


def main() -> int:
    """Run once, print the report, and return the exit code."""
    given = _asked()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    directory = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    _say(f"seed {given.seed}: {given.what} for {given.seconds:g} s; logs in {directory}\n")
    kept, settled_seconds = (_events if given.what == "events" else _jobs)(given, directory)
    if not kept:
        _say(f"\nThe promise was NOT kept: see {directory}")
        return 1
    shutil.rmtree(directory)
    _say(f"\nThe promise was kept. The last of it ended {settled_seconds:.1f} s after the end of it all.")
    return 0


def _jobs(given: argparse.Namespace, directory: Path) -> tuple[bool, float]:
    measure = Measure(seed=given.seed, seconds=given.seconds, jobs=given.jobs)
    result = asyncio.run(run_chaos(measure, directory))
    _say(report.report(result))
    if given.write:
        report.publish(f"{report.head_of(result)}\n\n{report.report(result)}", PAGE)
    return report.is_sound(result), result.settled_seconds


def _events(given: argparse.Namespace, directory: Path) -> tuple[bool, float]:
    measure = EventMeasure(seed=given.seed, seconds=given.seconds, events=given.events)
    result = asyncio.run(run_event_chaos(measure, directory))
    text = f"{event_report.head_of(result)}\n\n{event_report.report(result)}"
    _say(text)
    if given.write:
        report.publish(text, PAGE, event_report.BEGIN)
    return event_report.is_sound(result), result.settled_seconds


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill everything and lose nothing.")
    parser.add_argument(
        "what", nargs="?", choices=("jobs", "events"), default="jobs", help="what is under way meanwhile"
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="what the run is drawn from")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long load and misfortune last")
    parser.add_argument("--jobs", type=int, default=10_000, help="how many jobs are enqueued meanwhile")
    parser.add_argument("--events", type=int, default=200_000, help="how many events are published meanwhile")
    parser.add_argument("--write", action="store_true", help="put the report into docs/chaos.md")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
