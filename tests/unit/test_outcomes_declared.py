"""What a task declares about the ends of its jobs, and what a call sets otherwise."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from headrace.application import Application, combine
from headrace.errors import ConfigurationError, InvalidInputError
from headrace.jobs.call import Options, Overrides
from headrace.jobs.retry import Cancel, Retry, Snooze
from headrace.jobs.schedule import Schedule
from headrace.tasks.contract import Task, task
from headrace.tasks.policy import Policy
from headrace.tasks.run import Run


@task("shop.told")
async def told(run: Run, job_id: UUID, task: str, error: str) -> None:
    """Be told of a death."""
    del run, job_id, task, error


@task("shop.told_briefly")
async def told_briefly(run: Run, job_id: str) -> None:
    """Take too little."""
    del run, job_id


@task("shop.greet", aliases=("shop.welcome",), on_dead=told, retention_seconds=60.0, retry=Retry(max_losses=5))
async def greet(run: Run, name: str) -> str:
    """Greet somebody."""
    del run
    return name


@task("shop.plain")
async def plain(run: Run) -> None:
    """Declare nothing."""
    del run


def named(name: str, *aliases: str) -> Task[..., Any]:
    """Return a task with these names."""

    @task(name, aliases=aliases)
    async def function(run: Run) -> None:
        del run

    return function


def test_call_carries_what_its_task_declares_about_its_end() -> None:
    """The job's own row says it, so that a later deploy cannot change what was promised."""
    call = greet.call("Ada")

    assert (call.on_dead, call.retention_seconds, call.overrides) == ("shop.told", 60.0, Overrides(max_losses=5))
    assert (plain.call().on_dead, plain.call().retention_seconds, plain.call().overrides) == (None, None, None)


def test_call_carries_what_it_sets_otherwise() -> None:
    """Only what is set is stored."""
    options = Options(first_delay_seconds=0, timeout_seconds=5, unique_key="k", unique_seconds=60)

    call = plain.options(options).call()

    assert call.unique_seconds == 60
    assert msgspec.json.encode(call.overrides) == b'{"first_delay_seconds":0,"timeout_seconds":5}'


def test_policy_is_the_tasks_own_but_for_what_the_call_sets() -> None:
    """Zero counts as set; what is missing, and what a newer version may add, is left alone."""
    declared = Policy(retry=Retry(max_attempts=7, first_delay_seconds=2, max_delay_seconds=9), timeout_seconds=30)

    found = declared.with_overrides('{"first_delay_seconds": 0, "of_tomorrow": 1}')

    assert found.retry == Retry(max_attempts=7, first_delay_seconds=0, max_delay_seconds=9)
    assert found.timeout_seconds == 30
    assert declared.with_overrides('{"max_delay_seconds": 1, "timeout_seconds": 2}').timeout_seconds == 2
    assert declared.with_overrides(None) is declared


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (Options(first_delay_seconds=-1), "first_delay_seconds"),
        (Options(max_delay_seconds=float("nan")), "max_delay_seconds"),
        (Options(timeout_seconds=0), "timeout_seconds"),
        (Options(timeout_seconds=float("inf")), "timeout_seconds"),
        (Options(unique_key="k", unique_seconds=0), "unique_seconds"),
        (Options(unique_seconds=60), "unique_seconds"),
    ],
)
def test_call_is_refused_when_what_it_sets_is_out_of_bounds(options: Options, field: str) -> None:
    """Each wrong option is named."""
    with pytest.raises(InvalidInputError) as refused:
        plain.options(options).call()

    assert [error.field for error in refused.value.errors] == [field]


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"retry": Retry(first_delay_seconds=-1)}, "first_delay_seconds must be"),
        ({"retry": Retry(max_delay_seconds=float("inf"))}, "max_delay_seconds must be"),
        ({"retry": Retry(max_losses=0)}, "max_losses must be at least 1"),
        ({"timeout_seconds": 0}, "timeout_seconds must be"),
        ({"retention_seconds": -1}, "retention_seconds must be"),
        ({"aliases": ("shop.first",)}, "another name"),
        ({"aliases": ("shop.zeroth", "shop.zeroth")}, "another name"),
        ({"on_dead": told_briefly}, "shop.told_briefly as on_dead, which must take exactly"),
        ({"on_dead": plain}, "shop.plain as on_dead, which must take exactly"),
    ],
)
def test_declaration_is_refused_when_no_job_could_have_it(declared: dict[str, Any], reason: str) -> None:
    """The process does not start, and the message names the task."""
    with pytest.raises(ConfigurationError, match=rf"shop\.first.*{reason}"):
        task("shop.first", **declared)


@pytest.mark.parametrize(
    ("tasks", "name"),
    [
        ((named("a.one", "a.old"), named("a.two", "a.old")), "a.old"),
        ((named("a.one", "a.two"), named("a.two")), "a.two"),
        ((named("a.one"), named("a.two", "a.one")), "a.one"),
    ],
)
def test_applications_are_refused_when_two_tasks_claim_one_name(tasks: tuple[Task[..., Any], ...], name: str) -> None:
    """Which of the two would run the job must not be chance."""
    one, other = (Application(name=place, tasks=(task,)) for place, task in zip("xy", tasks, strict=True))

    with pytest.raises(ConfigurationError, match=f"{name} is declared twice"):
        combine([one, other])


def test_applications_are_refused_when_nobody_lists_the_task_that_is_told() -> None:
    """Its jobs would wait for ever."""
    with pytest.raises(ConfigurationError, match=r"shop\.greet names shop\.told as on_dead, which no application"):
        combine([Application(name="shop", tasks=(greet,))])


def test_registry_knows_tasks_by_each_name_and_lists_them_by_one() -> None:
    """A schedule that still calls the old name is accepted."""
    old = msgspec.structs.replace(greet.call("Ada"), task="shop.welcome")

    registry = combine([Application(name="shop", tasks=(greet, told), schedules=(Schedule("s", "0 3 * * *", old),))])

    assert set(registry.tasks) == {"shop.greet", "shop.told"}
    assert set(registry.names) == {"shop.greet", "shop.welcome", "shop.told"}
    assert registry.names["shop.welcome"] is greet


async def _union(run: Run) -> int | Snooze: ...  # type: ignore[empty-body]  # only its annotation is read
async def _three(run: Run) -> list[str] | Snooze | Cancel: ...  # type: ignore[empty-body]  # only its annotation is read
async def _nothing(run: Run) -> Snooze | None: ...
async def _wish(run: Run) -> Snooze: ...  # type: ignore[empty-body]  # only its annotation is read
async def _annotated(run: Run) -> Annotated[int, msgspec.Meta(ge=0)] | Cancel: ...  # type: ignore[empty-body]  # only its annotation is read
async def _literal(run: Run) -> Literal["a", "b"] | Snooze: ...  # type: ignore[empty-body]  # only its annotation is read
async def _plain(run: Run) -> str: ...  # type: ignore[empty-body]  # only its annotation is read


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (_union, int),
        (_three, list[str]),
        (_nothing, type(None)),
        (_wish, type(None)),
        (_annotated, Annotated[int, msgspec.Meta(ge=0)]),
        (_literal, Literal["a", "b"]),
        (_plain, str),
    ],
)
def test_result_type_is_without_the_wishes(function: Any, expected: object) -> None:  # noqa: ANN401 - any task's function
    """What a task may wish is no result: Taskiq's results and the schema leave it out."""
    assert task("shop.some")(function).return_type == expected
