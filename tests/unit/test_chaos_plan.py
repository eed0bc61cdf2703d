"""A run of chaos is drawn from its seed, and its report is published where the last one stood."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from headrace.clock import now
from headrace.database.states import JobState
from tests.chaos.blows import EVENT_BLOWS, JOB_BLOWS, Kind, plan
from tests.chaos.ledger import read_ledger
from tests.chaos.mix import Draw, Road, Wanted, mix
from tests.chaos.report import is_sound, publish, report
from tests.chaos.run import Measure, Result
from tests.history import Began, Fault, Verdict, Wrong

BEGIN = now()


def drawn(seed: int) -> list[Wanted]:
    """Return the jobs of a run."""
    return mix(Draw(seed, "ledger", 6.0, BEGIN), jobs=2000, seconds=100.0)


def result(*faults: Fault, most_of_one_key: int = 1) -> Result:
    """Return what a run came to."""
    verdict = Verdict(
        accepted=1,
        states={JobState.SUCCEEDED: 1},
        quarantined=0,
        innocent=0,
        attempts=1,
        lost_attempts=0,
        handed_back=0,
        duplicates_outside=0,
        faults=faults,
    )
    return Result(
        measure=Measure(seed=7, seconds=1.0, jobs=1),
        verdict=verdict,
        struck={Kind.WORKER_KILLED: 3},
        most_of_one_key=most_of_one_key,
        started_too_early=0,
        settled_seconds=0.0,
    )


def test_jobs_and_blows_are_the_same_when_the_seed_is() -> None:
    """What failed can be asked for again."""
    assert drawn(7) == drawn(7) != drawn(8)
    assert plan(7, seconds=300, every_seconds=2.5) == plan(7, seconds=300, every_seconds=2.5)


def test_every_kind_of_job_and_every_road_is_in_a_run() -> None:
    """A mix that lacks a task tries nothing of it."""
    jobs = drawn(7)

    tasks = Counter(one.call.task for one in jobs)
    assert tasks.keys() == {
        f"chaos.{name}"
        for name in ("work", "write", "follow", "fail", "poison", "snooze", "give_up", "in_thread", "in_process")
    }
    assert {one.road for one in jobs} == set(Road)
    assert all(before.at_seconds <= after.at_seconds for before, after in itertools.pairwise(jobs))


def test_every_misfortune_happens_in_a_long_run() -> None:
    """PostgreSQL crashes once, and one worker is stopped for a minute; at the end nothing begins any more."""
    blows = plan(7, seconds=300, every_seconds=2.5)

    times = Counter(blow.kind for blow in blows)
    assert times.keys() == {*JOB_BLOWS, Kind.POSTGRES_CRASHED, Kind.WORKER_STOPPED_LONG}
    assert (times[Kind.POSTGRES_CRASHED], times[Kind.WORKER_STOPPED_LONG]) == (1, 1)
    assert max(blow.at_seconds for blow in blows) < 280


def test_every_misfortune_of_events_happens_in_a_long_run() -> None:
    """Whatever Redis may become is among them."""
    blows = plan(7, seconds=600, every_seconds=2.5, shares=EVENT_BLOWS)

    assert {blow.kind for blow in blows} == {*EVENT_BLOWS, Kind.POSTGRES_CRASHED}


def test_ledger_tells_runs_from_effects(tmp_path: Path) -> None:
    """One line each; a ledger that nobody has written to is empty."""
    job = UUID(int=1)
    ledger = tmp_path / "ledger"
    ledger.write_text(f"began {job} 1 2\ndid {job}\nbegan {job} 2 3\n")

    assert read_ledger(ledger) == ([Began(job, 1, 2), Began(job, 2, 3)], [str(job)])
    assert read_ledger(tmp_path / "none") == ([], [])


def test_run_is_unsound_when_anything_is_wrong() -> None:
    """A fault of the checker, or two jobs of one key at once."""
    assert is_sound(result())
    assert not is_sound(result(Fault(Wrong.LOST, "job", "was accepted and is not on record")))
    assert not is_sound(result(most_of_one_key=2))


def test_report_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    """What stands around it stays, and a page without the place is refused."""
    page = Path(__file__).parents[2] / "docs" / "chaos.md"
    copy = tmp_path / "chaos.md"
    copy.write_text(page.read_text())

    publish(report(result()), copy)
    once = copy.read_text()
    publish(report(result()), copy)

    assert copy.read_text() == once
    assert "| worker: SIGKILL | 3 |" in once
    assert once.startswith(page.read_text().partition("<!-- results")[0])
    copy.write_text("nothing")
    with pytest.raises(ValueError, match="no place"):
        publish(report(result()), copy)
