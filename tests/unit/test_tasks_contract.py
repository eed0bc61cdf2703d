"""Declaring tasks, and the calls that are built from them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from taskiq.exceptions import SendTaskError

from headrace.errors import ConfigurationError, InvalidInputError
from headrace.jobs.call import MAX_ARGS_BYTES, Options
from headrace.jobs.retry import Retry
from headrace.tasks.contract import task
from headrace.tasks.run import Run


class Line(msgspec.Struct):
    """An argument of a type of the application's own."""

    sku: str
    quantity: int


@task("shop.order", queue="orders", priority=7, retry=Retry(max_attempts=4))
async def order(run: Run, lines: list[Line], note: str = "", *, urgent: bool = False) -> int:
    """Place an order.

    More about it.
    """
    del run, note, urgent
    return len(lines)


@task("shop.anything")
async def anything(run: Run, value: object) -> None:
    """Take anything."""
    del run, value


LINES = [Line("a", 2)]


def test_call_has_the_defaults_of_its_task() -> None:
    """A call without options runs as its task declares."""
    call = order.call(LINES, note="now")

    assert (call.task, call.queue, call.priority, call.max_attempts) == ("shop.order", "orders", 7, 4)
    assert msgspec.json.decode(call.args) == {"lines": [{"sku": "a", "quantity": 2}], "note": "now"}


def test_call_departs_from_its_task_by_options() -> None:
    """Options win over the declaration, zero included."""
    when = datetime.now(UTC) + timedelta(hours=1)
    options = Options(queue="other", priority=0, max_attempts=1, run_at=when, unique_key="k", tags=("x",))

    call = order.options(options).call(LINES)

    assert (call.queue, call.priority, call.max_attempts) == ("other", 0, 1)
    assert (call.run_at, call.unique_key, call.tags) == (when, "k", ("x",))


def test_description_is_the_first_paragraph() -> None:
    """The task list shows one sentence."""
    assert order.description == "Place an order."


def test_defaults_are_filled_in_where_the_call_is_decoded() -> None:
    """The worker sees the default of today's code, not that of the day of the call."""
    decoded = order.decoder.decode(bytes(order.call(LINES).args))

    assert msgspec.to_builtins(decoded)["note"] == ""
    assert msgspec.to_builtins(decoded)["urgent"] is False


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((LINES, "note", "third"), {}),
        ((LINES,), {"unknown": 1}),
        (([{"sku": "a", "quantity": "two"}],), {}),
        (("no list",), {}),
        ((LINES,), {"note": 3}),
    ],
)
def test_call_is_refused_when_the_arguments_do_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A call that no worker could decode never reaches the record."""
    with pytest.raises(InvalidInputError, match=r"shop\.order"):
        order.call(*args, **kwargs)


@pytest.mark.parametrize("value", [object(), "\ud800", "a\x00b", "x" * MAX_ARGS_BYTES])
def test_call_is_refused_when_the_record_cannot_hold_it(value: object) -> None:
    """What is no JSON, holds NUL or is too large is refused before anything is written."""
    with pytest.raises(InvalidInputError, match=r"shop\.anything"):
        anything.call(value)


def test_call_is_accepted_when_a_text_speaks_of_nul() -> None:
    """A backslash before `u0000` is no NUL."""
    call = anything.call("a\\u0000b")

    assert msgspec.json.decode(call.args) == {"value": "a\\u0000b"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (Options(priority=10), "priority"),
        (Options(priority=-1), "priority"),
        (Options(max_attempts=0), "max_attempts"),
        (Options(delay_seconds=-1), "delay_seconds"),
        (Options(delay_seconds=float("inf")), "delay_seconds"),
        (Options(delay_seconds=float("nan")), "delay_seconds"),
        (Options(delay_seconds=1, run_at=datetime.now(UTC)), "delay_seconds"),
        (Options(run_at=datetime.now(UTC).replace(tzinfo=None)), "run_at"),
        (Options(expires_at=datetime.now(UTC).replace(tzinfo=None)), "expires_at"),
        (Options(queue=""), "queue"),
        (Options(unique_key="a\x00"), "options"),
        (Options(tags=("\ud800",)), "options"),
    ],
)
def test_call_is_refused_when_an_option_is_out_of_bounds(options: Options, field: str) -> None:
    """Each wrong option is named."""
    with pytest.raises(InvalidInputError) as refused:
        order.options(options).call(LINES)

    assert field in [error.field for error in refused.value.errors]


def test_declaration_is_refused_when_the_run_is_missing() -> None:
    """The first parameter is the run."""
    with pytest.raises(ConfigurationError, match="needs the run"):

        @task("shop.alone")  # type: ignore[arg-type]  # what mypy refuses too
        async def alone() -> None:
            await asyncio.sleep(0)


def test_declaration_is_refused_when_a_parameter_has_no_annotation() -> None:
    """Without a type there is nothing to decode into."""
    with pytest.raises(ConfigurationError, match="must annotate its parameter value"):

        @task("shop.untyped")
        async def untyped(run: Run, value) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - the fault that is tried here
            del run, value


def test_declaration_is_refused_when_arguments_are_not_one_by_one() -> None:
    """`*args` has no names for the JSON object."""
    with pytest.raises(ConfigurationError, match="one by one"):

        @task("shop.variadic")
        async def variadic(run: Run, *values: int) -> None:
            del run, values


def test_declaration_is_refused_when_a_type_is_not_json() -> None:
    """A parameter that no JSON can become is found when the module is imported, not when a job dies of it."""
    with pytest.raises(ConfigurationError, match="cannot be read from JSON"):

        @task("shop.impossible")
        async def impossible(run: Run, value: dict[int, str] | dict[str, int]) -> None:
            del run, value


def test_declaration_is_refused_when_its_policy_is_out_of_bounds() -> None:
    """Priority 10 does not exist."""
    with pytest.raises(ConfigurationError, match=r"shop\.first: priority must be 0 to 9"):
        task("shop.first", priority=10)


async def test_kiq_is_refused_when_the_application_is_not_loaded() -> None:
    """A task that no broker has bound says what to do."""
    with pytest.raises(SendTaskError) as refused:
        await anything.kiq(1)

    assert "list it in an Application" in str(refused.value.__cause__)


def test_args_type_accepts_ids_as_the_record_holds_them() -> None:
    """Types beyond JSON's own are decoded by msgspec."""

    @task("shop.by_id")
    async def by_id(run: Run, order_id: UUID, at: datetime) -> None:
        del run, order_id, at

    call = by_id.call(UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC))

    decoded = msgspec.structs.asdict(by_id.decoder.decode(bytes(call.args)))
    assert decoded == {"order_id": UUID(int=1), "at": datetime(2026, 1, 1, tzinfo=UTC)}
