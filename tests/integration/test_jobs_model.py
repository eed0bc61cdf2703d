"""The statements of the job side do what a model of twenty lines each says, whatever is done in whatever order."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import JobsMachine
from tests.model.real import Real
from tests.road import open_road

# a failure takes its time: it is made small before it is shown
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES = settings(
    max_examples=60,
    stateful_step_count=50,
    derandomize=True,  # the same steps in every run; a failure is shown with the steps that lead to it
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def test_jobs_do_what_the_model_says_whatever_happens_to_them(database_url: str, redis_url: str) -> None:
    """Calls, releases, claims, outcomes, deaths, cancels, redrives, pauses and the passing of time, in any order."""
    with asyncio.Runner() as runner:
        road = open_road(database_url, redis_url)
        real = Real(runner.run(road.__aenter__()), runner.run)

        class Machine(JobsMachine):
            def __init__(self) -> None:
                super().__init__(real)

        try:
            run_state_machine_as_test(Machine, settings=EXAMPLES)
        finally:
            runner.run(road.__aexit__(None, None, None))
