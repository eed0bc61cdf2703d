"""What a task is: a typed function, its name, its queue, where it runs, and what happens when it fails.

Owns the decorator `task` and the value `Task`, which is Taskiq's decorated task: `await greet.kiq("Ada")` is checked
by mypy against the function's signature and, through the broker it is bound to, goes through the record.
`greet.call("Ada")` builds the same call for a transaction. Declaring a task registers nothing: an `Application`
lists its tasks. The first parameter of the function is always the run, a `Run` for a coroutine function, a `ThreadRun`
or `SyncRun` for a plain one; arguments are JSON, decoded into the annotated types by msgspec.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Final, Generic, Literal, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec
from taskiq import AckableMessage, AsyncBroker, BrokerMessage
from taskiq.decor import AsyncTaskiqDecoratedTask

from headrace.errors import ConfigurationError, InvalidInputError, TooLargeError
from headrace.jobs.call import DEFAULT_PRIORITY, DEFAULT_QUEUE, MAX_ARGS_BYTES, Call, Options, holds_nul, require_sound
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.tasks.placing import place_of
from headrace.tasks.policy import Policy, require_sound_policy
from headrace.tasks.run import Run
from headrace.tasks.signature import args_type_of, decoder_of, hints_of, result_type_of, signature_without_run
from headrace.tasks.sync_run import ThreadRun

P = ParamSpec("P")
R = TypeVar("R")

_NO_RESULT: Final = {"return": type(None)}
_A_DEATH: Final = b'{"job_id":"00000000-0000-7000-8000-000000000000","task":"shop.greet","error":"ValueError: why"}'
"""What a task that is told of a death must take."""


class UnboundBroker(AsyncBroker):
    """The broker of a task whose application has not been loaded: refuses with the mend."""

    async def kick(self, message: BrokerMessage) -> None:
        """Refuse to send."""
        error = (
            f"the task {message.task_name} is not bound to a running Headrace: list it in an Application that "
            "HEADRACE_APPLICATIONS names, or enqueue it in a transaction with tx.enqueue"
        )
        raise ConfigurationError(error)

    def listen(self) -> AsyncGenerator[bytes | AckableMessage, None]:
        """Refuse to listen."""
        error = "tasks are received by `taskiq worker workers.tasks:broker`"
        raise ConfigurationError(error)


class Task(AsyncTaskiqDecoratedTask[P, Coroutine[Any, Any, R]]):
    """A declared task. Make it with `task`."""

    def __init__(
        self, name: str, function: Callable[Concatenate[Run, P], Coroutine[Any, Any, R]], policy: Policy
    ) -> None:
        # Taskiq's own __init__ renames the function and plants it in its module, for process pools; not wanted here.
        hints = hints_of(name, function)
        self.broker: AsyncBroker = UnboundBroker()
        self.task_name = name
        self.original_func = cast("Callable[P, Coroutine[Any, Any, R]]", function)
        self.labels: dict[str, Any] = {}
        self.return_type = result_type_of(hints if policy.result else _NO_RESULT)
        self.name = name
        self.function = function
        self.policy = policy
        self.description = inspect.cleandoc(function.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ")
        self.signature = signature_without_run(name, function)
        self.args_type = args_type_of(name, self.signature, hints)
        self.decoder = decoder_of(name, self.args_type)

    def policy_for(self, _args: msgspec.Struct) -> Policy:
        """Return the policy for an attempt with these arguments: the task's own, unless a subclass knows better."""
        return self.policy

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Build the call of this task with these arguments, to be enqueued later or elsewhere."""
        return self.call_with(Options(), args, kwargs)

    def call_with(self, options: Options, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Call:
        """Build a call from arguments as Python passes them.

        Raises:
            InvalidInputError: the arguments do not fit the signature or its types, are not JSON, or over 256 KiB.

        """
        try:
            encoded = msgspec.json.encode(self.signature.bind(*args, **kwargs).arguments)
            self.decoder.decode(encoded)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"the arguments of {self.name} do not fit: {error}"
            raise InvalidInputError(message) from error
        return self.call_encoded(msgspec.Raw(encoded), options)

    def call_encoded(self, args: msgspec.Raw, options: Options) -> Call:
        """Build a call from arguments that are JSON already, and checked against `args_type`.

        Raises:
            TooLargeError: they are over 256 KiB.
            InvalidInputError: they cannot be stored, or an option is out of bounds.

        """
        encoded = bytes(args)
        if len(encoded) > MAX_ARGS_BYTES:
            message = (
                f"the arguments of {self.name} take {len(encoded)} bytes, more than {MAX_ARGS_BYTES}: pass a reference"
            )
            raise TooLargeError(message)
        if holds_nul(encoded):
            message = f"the arguments of {self.name} hold the character NUL, which PostgreSQL cannot store"
            raise InvalidInputError(message)
        require_sound(options)
        return Call(
            task=self.name,
            args=args,
            queue=options.queue or self.policy.queue,
            priority=self.policy.priority if options.priority is None else options.priority,
            max_attempts=self.policy.retry.max_attempts if options.max_attempts is None else options.max_attempts,
            delay_seconds=options.delay_seconds,
            run_at=options.run_at,
            expires_at=options.expires_at,
            unique_key=options.unique_key,
            unique_seconds=options.unique_seconds,
            concurrency_key=options.concurrency_key,
            tags=options.tags,
            on_dead=self.policy.on_dead,
            retention_seconds=self.policy.retention_seconds,
            overrides=self.policy.overrides_of(options),
        )

    def options(self, options: Options) -> TaskWithOptions[P]:
        """Return this task with other options, to be enqueued in a transaction."""
        return TaskWithOptions(self, options)


@dataclass(frozen=True, slots=True)
class TaskWithOptions(Generic[P]):
    """A task and how one call of it departs from its defaults."""

    task: Task[P, Any]
    chosen: Options

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Build the call for these arguments."""
        return self.task.call_with(self.chosen, args, kwargs)


