"""The statements in docs/operating.md run on the record, and say what the page promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from headrace import diagnostics
from tests import trial
from tests.road import Road, running

PAGE: Final = Path(__file__).parents[2] / "docs" / "operating.md"
STATEMENTS: Final = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


async def test_statements_answer_when_jobs_have_run(road: Road) -> None:
    """How long each task waited, ran and backed off; how long its queue lets jobs wait; which were tried most often."""
    async with running(road):
        ids = await road.enqueue(diagnostics.sleep.call(0.2), trial.fail.call("value"))
        for job_id in ids:
            await road.finished(job_id)

    times, waits, attempts = [await road.driver.fetch(statement) for statement in STATEMENTS]

    by_task = {row["task"]: row for row in times}
    slept, failed = by_task["diagnostics.sleep"], by_task["trial.fail"]
    assert (slept["jobs"], slept["backed_off_seconds"]) == (1, None)
    assert slept["ran_seconds"] >= 0.2
    assert failed["backed_off_seconds"] > 0
    assert [row["queue"] for row in waits] == ["default"]
    assert 0 < waits[0]["median_seconds"] <= waits[0]["slowest_seconds"]
    assert [(row["task"], row["outcomes"]) for row in attempts] == [("trial.fail", ["failed"] * 3)]
