"""The arithmetic of the benchmark's table: ratios of one run, medians over turns, targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import table
from bench.doors import Doors, Round
from bench.drain import Drained
from bench.events import Latency, Moved
from bench.load import Taken, request


def taken(rate: float) -> Taken:
    """Return a hundred answers at this rate."""
    return Taken(seconds=100 / rate, waits=[0.005] * 100, bodies=[])


def drained(rate: float) -> Drained:
    """Return a drain of a thousand jobs at this rate."""
    return Drained(jobs=1000, seconds=1000 / rate, cost={"worker": 100.0, "relay": 10.0})


def test_doors_count_with_the_median_of_their_ratios_when_there_are_turns() -> None:
    """A burst of somebody else's work in one turn does not decide."""
    turns = [Round(taken(1000), taken(500), taken(310)), Round(taken(2000), taken(1000), taken(620))]
    turns.append(Round(taken(4000), taken(400), taken(400)))

    jobs, confirm = table.door_rows(Doors(turns, spans=0))

    assert (jobs.figure, jobs.reached) == ("50%", True)
    assert (confirm.figure, confirm.reached) == ("31%", True)


@pytest.mark.parametrize(("ours", "reached"), [(2000, True), (1900, False)])
def test_drain_reaches_its_target_when_it_is_twice_as_fast(ours: float, reached: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The ratio of the same turn counts."""
    row = table.drain_row([drained(ours)], [drained(1000)])

    assert row.reached is reached


def test_cost_is_the_sum_over_the_processes() -> None:
    """Processor time of one job, whoever spends it."""
    row = table.cost_row([drained(1)], [drained(1)])

    assert row.figure == "110 µs"
    assert row.reached is None


def test_latency_is_told_by_percentiles() -> None:
    """A single late event is in the p99, not in the p50."""
    row = table.latency_row(Latency([5.0] * 97 + [500.0] * 3))

    assert (row.figure, row.reached) == ("5.0 ms", True)
    assert "p99 500.0 ms" in row.measured


def test_relay_misses_its_target_when_it_is_slow() -> None:
    """A missed target is said."""
    row = table.relay_row([Moved(events=10_000, seconds=1.0, cost={})])

    assert row.reached is False
    assert "missed" in table.rendered([row])


def test_readme_keeps_its_words_when_results_are_written(tmp_path: Path) -> None:
    """Only what stands between the marks is replaced, and writing twice is writing once."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")

    table.write(readme, "new")
    table.write(readme, "newer")

    assert readme.read_text() == f"before\n{table.BEGIN}\nnewer\n{table.END}\nafter\n"


def test_request_says_its_length_and_its_key() -> None:
    """As it goes over the wire."""
    sent = request("POST", "/v1/jobs", body=b"{}", key="secret")

    assert sent.startswith(b"POST /v1/jobs HTTP/1.1\r\n")
    assert b"Authorization: Bearer secret\r\n" in sent
    assert sent.endswith(b"Content-Length: 2\r\n\r\n{}")
