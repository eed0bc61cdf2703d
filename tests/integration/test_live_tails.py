"""Events as they come, by server-sent events and WebSocket, over real sockets with a relay behind them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed, InvalidStatus

from headrace.database.record import Record
from headrace.events.log import new_event
from headrace.keys import create_key, revoke_key
from headrace.live.hub import TURNS
from headrace.settings import Settings
from headrace.transaction import transaction
from tests import lanes
from tests.lanes import Forgotten, Thing, eventually, publish
from tests.live import HEADERS, KEY, Reader, Served, message, serving


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    """The settings of an API and a relay."""
    return Settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
async def served(settings: Settings) -> AsyncIterator[Served]:
    """An API on a socket, with a relay behind it."""
    async with serving(settings) as opened:
        yield opened


async def append(record: Record, *numbers: int, keys: int = 1) -> None:
    """Publish a thing for each number in one transaction, over that many keys."""
    async with transaction(record) as tx:
        await tx.publish_events([new_event(Thing(f"k{number % keys}", number)) for number in numbers])


async def heads(record: Record) -> int:
    """Return how many events have their position."""
    async with record.engine.connect() as connection:
        return int((await connection.exec_driver_sql("SELECT sum(head) FROM lanes")).scalar_one())


async def test_events_come_as_cloudevents_when_they_are_published(served: Served) -> None:
    """By both ways, in the form of `GET /v1/events`."""
    async with served.tail(type="tests.*") as reader, served.socket(query={"type": "tests.thing.*"}) as socket:
        await served.publish(1, 2, 3)
        first = await reader.told()
        rest = await reader.numbers(2)
        messages = [await message(socket) for _ in range(3)]
    page = (await served.client.get("/v1/events")).json()["items"]

    assert first == ("message", page[2])
    assert rest == [2, 3]
    assert [one["data"]["number"] for one in messages] == [1, 2, 3]
    assert messages[-1].pop("last_event_id") == reader.last_event_id
    assert messages[-1] == page[0]


async def test_only_what_is_wanted_comes_when_a_tail_says_what(served: Served) -> None:
    """Types, a subject and a filter, all of which have to hold."""
    types = ["tests.thing.happened", "*.forgotten"]
    chosen = json.dumps({"number": [{"numeric": [">", 1]}]})
    async with (
        served.tail(type=types, subject="a") as reader,
        served.socket(query={"filter": chosen, "subject": "a"}) as socket,
    ):
        await publish(served.door.record, [Thing("b", 9), Thing("a", 1), Forgotten("b"), Forgotten("a"), Thing("a", 2)])
        told = [(await reader.told())[1]["type"].rpartition(".")[2] for _ in range(3)]
        only = await message(socket)

    assert told == ["happened", "forgotten", "happened"]
    assert (only["subject"], only["data"]["number"]) == ("a", 2)


async def test_tail_resumes_when_it_gives_its_last_id(served: Served) -> None:
    """From the beginning where nothing came yet, after an event, by the header before the parameter."""
    async with served.tail() as reader:
        began = reader.last_event_id
    await served.publish(1, 2, 3, 4)
    async with served.tail(began) as reader:
        first = await reader.numbers(2)
    async with (
        served.tail(reader.last_event_id, last_event_id=began) as again,
        served.socket(query={"last_event_id": began}) as ws,
    ):
        second = await again.numbers(2)
        messages = [await message(ws) for _ in range(4)]
    async with served.socket(HEADERS | {"Last-Event-ID": messages[2]["last_event_id"]}) as ws:
        last = await message(ws)

    assert (first, second) == ([1, 2], [3, 4])
    assert [one["data"]["number"] for one in messages] == [1, 2, 3, 4]
    assert last["data"]["number"] == 4


async def test_nothing_is_missed_or_repeated_when_a_tail_resumes_under_traffic(served: Served) -> None:
    """A long way behind, breaking off again and again while events of many keys come, each key in order."""
    record, total = served.door.record, 3000
    async with served.tail() as reader:
        at = reader.last_event_id
    await append(record, *range(2000), keys=50)

    async def go_on() -> None:
        for first in range(2000, total, 20):
            await append(record, *range(first, first + 20), keys=50)

    traffic = asyncio.create_task(go_on())
    seen: dict[str, list[int]] = defaultdict(list)
    read = 0
    while read < total:
        async with served.tail(at) as reader:
            for _ in range(min(700, total - read)):
                kind, event = await reader.told()
                assert kind == "message", (event, read, str(served.door.hub.marks), at)
                seen[event["subject"]].append(event["data"]["number"])
                read += 1
            at = reader.last_event_id
    await traffic

    assert seen == {f"k{key}": list(range(key, total, 50)) for key in range(50)}


@pytest.mark.parametrize("given", ["nothing", "1-2-x", "", "7" * 40, "999-0-0-0"])
async def test_tail_is_refused_when_the_id_is_not_of_this_log(served: Served, given: str) -> None:
    """Malformed, or ahead of the log: 422 that names it; an empty one is none."""
    answered = await served.client.head("/v1/events/stream", params={"last_event_id": given})
    async with served.client.stream("GET", "/v1/events/stream", params={"last_event_id": given}) as answer:
        status = answer.status_code
        told = {} if status == 200 else json.loads(await answer.aread())

    assert status == answered.status_code == (422 if given else 200)
    assert given == "" or told["errors"][0]["field"] == "last_event_id"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"type": "Orders"}, "type"),
        ({"filter": "{"}, "filter"),
        ({"filter": '{"a": 1}'}, "filter.a"),
        ({"subject": "\x00"}, "subject"),
    ],
)
async def test_tail_is_refused_when_its_wishes_are_malformed(served: Served, query: dict[str, str], field: str) -> None:
    """422 by both ways, before anything begins."""
    plain = await served.client.get("/v1/events/stream", params=query)
    with pytest.raises(InvalidStatus) as refused:
        await served.socket(query=query)

    assert (plain.status_code, plain.json()["errors"][0]["field"]) == (422, field)
    assert refused.value.response.status_code == 422
    assert msgspec.json.decode(refused.value.response.body)["errors"] == plain.json()["errors"]


async def test_socket_is_refused_before_the_upgrade_when_the_key_does_not_open_it(served: Served) -> None:
    """401 without a valid key, 403 without the scope, as over HTTP; and no key is taken from the URL."""
    _, other = await create_key(served.door.record, "other", ["jobs:read"])
    bearer = ["headrace.live", "bearer." + base64.urlsafe_b64encode(b"wrong").decode().rstrip("=")]
    plain = await served.client.get("/v1/events/stream", headers={"Authorization": f"Bearer {other}"})
    statuses = []
    for headers, query, protocols in [
        ({}, {}, ()),
        ({}, {"token": KEY, "access_token": KEY}, ()),
        ({}, {}, bearer),
        ({"Authorization": f"Bearer {other}"}, {}, ()),
    ]:
        with pytest.raises(InvalidStatus) as refused:
            await served.socket(headers, subprotocols=protocols, query=query)
        statuses.append(refused.value.response.status_code)
        problem = msgspec.json.decode(refused.value.response.body)

    assert (statuses, plain.status_code) == ([401, 401, 401, 403], 403)
    assert (problem["status"], len(problem["trace_id"])) == (403, 32)
    assert len(served.door.hub) == 0


async def test_socket_opens_when_a_browser_offers_the_key(served: Served) -> None:
    """As a subprotocol beside our own, which is the one that is chosen."""
    offered = ["headrace.live", "bearer." + base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")]

    async with served.socket({}, subprotocols=offered) as socket:
        await served.publish(1)
        event = await message(socket)

    assert socket.subprotocol == "headrace.live"
    assert event["data"]["number"] == 1


async def test_tail_ends_when_its_key_is_revoked(served: Served) -> None:
    """Both kinds, with the reason, within seconds; those of other keys stay."""
    key, token = await create_key(served.door.record, "short-lived", ["events:read"])
    mine = {"Authorization": f"Bearer {token}"}
    async with (
        served.tail() as other,
        served.socket(mine) as socket,
        served.client.stream("GET", "/v1/events/stream", headers=mine) as answer,
    ):
        reader = Reader(answer)
        await reader.block()
        await revoke_key(served.door.record, key.prefix)
        kind, told = await reader.told()
        ended = await reader.block()
        notice = await message(socket)
        with pytest.raises(ConnectionClosed):
            await message(socket)
        await served.publish(1)
        still = await other.numbers(1)

    assert (kind, told["reason"], ended) == ("dropped", "revoked", {})
    assert (notice["notice"], notice["reason"], socket.close_code) == ("dropped", "revoked", 1008)
    assert still == [1]


async def test_events_come_when_redis_is_away(settings: Settings) -> None:
    """The record alone is enough; and nothing is announced to nobody."""
    away = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")
    async with lanes.relaying(settings), serving(away, relay=False) as served, served.tail() as reader:
        await served.publish(1, 2)
        numbers = await reader.numbers(2)
    redis = Redis.from_url(settings.redis_url)
    published = (await redis.info("commandstats")).get("cmdstat_publish", {"calls": 0})
    await redis.aclose()

    assert numbers == [1, 2]
    assert isinstance(published, dict)


async def test_burst_comes_whole_when_it_is_larger_than_the_queue(served: Served) -> None:
    """Who reads is not dropped: it goes back to the record, and gets each event once and in order."""
    async with served.tail() as reader, served.socket() as socket:
        await append(served.door.record, *range(2500))
        numbers = await reader.numbers(2500)
        messages = [(await message(socket))["data"]["number"] for _ in range(2500)]
        await served.publish(2500, key="k0")
        last = await reader.numbers(1)

    assert numbers == messages == list(range(2500))
    assert last == [2500]
    assert served.door.hub.dropped == 0


async def test_listener_is_dropped_when_it_does_not_read(served: Served) -> None:
    """It is told so when it reads again, and may resume; the others get everything, in time."""
    text = "x" * 200_000
    host, port = served.url.removeprefix("http://").split(":")
    request = f"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    slow, writer = await asyncio.open_connection(host, int(port), limit=4096)
    writer.write(request.encode())
    await slow.readuntil(b"retry: ")
    async with served.tail() as reader, served.socket() as socket:
        for number in range(60):
            await publish(served.door.record, [Thing(f"{number}{text}", number)])
            assert await reader.numbers(1) == [number]
            assert (await message(socket))["data"]["number"] == number
        await eventually(lambda: stuck(served))
        await served.door.hub.beat_once()
        told = b""
        while chunk := await slow.read(1 << 16):
            told = (told + chunk)[-2000:]
        await eventually(lambda: listeners(served, 2))
    writer.close()

    assert b"event: dropped\ndata: " in told
    assert b'"reason":"slow"' in told
    assert served.door.hub.dropped == 1


async def stuck(served: Served) -> bool:
    """Tell whether a client has taken nothing for a moment, and say that it was long."""
    bound = time.monotonic() - 0.5
    found = [one for one in served.door.hub if one.writing_since is not None and one.writing_since < bound]
    for listener in found:
        listener.writing_since = 0.0
    return bool(found)


async def listeners(served: Served, count: int) -> bool:
    """Tell whether so many listen."""
    return len(served.door.hub) == count


async def test_nothing_stays_behind_when_clients_go_away(served: Served) -> None:
    """No listener and no task, however they leave."""
    async with served.tail():
        pass
    await eventually(lambda: listeners(served, 0))
    before = len(serving_tasks())
    async with AsyncExitStack() as stack:
        for number in range(10):
            await stack.enter_async_context(served.tail(subject=str(number)))
            await stack.enter_async_context(served.socket(query={"type": "tests.*"}))
        sockets = await served.socket()
        sockets.transport.abort()
        await eventually(lambda: listeners(served, 20))
    await eventually(lambda: listeners(served, 0))

    assert len(serving_tasks()) == before == 0
    assert len(served.door.hub.index) == 0


def serving_tasks() -> list[str]:
    """Return the tasks of the server's connections, and our own beside them."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if name == "_watch" or name.endswith("run_asgi")]