class Declare(Protocol):
    """Makes a task of a function.

    A wish is never a result: who calls the function itself and knows that it wishes nothing gets an `R`.
    """

    @overload
    def __call__(
        self, function: Callable[Concatenate[Run, P], Coroutine[Any, Any, R | Snooze | Cancel]]
    ) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[ThreadRun, P], R | Snooze | Cancel]) -> Task[P, R]: ...


def task(  # noqa: PLR0913 - a declaration names each of its choices
    name: str,
    *,
    queue: str = DEFAULT_QUEUE,
    priority: int = DEFAULT_PRIORITY,
    retry: Retry | None = None,
    timeout_seconds: float | None = 300.0,
    aliases: tuple[str, ...] = (),
    result: bool = True,
    retention_seconds: float | None = None,
    on_dead: Task[..., Any] | None = None,
    runs_in: Literal["thread", "process"] | None = None,
) -> Declare:
    """Declare a task.

    Args:
        name: the stable name on record, such as `shop.greet`; never derived from the module, so that code can move.
        queue: where its jobs wait unless a call says otherwise.
        priority: 0 to 9, 9 first.
        retry: when a failed attempt is tried again; 10 attempts with exponential backoff where not given.
        timeout_seconds: how long one attempt may take; None for no bound.
        aliases: names that it had before; jobs on record under them are run by it.
        result: False stores nothing of what it returns.
        retention_seconds: how long after its end a job leaves the record; None for the retention of all.
        on_dead: the task of which a job is made when one of these is dead, with the arguments `job_id`, `task`
            and `error`.
        runs_in: where a plain function runs, in a thread unless this says `process`; a coroutine function runs on the
            worker's event loop.

    Raises:
        ConfigurationError: the first parameter is not the run, an annotation cannot be read from JSON, a value is out
            of bounds, `on_dead` does not take its arguments, or the function cannot run where it should.

    Example:
        >>> @task("shop.greet", queue="mail")
        ... async def greet(run: Run, name: str) -> str:
        ...     return f"Good morning, {name}"

    """
    policy = Policy(
        queue=queue,
        priority=priority,
        retry=retry or Retry(),
        timeout_seconds=timeout_seconds,
        aliases=aliases,
        result=result,
        retention_seconds=retention_seconds,
        on_dead=None if on_dead is None else _told_of_deaths(name, on_dead),
    )
    require_sound_policy(name, policy)

    def declare(function: Callable[..., Any]) -> Task[..., Any]:
        place = place_of(name, function, runs_in)
        return Task(name, function, policy if place is policy.runs_in else replace(policy, runs_in=place))

    return cast("Declare", declare)


def _told_of_deaths(name: str, hook: Task[..., Any]) -> str:
    """Return the name of a task that is told of deaths, when it takes what it will be told."""
    try:
        hook.decoder.decode(_A_DEATH)
    except msgspec.MsgspecError as error:
        message = (
            f"the task {name} names {hook.name} as on_dead, which must take exactly the arguments "
            f"job_id: UUID, task: str and error: str: {error}"
        )
        raise ConfigurationError(message) from error
    return hook.name
