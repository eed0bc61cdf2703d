"""`headrace events` and `headrace subscriptions` as an operator uses them: what they print, change and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from headrace.application import Application, combine
from headrace.subscribers.checkpoints import register
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.integration.api_road import ThingHappened
from tests.integration.commands import Ended, headrace
from tests.road import Road

APPLICATIONS: Final = "tests.integration.api_road:TRIAL"


async def events(road: Road, *arguments: str, stdin: str | None = None) -> Ended:
    """Run `headrace events` with an application that declares an event."""
    return await headrace(road, "events", *arguments, stdin=stdin, HEADRACE_APPLICATIONS=APPLICATIONS)


def happened(identity: str, **changes: object) -> dict[str, Any]:
    """Return a CloudEvent."""
    event: dict[str, Any] = {"specversion": "1.0", "id": identity, "source": "/test", "type": "trial.thing.happened"}
    return event | {"data": {"thing": "lamp"}} | changes


@subscriber("trial.watcher", ThingHappened)
async def watcher(delivery: Delivery, data: ThingHappened) -> None:
    """Listen, and do nothing."""
    del delivery, data


@pytest.fixture
async def listened(road: Road) -> Road:
    """A road with the subscription `trial.watcher`."""
    declared = combine([Application(name="watching", events=(ThingHappened,), subscriptions=(watcher,))])
    await register(road.record.engine, declared.subscriptions.values())
    return road


async def test_event_is_shown_when_it_was_published_by_its_parts(listened: Road) -> None:
    """Its id is printed; it is found by it, with its subscriptions."""
    ended = await events(
        listened, "publish", "--type", "trial.thing.happened", "--subject", "lamp-7", "--data", '{"thing": "lamp"}'
    )
    shown = await events(listened, "show", ended.out.strip())
    told = await events(listened, "show", ended.out.strip(), "--json")

    assert (ended.code, ended.err) == (0, "")
    assert (told.json["subject"], told.json["data"]) == ("lamp-7", {"thing": "lamp", "count": 1})
    assert [one["subscription"] for one in told.json["deliveries"]] == ["trial.watcher"]
    assert "trial.thing.happened, version 1" in shown.out
    assert "pending" in shown.out


@pytest.mark.parametrize("form", ["one", "array", "lines", "pretty"])
async def test_events_are_published_when_they_are_read(road: Road, tmp_path: Path, form: str) -> None:
    """One CloudEvent, an array, or one on each line, from standard input or a file."""
    sent = [happened("a-1"), happened("a-2")]
    text = {
        "one": json.dumps(sent[0]),
        "array": json.dumps(sent),
        "lines": "\n".join(map(json.dumps, sent)),
        "pretty": json.dumps(sent[0], indent=2),
    }[form]
    file = tmp_path / "events"
    file.write_text(text)

    read = await events(road, "publish", "--json", stdin=text)
    again = await events(road, "publish", str(file), "--json")

    assert read.code == 0, read.err
    assert len(read.json["ids"]) == (2 if form in {"array", "lines"} else 1)
    assert again.json == read.json


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([happened("1"), happened("2", type="trial.thing.lost")], "1.type: no application declares the event type"),
        ([happened("1", data={"thing": 7})], "data.thing: expected `str`, got `int`"),
        ([], "there is no event in it"),
    ],
)
async def test_nothing_is_published_when_an_event_is_wrong(road: Road, sent: list[dict[str, Any]], said: str) -> None:
    """What is wrong is named with its place; the exit code is 2."""
    ended = await events(road, "publish", "-", stdin=json.dumps(sent))

    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert await road.driver.fetchval("SELECT count(*) FROM event_log") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--type", "trial.thing.lost"), "no application declares the event type trial.thing.lost"),
        (("--type", "trial.thing.happened", "--data", "{"), "not JSON"),
        (("--subject", "lamp"), "name its --type"),
        (("-", "--type", "trial.thing.happened"), "not both"),
        (("-",), "the body is not JSON"),
    ],
)
async def test_event_is_refused_when_it_is_not_well_given(road: Road, arguments: tuple[str, ...], said: str) -> None:
    """A usage error is exit code 2 and says what is wrong."""
    ended = await events(road, "publish", *arguments, stdin="nothing")

    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


async def test_command_fails_when_there_is_no_such_event(road: Road) -> None:
    """An unknown id is one line on standard error, and exit code 1."""
    ended = await events(road, "show", "nothing")

    assert (ended.code, ended.out, ended.err) == (1, "", "headrace: there is no event nothing\n")


async def test_subscriptions_are_listed_when_no_command_follows(listened: Road) -> None:
    """The same page as the API's as JSON, aligned columns otherwise."""
    plain = await headrace(listened, "subscriptions")
    told = await headrace(listened, "subscriptions", "--json")

    assert plain.out.splitlines()[1].split()[:4] == ["trial.watcher", "subscriber", "open", "0"]
    assert [one["name"] for one in told.json["items"]] == ["trial.watcher"]
    assert told.json["next_cursor"] is None


async def test_subscription_rests_when_it_is_paused_until_it_is_resumed(listened: Road) -> None:
    """The switch is on record, with who turned it."""
    paused = await headrace(listened, "subscriptions", "pause", "trial.watcher")
    shown = await headrace(listened, "subscriptions", "show", "trial.watcher")
    resumed = await headrace(listened, "subscriptions", "resume", "trial.watcher", "--json")
    unknown = await headrace(listened, "subscriptions", "pause", "nobody")

    assert paused.out == "the subscription trial.watcher is paused\n"
    assert "paused " in shown.out
    assert resumed.json["paused"] is False
    assert (unknown.code, unknown.err) == (1, "headrace: there is no subscription nobody\n")
