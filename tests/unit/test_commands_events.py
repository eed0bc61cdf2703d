"""`headrace events` refuses what is not well given before it asks the record."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from headrace.cli import cli
from headrace.commands.events_publishing import _members


def happened(identity: str, **changes: object) -> dict[str, Any]:
    """Return a CloudEvent."""
    event: dict[str, Any] = {"specversion": "1.0", "id": identity, "source": "/test", "type": "trial.thing.happened"}
    return event | {"data": {"thing": "lamp"}} | changes


@pytest.fixture(autouse=True)
def applications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare an event, and name a record that is not there."""
    monkeypatch.setenv("HEADRACE_APPLICATIONS", "tests.integration.api_road:TRIAL")
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://127.0.0.1:1/none")


def events(*arguments: str, stdin: str = "") -> Result:
    """Run `headrace events` in this process."""
    return CliRunner().invoke(cli, ["events", *arguments], input=stdin)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([happened("1"), happened("2", type="trial.thing.lost")], "1.type: no application declares the event type"),
        ([happened("1", data={"thing": 7})], "data.thing: expected `str`, got `int`"),
        ([], "there is no event in it"),
    ],
)
def test_nothing_is_published_when_an_event_is_wrong(sent: list[dict[str, Any]], said: str) -> None:
    """What is wrong is named with its place; the exit code is 2."""
    ended = events("publish", "-", stdin=json.dumps(sent))

    assert (ended.exit_code, ended.stdout) == (2, "")
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("publish", "--type", "trial.thing.lost"), "no application declares the event type trial.thing.lost"),
        (("publish", "--type", "trial.thing.happened", "--data", "{"), "not JSON"),
        (("publish", "--subject", "lamp"), "name its --type"),
        (("publish", "-", "--type", "trial.thing.happened"), "not both"),
        (("publish", "-"), "the body is not JSON"),
        (("tail", "Trial"), "is no event type or pattern"),
        (("tail", "--since", "yesterday"), "is no time"),
        (("tail", "--since", "2026-01-31T12:00:00"), "with a time zone"),
        (("tail", "--since", "99999999999d"), "is no time"),
        (("show", "\udcff"), "write '\\xff' as UTF-8"),
        (("publish", "--type", "trial.thing.happened", "--data", '{"thing":"\udcff"}'), "is not UTF-8 text"),
        (("tail", "--subject", "\udcff"), "is not UTF-8 text"),
        (("tail", "--filter", "{"), "Error"),
        (("tail", "--filter", '{"count": 1}'), "filter.count"),
    ],
)
def test_command_is_refused_when_it_is_not_well_given(arguments: tuple[str, ...], said: str) -> None:
    """A usage error is exit code 2 and says what is wrong."""
    ended = events(*arguments, stdin="nothing")

    assert (ended.exit_code, ended.stdout) == (2, "")
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (json.dumps(happened("1")), 1),
        (json.dumps(happened("1"), indent=2), 1),
        (json.dumps([happened("1"), happened("2")], indent=2), 2),
        ("\n".join(json.dumps(happened(one)) for one in "12") + "\n\n", 2),
    ],
    ids=["object", "pretty", "array", "lines"],
)
def test_events_are_told_apart_when_they_are_read(text: str, count: int) -> None:
    """One document, an array, or one on each line."""
    found = _members(text.encode())

    assert [bytes(member["id"]) for member in found] == [b'"1"', b'"2"'][:count]
