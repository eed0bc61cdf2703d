"""What passes through Taskiq's receiver for the jobs of one claim: two messages, made without pydantic.

Owns their making. A claim was decoded when it was read from the belt, so there is nothing to validate; and because
pydantic's own way around validation looks at every field, it would take a tenth of a worker's time for a lone job. The
models are filled here as `BaseModel.model_construct` fills them. Never make a message of a stranger's bytes this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from pydantic import BaseModel
from taskiq import AckableMessage, TaskiqMessage

from headrace.tasks.belt import Delivery

ENTRY: Final = "headrace.execute"
"""The one task that Taskiq knows: it carries whatever was won."""

M = TypeVar("M", bound=BaseModel)

_fill = object.__setattr__
_FIELDS: Final[set[str]] = set()


def won_message(deliveries: Sequence[Delivery]) -> AckableMessage:
    """Return the message that `listen` yields: the deliveries themselves stand for its bytes.

    Taskiq has nothing to acknowledge: each job is, by itself, when it is settled.
    """
    return _made(AckableMessage, {"data": deliveries, "ack": _nothing})


def task_message(deliveries: Sequence[Delivery]) -> TaskiqMessage:
    """Return the message that Taskiq's receiver executes; its id is that of the first job."""
    return _made(
        TaskiqMessage,
        {
            "task_id": str(deliveries[0].claim.job_id),
            "task_name": ENTRY,
            "labels": {},
            "labels_types": None,
            "args": [deliveries],
            "kwargs": {},
        },
    )


def _nothing() -> None:
    """Acknowledge nothing."""


def _made(kind: type[M], values: dict[str, object]) -> M:
    message = kind.__new__(kind)
    _fill(message, "__dict__", values)
    _fill(message, "__pydantic_fields_set__", _FIELDS)
    _fill(message, "__pydantic_extra__", None)
    _fill(message, "__pydantic_private__", None)
    return message