async def test_streams_end_when_the_process_ends(settings: Settings) -> None:
    """At once, those that nobody reads too; what was missed is there for who resumes elsewhere."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(settings))
        reader = await stack.enter_async_context(served.tail())
        socket = await served.socket(query={"subject": "nobody"})
        host, port = served.url.removeprefix("http://").split(":")
        stuck, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(f"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        await stuck.readuntil(b"retry: ")
        for number in range(40):
            await publish(served.door.record, [Thing(f"{number}{'x' * 200_000}", number)])
            assert await reader.numbers(1) == [number]
        began = asyncio.get_running_loop().time()
        served.door.release()
        ended = await reader.block()
        with pytest.raises(ConnectionClosed):
            while await socket.recv():
                pass
        await asyncio.sleep(0.05)
        served.door.hub.cut(0.0)
        await eventually(lambda: listeners(served, 0))
        seconds = asyncio.get_running_loop().time() - began
        writer.close()

    assert ended == {}
    assert socket.close_code == 1012
    assert seconds < 3


async def test_connection_is_kept_alive_when_nothing_comes(served: Served) -> None:
    """By a comment that says where the tail stands, so that it resumes from there and not from further back."""
    async with served.tail(type="tests.thing.forgotten") as reader:
        began = reader.last_event_id
        await served.publish(1, 2)
        await eventually(lambda: seen(served, 2))
        for _ in range(TURNS):
            await served.door.hub.beat_once()
        block = await reader.block()

    assert block[""] == "keep-alive"
    assert block["id"] != began


async def seen(served: Served, count: int) -> bool:
    """Tell whether the hub has seen so many events."""
    return sum(position for _, position in served.door.hub.marks) == count


async def test_gap_is_told_when_retention_has_dropped_events(served: Served) -> None:
    """A tail that resumes from before what is on record is told so, and gets the rest."""
    await served.publish(1, 2, 3)
    record = served.door.record
    await eventually(lambda: placed(record, 3))
    async with record.engine.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM lane_log WHERE position = 1")

    async with served.tail("0") as reader:
        told: list[Any] = [await reader.told() for _ in range(3)]

    assert told[0] == ("missed", {"reason": "retention", "message": "events in between are no longer on record"})
    assert [event["data"]["number"] for _, event in told[1:]] == [2, 3]


async def placed(record: Record, count: int) -> bool:
    """Tell whether so many events have their position."""
    return await heads(record) == count


async def test_listeners_are_bounded_when_more_come(settings: Settings) -> None:
    """One too many is 503, by both ways, until another leaves."""
    async with serving(msgspec.structs.replace(settings, live_listeners=1), relay=False) as served:
        async with served.tail():
            refused = await served.client.get("/v1/events/stream")
            with pytest.raises(InvalidStatus) as socket:
                await served.socket()
        await eventually(lambda: listeners(served, 0))
        async with served.tail():
            pass

    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    assert socket.value.response.status_code == 503


@pytest.mark.parametrize(
    ("line", "header", "status"),
    [("?filter=" + "%5B" * 3000, "", 414), ("", f"X-Long: {'x' * 9000}\r\n", 431), ("", "nonsense\r\n", 400)],
)
async def test_handshake_is_answered_and_ended_when_it_cannot_be_read(
    served: Served, line: str, header: str, status: int
) -> None:
    """Without a key or with one: nobody keeps a connection open by what no handshake looks like."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    handshake = f"GET /v1/live{line} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{header}\r\n"

    writer.write(handshake.encode())
    async with asyncio.timeout(10):
        answer = await reader.read()

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    writer.close()
