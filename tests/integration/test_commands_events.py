"""`headrace events` and `headrace subscriptions` as an operator uses them: what they print, change and refuse."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any, Final

import pytest

from headrace.application import Application, combine
from headrace.subscribers.checkpoints import register
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests.integration.api_road import ThingHappened
from tests.integration.commands import Ended, headrace, started
from tests.lanes import relaying
from tests.road import Road, eventually

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


async def test_events_are_published_when_they_are_read(road: Road, tmp_path: Path) -> None:
    """From a file or standard input; the same ones twice are the same events, and one wrong event lets none in."""
    text = "\n".join(json.dumps(happened(identity)) for identity in ("a-1", "a-2"))
    file = tmp_path / "events"
    file.write_text(text)

    read = await events(road, "publish", "--json", stdin=text)
    again = await events(road, "publish", str(file), "--json")
    wrong = await events(road, "publish", "-", stdin=json.dumps([happened("b"), happened("c", data={})]))

    assert read.code == 0, read.err
    assert len(read.json["ids"]) == 2
    assert again.json == read.json
    assert (wrong.code, wrong.out) == (2, "")
    assert await road.driver.fetchval("SELECT count(*) FROM event_log") == 2


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


async def placed(road: Road, count: int) -> None:
    """Publish things 1 to `count`, and wait until all have their positions."""
    sent = [happened(str(number), data={"thing": "lamp", "count": number}) for number in range(1, count + 1)]
    assert (await events(road, "publish", stdin=json.dumps(sent))).code == 0
    await eventually(lambda: _is_placed(road, count))


async def _is_placed(road: Road, count: int) -> bool:
    return bool(await road.driver.fetchval("SELECT sum(head) = $1 FROM lanes", count))


async def test_events_of_the_past_are_printed_when_a_tail_begins_there(road: Road) -> None:
    """A line for each, or a document; those that meet the pattern, the subject and the filter."""
    async with relaying(road.settings):
        await placed(road, 3)
    plain = await events(road, "tail", "--since", "10m", "--no-follow")
    told = await events(
        road,
        "tail",
        "trial.*",
        "--since",
        "1h",
        "--no-follow",
        "--json",
        "--filter",
        '{"count": [{"numeric": [">", 1]}]}',
    )
    other = await events(road, "tail", "*.forgotten", "--since", "2020-01-01T00:00:00Z", "--no-follow")

    assert [line.split("  ")[1] for line in plain.out.splitlines()] == ["trial.thing.happened"] * 3
    assert [json.loads(line)["data"]["count"] for line in told.out.splitlines()] == [2, 3]
    assert (other.code, other.out) == (0, "")


async def tailing(road: Road, *arguments: str) -> asyncio.subprocess.Process:
    """Start a tail that can reach the record alone."""
    away = "redis://127.0.0.1:1/0"
    command = ("events", "tail", "--since", "1m", *arguments)
    return await started(road, *command, HEADRACE_APPLICATIONS=APPLICATIONS, HEADRACE_REDIS_URL=away)


async def test_tail_ends_quietly_when_it_is_interrupted_or_nobody_reads(road: Road) -> None:
    """Events come without Redis and the API; SIGINT is exit code 0, a closed pipe no traceback."""
    async with relaying(road.settings):
        following = await tailing(road, "--json")
        unread = await tailing(road)
        assert following.stdout is not None
        assert unread.stdout is not None
        await placed(road, 2)
        first = json.loads(await following.stdout.readline())
        unread.stdout._transport.close()  # type: ignore[attr-defined]  # as `head` does when it has enough
        sent = json.dumps([happened(str(number)) for number in range(3, 200)])
        assert (await events(road, "publish", stdin=sent)).code == 0
        _, complaint = await unread.communicate()
    following.send_signal(signal.SIGINT)
    _, said = await following.communicate()

    assert first["data"] == {"thing": "lamp", "count": 1}
    assert (following.returncode, said) == (0, b"")
    assert complaint == b""
