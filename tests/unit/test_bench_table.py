"""The arithmetic of the benchmark's table: ratios of one run, medians over turns, targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import event_rows, table
from bench.backlog import Drained
from bench.doors import Doors, Round
from bench.events import Latency, Moved
from bench.groups import Delivered
from bench.load import Taken, request
from bench.peer_setup import Ready
from bench.plans import statements_in


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


@pytest.mark.parametrize(("ours", "reached"), [(3000, True), (2900, False)])
def test_drain_reaches_its_target_when_it_is_three_times_as_fast_as_taskiq(ours: float, reached: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The ratio of the medians of one run counts; a peer that was not measured has no line here."""
    own, row = table.drain_rows(1, [drained(ours)], {"taskiq": [drained(1000), drained(900), drained(1100)]})

    assert own.reached is None
    assert row.reached is reached
    assert row.beside.startswith("taskiq 1,000/s")


def test_drain_shows_the_processor_time_of_a_job_as_the_sum_over_the_processes() -> None:
    """Processor time of one job, whoever spends it."""
    (row,) = table.drain_rows(2, [drained(1)], {})

    assert row.figure == "110 µs"
    assert row.what == "drain, 2 worker processes"


def test_peer_has_a_line_with_the_reason_when_it_cannot_be_installed(tmp_path: Path) -> None:
    """A table without it would look as if nobody had asked."""
    ready = {"arq": Ready(tmp_path, "0.28.0", "no such package"), "saq": Ready(tmp_path, "0.26.4")}

    (row,) = table.missing_rows(ready)

    assert (row.what, row.measured, row.beside) == ("drain beside arq", "not measured", "no such package")


def test_plans_are_asked_for_each_statement_on_jobs_once_when_a_log_repeats_them() -> None:
    """Statements on other tables, and what is no statement, are passed over; lines that belong together stay so."""
    log = """2026-11-21 03:01:26.678 UTC [14326] LOG:  execute __asyncpg_stmt_3__:
\t    UPDATE jobs SET state = 'queued'
\t    WHERE id = $1
2026-11-21 03:01:26.678 UTC [14326] DETAIL:  Parameters: $1 = 'jobs'
2026-11-21 03:01:26.679 UTC [14326] LOG:  statement: SELECT name FROM queues
2026-11-21 03:01:26.679 UTC [14327] LOG:  execute <unnamed>: \n\t    UPDATE jobs SET state = 'queued'
\t    WHERE id = $1
2026-11-21 03:01:26.680 UTC [14327] LOG:  checkpoint starting: time
"""

    found = statements_in(log.splitlines())

    assert found == ["UPDATE jobs SET state = 'queued'\nWHERE id = $1"]


def test_latency_is_told_by_percentiles() -> None:
    """A few late events are in the p99, not in the p50, and miss the target."""
    row = event_rows.latency_row(Latency([5.0] * 97 + [500.0] * 3))

    assert (row.figure, row.reached) == ("5.0 / 500.0 ms", False)


def test_groups_are_compared_with_those_that_were_measured() -> None:
    """A peer that could not be measured has no row; the others have their ratio of rates."""
    others = {event_rows.BARE: [Delivered(1_000, 1.0, {})], event_rows.BATCHES: [Delivered(400, 1.0, {})]}

    rows = event_rows.group_rows([Delivered(450, 1.0, {"consumer": 9.0})], others)

    assert [(row.figure, row.reached) for row in rows] == [("450/s", None), ("1.12x", True), ("0.45x", True)]


def test_relay_misses_its_target_when_it_is_slow() -> None:
    """A missed target is said."""
    row = event_rows.relay_row([Moved(events=10_000, seconds=1.0, cost={})])

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
