"""The arguments of a job, as they stand on a command line.

Owns their check against the task's signature, as the API checks them: what does not fit is a usage error that names the
field.
"""

from __future__ import annotations

from typing import Any

import click
import msgspec

from headrace.errors import InvalidInputError
from headrace.jobs.call import Options
from headrace.tasks.contract import Task


def checked_args(task: Task[Any, Any], encoded: str) -> msgspec.Raw:
    """Return JSON arguments as the record takes them.

    Raises:
        click.BadParameter: they are no JSON, do not fit the task, or are too large.

    """
    try:
        args = msgspec.Raw(msgspec.json.encode(task.decoder.decode(encoded)))
        return task.call_encoded(args, Options()).args
    except (msgspec.MsgspecError, InvalidInputError, ValueError, RecursionError) as error:
        raise click.BadParameter(str(error), param_hint="--args") from error
