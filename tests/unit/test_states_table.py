"""The transition table of jobs."""

from __future__ import annotations

import re

from headrace.database.migrations.versions import h0001_the_record as migration
from headrace.database.states import FINISHED, REDRIVABLE, TRANSITIONS, UNSTARTED, JobState


def test_every_state_has_its_row() -> None:
    """The table is total."""
    assert set(TRANSITIONS) == set(JobState)


def test_database_knows_the_same_states_in_the_same_order() -> None:
    """The enum of the migration is the enum of the code."""
    listed = re.search(r"CREATE TYPE job_state AS ENUM\s*\((.*?)\)", migration.JOBS, re.DOTALL)

    assert listed is not None
    assert re.findall(r"'(\w+)'", listed.group(1)) == [state.value for state in JobState]


def test_every_state_is_reached_from_a_new_job() -> None:
    """No state is dead letters of the enum."""
    reached = {JobState.SCHEDULED, JobState.PENDING}

    while more := {after for state in reached for after in TRANSITIONS[state]} - reached:
        reached |= more

    assert reached == set(JobState)


def test_finished_jobs_move_only_by_an_operators_hand() -> None:
    """What succeeded stays; what stopped can wait again, and be given up with the children that wait for it."""
    again = {JobState.PENDING, JobState.SCHEDULED}

    assert {state: TRANSITIONS[state] - {JobState.CANCELLED} for state in FINISHED} == {
        state: again if state in REDRIVABLE else frozenset() for state in FINISHED
    }


def test_unstarted_jobs_can_be_cancelled_at_once() -> None:
    """A job that does not run is cancelled by the request itself."""
    assert all(JobState.CANCELLED in TRANSITIONS[state] for state in UNSTARTED)
    assert frozenset(JobState) == UNSTARTED | FINISHED | {JobState.RUNNING}
