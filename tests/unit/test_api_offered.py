"""What callers may ask for is what applications declare."""

from __future__ import annotations

from headrace import diagnostics
from headrace.api.job_requests import offered
from headrace.application import combine
from headrace.subscribers.redelivery import redelivering


def test_task_is_not_offered_when_headrace_works_by_it() -> None:
    """The redelivery of events is a task of the workers and none of the callers."""
    tasks = combine([diagnostics.application, redelivering({})]).tasks

    found = offered(tasks)

    assert tasks.keys() - found.keys() == {"headrace.deliver"}
    assert "diagnostics.echo" in found
