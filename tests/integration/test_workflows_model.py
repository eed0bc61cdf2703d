"""Random workflows under random hands stand as a model of a few lines says they should."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.database.states import JobState
from headrace.diagnostics import echo
from headrace.jobs.cancel import cancel_job
from headrace.jobs.redrive import redrive_job
from headrace.jobs.workflow import Workflow
from tests.road import Road
from tests.workflows import end, follow, start, states

STOPPED: Final = ("dead", "cancelled", "expired")
ENDS: Final = {"succeed": JobState.SUCCEEDED, "die": JobState.DEAD, "expire": JobState.EXPIRED}
NOT_IN_TIME: Final = ("pending", "scheduled")


@dataclass
class Model:
    """How the jobs of a workflow should stand."""

    after: dict[str, set[str]]
    states: dict[str, str] = field(default_factory=dict)
    awaited: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.awaited = {name: set(parents) for name, parents in self.after.items()}
        self.states = {name: "scheduled" if parents else "pending" for name, parents in self.after.items()}

    def able(self, action: str) -> list[str]:
        """Return the jobs to which this can happen."""
        before = {"succeed": ("pending",), "die": ("pending",), "retry": STOPPED}.get(action, NOT_IN_TIME)
        return sorted(
            name
            for name, state in self.states.items()
            if state in before or (action == "cancel" and state in {"dead", "expired"} and self._is_awaited(name))
        )

    def act(self, action: str, name: str) -> None:
        """Let it happen."""
        if action == "cancel":
            self._cancel(name)
        elif action == "retry":
            self.states[name] = "scheduled" if self.awaited[name] else "pending"
        else:
            self.states[name] = ENDS[action].value
        if action == "succeed":
            for child in self._children(name):
                self.awaited[child].discard(name)
                if self.states[child] == "scheduled" and not self.awaited[child]:
                    self.states[child] = "pending"

    def _cancel(self, name: str) -> None:
        self.states[name] = "cancelled"
        for child in self._children(name):
            if self.states[child] == "scheduled" and name in self.awaited[child]:
                self._cancel(child)

    def _is_awaited(self, name: str) -> bool:
        return any(self.states[child] == "scheduled" and name in self.awaited[child] for child in self.after)

    def _children(self, name: str) -> list[str]:
        return [child for child, parents in self.after.items() if name in parents]


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, set[str]]:
    """Draw the parents of each job, of up to nine."""
    names = [f"j{number}" for number in range(draw(st.integers(1, 9)))]
    chosen = {
        name: draw(st.sets(st.sampled_from(names[:place]))) if place else set() for place, name in enumerate(names)
    }
    return {name: chosen[name] for name in draw(st.permutations(names))}


ACTIONS: Final = st.lists(
    st.tuples(st.sampled_from(["succeed"] * 4 + ["die", "cancel", "expire", "retry", "retry"]), st.integers(0, 8)),
    max_size=25,
)


async def act(road: Road, action: str, job_id: UUID) -> None:
    """Let it happen on record, by the hands that do it."""
    if action in ENDS:
        await end(road, job_id, ENDS[action])
        return
    async with road.transaction() as tx:
        if action == "cancel":
            await cancel_job(tx, job_id)
        else:
            await redrive_job(tx, job_id, attempts=3)


@settings(
    max_examples=150,
    deadline=None,  # a busy machine's PostgreSQL
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # one database: each example has jobs of its own
)
@given(after=graphs(), actions=ACTIONS)
async def test_workflow_stands_as_the_model_says(
    road: Road, after: dict[str, set[str]], actions: list[tuple[str, int]]
) -> None:
    """After every success, death, expiry, cancellation and retry, each job is where the model has it."""
    workflow, model = Workflow(), Model(after)
    for name, parents in after.items():
        workflow.add(name, echo.call(1), after=sorted(parents))
    ids = await start(road, workflow)

    for action, place in actions:
        if able := model.able(action):
            name = able[place % len(able)]
            await act(road, action, ids[name])
            await follow(road)
            model.act(action, name)
            assert await states(road, ids) == model.states, (action, name)
