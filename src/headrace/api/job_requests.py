"""What may be asked of a job: one type for each task, joined to one union that the task's name decides.

Owns the body of `POST /v1/jobs`, made from the tasks that are declared: msgspec decodes and checks the arguments in the
same pass as everything else, and OpenAPI lists them task by task. What fits here can be put on record and decoded by a
worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from types import GenericAlias
from typing import Annotated, Any, Final

import msgspec

from headrace.errors import FieldError, InvalidInputError, TooLargeError
from headrace.jobs.call import LONGEST_DELAY_SECONDS, MAX_ARGS_BYTES, Call, Options
from headrace.jobs.graph import MOST_STEPS
from headrace.tasks.contract import Task

MOST_JOBS: Final = 10_000
_OWN: Final = "headrace."
_TEN_YEARS_SECONDS: Final = 10 * 366 * 86_400
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", examples=["default"])]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Delay = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_DELAY_SECONDS)]
Span = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_DELAY_SECONDS)]


class RetryDelays(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a failed attempt waits for the next one: a random time, up to a bound that doubles each time."""

    first_delay_seconds: Annotated[Delay | None, msgspec.Meta(description="the bound after the first failure")] = None
    max_delay_seconds: Annotated[Delay | None, msgspec.Meta(description="where the doubling ends")] = None


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="task"):
    """A job to be; each task has a type of its own with its `args`."""

    queue: Annotated[Name | None, msgspec.Meta(description="the task's own queue where it is missing")] = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=9, description="9 first")] | None = None
    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=_TEN_YEARS_SECONDS)] | None = None
    run_at: Moment | None = None
    expires_at: Annotated[Moment | None, msgspec.Meta(description="given up unless started by then")] = None
    unique_key: Annotated[
        Text | None, msgspec.Meta(description="while a job of this task with this key is unfinished, it is the answer")
    ] = None
    unique_seconds: Annotated[
        Span | None, msgspec.Meta(description="the key is held that long besides, also by a job that has succeeded")
    ] = None
    concurrency_key: Text | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    retry: Annotated[RetryDelays | None, msgspec.Meta(description="as the task declares where it is missing")] = None
    timeout_seconds: Annotated[Span | None, msgspec.Meta(description="how long one attempt may take")] = None
    tags: Annotated[list[Text], msgspec.Meta(max_length=32)] = []


class StepRequest(JobRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job of a workflow."""

    after: Annotated[
        list[str],
        msgspec.Meta(
            max_length=MOST_STEPS, description="the names of the jobs that must have succeeded before it starts"
        ),
    ] = []


_AS_DECLARED: Final = RetryDelays()


def offered(tasks: Mapping[str, Task[Any, Any]]) -> dict[str, Task[Any, Any]]:
    """Return the tasks that callers may ask for: not those by which Headrace itself does its work."""
    return {name: task for name, task in tasks.items() if not name.startswith(_OWN)}


def require_small(args: bytes, *, at: str) -> None:
    """Refuse arguments that are over 256 KiB as JSON; `at` is their path within the body.

    Raises:
        TooLargeError: they are.

    """
    if len(args) > MAX_ARGS_BYTES:
        message = f"these take more than {MAX_ARGS_BYTES} bytes: pass a reference"
        raise TooLargeError(message, (FieldError(at, message),))


class JobRequests:
    """The requests that the declared tasks allow."""

    def __init__(self, tasks: Mapping[str, Task[Any, Any]]) -> None:
        self._tasks = tasks
        declared = [task for _, task in sorted(tasks.items())]
        self.one: Any = reduce(or_, (_request_type(task, JobRequest, "Job") for task in declared))
        """The type of one request: a union of one Struct for each task."""
        self.many: Any = _batch_type(self.one)
        """The type of a batch."""
        self.step: Any = reduce(or_, (_request_type(task, StepRequest, "Step") for task in declared))
        """The type of a job of a workflow."""
        self.workflow: Any = _workflow_type(self.step)
        """The type of a workflow."""

    def call_of(self, request: JobRequest, *, at: str = "") -> Call:
        """Return the call that a request asks for; `at` is the path of the request within the body.

        Raises:
            InvalidInputError: two of its values exclude each other, or one is out of bounds.
            TooLargeError: the arguments are over 256 KiB.

        """
        task = self._tasks[str(request.__struct_config__.tag)]
        args = msgspec.Raw(msgspec.json.encode(request.args))  # type: ignore[attr-defined]  # each member declares its own
        if errors := _errors_of(request):
            raise InvalidInputError(
                errors[0].message,
                tuple(FieldError(f"{at}.{error.field}".strip("."), error.message) for error in errors),
            )
        require_small(bytes(args), at=f"{at}.args".strip("."))
        return task.call_encoded(args, _options(request))


def _request_type(task: Task[Any, Any], base: type[JobRequest], suffix: str) -> Any:  # noqa: ANN401 - made at run time
    args: Any = task.args_type
    optional = all(not field.required for field in msgspec.structs.fields(args))
    return msgspec.defstruct(
        args.__name__.removesuffix("Args") + suffix,
        [("args", args, msgspec.field(default_factory=args)) if optional else ("args", args)],
        bases=(base,),
        namespace={"__doc__": task.description or f"A job of the task {task.name}."},
        tag=task.name,
        tag_field="task",
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def _batch_type(one: Any) -> Any:  # noqa: ANN401 - types made at run time
    jobs: Any = Annotated[GenericAlias(list, (one,)), msgspec.Meta(min_length=1, max_length=MOST_JOBS)]
    then: Any = Annotated[one | None, msgspec.Meta(description="a job that runs when all of these have finished")]
    fields: list[Any] = [("jobs", jobs), ("then", then, None)]
    return msgspec.defstruct("JobRequests", fields, frozen=True, forbid_unknown_fields=True)


def _workflow_type(step: Any) -> Any:  # noqa: ANN401 - types made at run time
    jobs: Any = Annotated[GenericAlias(dict, (str, step)), msgspec.Meta(min_length=1, max_length=MOST_STEPS)]
    return msgspec.defstruct("WorkflowRequest", [("jobs", jobs)], frozen=True, forbid_unknown_fields=True)


def _errors_of(request: JobRequest) -> list[FieldError]:
    errors: list[FieldError] = []
    if request.delay_seconds is not None and request.run_at is not None:
        errors.append(FieldError("run_at", "give either delay_seconds or run_at"))
    if request.unique_seconds is not None and request.unique_key is None:
        errors.append(FieldError("unique_seconds", "this needs a unique_key"))
    for name, moment in (("run_at", request.run_at), ("expires_at", request.expires_at)):
        if moment is not None and not _EARLIEST <= moment <= _LATEST:
            errors.append(FieldError(name, "this must lie between the years 1970 and 9999"))
    return errors


def _options(request: JobRequest) -> Options:
    retry = request.retry or _AS_DECLARED
    return Options(
        queue=request.queue,
        priority=request.priority,
        delay_seconds=request.delay_seconds,
        run_at=request.run_at,
        expires_at=request.expires_at,
        unique_key=request.unique_key,
        unique_seconds=request.unique_seconds,
        concurrency_key=request.concurrency_key,
        max_attempts=request.max_attempts,
        first_delay_seconds=retry.first_delay_seconds,
        max_delay_seconds=retry.max_delay_seconds,
        timeout_seconds=request.timeout_seconds,
        tags=tuple(request.tags),
    )
