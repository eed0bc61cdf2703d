"""Failures on demand: a test says what goes wrong, and Headrace's own code deals with it.

Owns the faults that were asked for, and the wrapping of tasks and subscriptions by which they happen. An error is
raised before the function begins; a crash comes after it has ended and before anything is committed, which is the
worst moment: what it did outside PostgreSQL is done, and nobody has noted it. Retries wait for exactly the bound of
their policy here: a test must not depend on jitter. Never wrap what a producer sends through: only what is executed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from headrace.errors import ConfigurationError
from headrace.jobs.retry import Retry
from headrace.subscribers.contract import Subscription
from headrace.tasks.contract import Task
from headrace.tasks.policy import RunsIn

P = ParamSpec("P")
R = TypeVar("R")

Failing = Task[..., Any] | Subscription
"""What can be made to fail."""


class Crash(BaseException):
    """The process dies here. No Exception, so that nothing on the way takes it for an outcome."""


@dataclass(frozen=True, slots=True)
class Steady(Retry):
    """A retry policy without jitter: each delay is the longest that its policy allows."""

    bound: Callable[[Retry, int], float] = Retry.bound_seconds
    """As the policy's own class has it."""

    def delay_seconds(self, attempt: int) -> float:
        """Return the bound itself."""
        return self.bound(self, attempt)


class Faults:
    """The faults of one test."""

    def __init__(self) -> None:
        self._errors: dict[str, deque[BaseException]] = {}
        self._crashes: Counter[str] = Counter()

    def fail(self, what: Failing, error: BaseException, *, times: int) -> None:
        """Let the next attempts raise an error in the place of their function.

        Raises:
            ConfigurationError: the function runs in a process of its own, where no fault reaches it.

        """
        _require_reach(what)
        self._errors.setdefault(what.name, deque()).extend([error] * times)

    def crash(self, what: Failing, *, times: int) -> None:
        """Let the process die at the end of the next attempts, before they commit; raises as `fail` does."""
        _require_reach(what)
        self._crashes[what.name] += times

    def task(self, task: Task[..., Any]) -> Task[..., Any]:
        """Return a copy of a task in which faults happen."""
        wrapped = copy.copy(task)
        if task.policy.runs_in is RunsIn.LOOP:
            wrapped.function = self._wrapped(task.name, task.function)
        elif task.policy.runs_in is RunsIn.THREAD:
            function = cast("Callable[..., Any]", task.function)
            wrapped.function = cast("Any", self._wrapped_plain(task.name, function))
        wrapped.policy = dataclasses.replace(task.policy, retry=_steady(task.policy.retry))
        return wrapped

    def subscription(self, subscription: Subscription) -> Subscription:
        """Return a copy of a subscription in which faults happen."""
        return dataclasses.replace(
            subscription,
            function=self._wrapped(subscription.name, subscription.function),
            policy=dataclasses.replace(subscription.policy, retry=_steady(subscription.policy.retry)),
        )

    def _wrapped(self, name: str, function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        async def faulty(*args: P.args, **kwargs: P.kwargs) -> R:
            self._before(name)
            value = await function(*args, **kwargs)
            self._after(name)
            return value

        return faulty

    def _wrapped_plain(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        def faulty(*args: P.args, **kwargs: P.kwargs) -> R:
            self._before(name)
            value = function(*args, **kwargs)
            self._after(name)
            return value

        return faulty

    def _before(self, name: str) -> None:
        if errors := self._errors.get(name):
            raise errors.popleft()

    def _after(self, name: str) -> None:
        if self._crashes[name]:
            self._crashes[name] -= 1
            message = f"{name} was asked to crash"
            raise Crash(message)


def _require_reach(what: Failing) -> None:
    if isinstance(what, Task) and what.policy.runs_in is RunsIn.PROCESS:
        message = f"{what.name} runs in a process of its own, where no fault reaches it: test its function by itself"
        raise ConfigurationError(message)


def _steady(retry: Retry) -> Steady:
    own = {field.name: getattr(retry, field.name) for field in dataclasses.fields(Retry)}
    return Steady(**own, bound=type(retry).bound_seconds)
