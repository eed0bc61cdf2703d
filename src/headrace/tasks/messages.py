"""What passes through Taskiq's receiver for each job: two messages, made without pydantic.

Owns their making. A claim was decoded when it was read from the belt, so there is nothing to validate; and because
pydantic's own way around validation looks at every field, it would take a tenth of a worker's time for a job. The
models are filled here as `BaseModel.model_construct` fills them. Never make a message of a stranger's bytes this way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from pydantic import BaseModel
from taskiq import AckableMessage, TaskiqMessage

from headrace.jobs.model import Claim

ENTRY: Final = "headrace.execute"
"""The one task that Taskiq knows: it executes any claim."""

M = TypeVar("M", bound=BaseModel)

_fill = object.__setattr__
_FIELDS: Final[set[str]] = set()


def won_message(claim: Claim, acknowledge: Callable[[], None]) -> AckableMessage:
    """Return the message that `listen` yields for a won claim: the claim itself stands for its bytes."""
    return _made(AckableMessage, {"data": claim, "ack": acknowledge})


def task_message(claim: Claim) -> TaskiqMessage:
    """Return the message that Taskiq's receiver executes."""
    return _made(
        TaskiqMessage,
        {
            "task_id": str(claim.job_id),
            "task_name": ENTRY,
            "labels": {},
            "labels_types": None,
            "args": [claim],
            "kwargs": {},
        },
    )


def _made(kind: type[M], values: dict[str, object]) -> M:
    message = kind.__new__(kind)
    _fill(message, "__dict__", values)
    _fill(message, "__pydantic_fields_set__", _FIELDS)
    _fill(message, "__pydantic_extra__", None)
    _fill(message, "__pydantic_private__", None)
    return message
