"""The parts of a live tail: marks, the index, the queue of a listener."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pytest

from headrace.clock import new_id, now
from headrace.errors import InvalidInputError
from headrace.events.filters import Filter
from headrace.events.model import RecordedEvent
from headrace.events.reading import Reading
from headrace.live.frames import EventFrame, Mark, Notice
from headrace.live.index import Index, wants
from headrace.live.listener import MOST_FRAMES, End, Interest, Listener
from headrace.live.marks import Marks

READING: Final = Reading(())


def happened(event_type: str, subject: str | None = "a", data: str = "{}", position: int = 1) -> RecordedEvent:
    """Return an event on its way."""
    return RecordedEvent(
        new_id(), event_type, 1, "/shop", "x", subject, 0, position, now(), now(), data, "", '{"region": "eu"}'
    )


@pytest.mark.parametrize("text", ["0", "12-40-7-3", "0-0-5"])
def test_marks_are_the_same_when_they_are_read_back(text: str) -> None:
    """The text names one position for each lane."""
    marks = Marks.of(text)

    assert str(marks) == text
    assert str(marks.copy()) == text


@pytest.mark.parametrize("text", ["", "-1", "1-", "1--2", "a", "1 2", "9" * 30, "1-2\n", "-".join("1" * 2000)])
def test_marks_are_refused_when_they_are_none_of_ours(text: str) -> None:
    """Whatever a client sends, it is an error of its own."""
    with pytest.raises(InvalidInputError):
        Marks.of(text)


def test_marks_tell_what_lies_between_when_they_are_compared() -> None:
    """Lane by lane; a lane that one does not reach is at 0."""
    marks = Marks.of("3-5")
    marks.reach(2, 4)
    marks.reach(0, 1)

    assert str(marks) == "3-5-4"
    assert marks.behind(Marks.of("5-4-4-9")) == 11
    assert Marks.of("0").behind(Marks.of("0-0")) == 0


class Asked(Filter):
    """A filter that counts how often it is asked."""

    asked = 0

    def holds(self, data: object) -> bool:
        """Count, and ask."""
        Asked.asked += 1
        return super().holds(data)


def test_event_finds_only_who_wants_it_when_many_listen() -> None:
    """By patterns, subject and filter; and nobody after the last has left."""
    large = Filter.of({"total": [{"numeric": [">", 10]}]})
    interests: Sequence[Interest] = [
        Interest.of([]),
        Interest.of(["orders.*"]),
        Interest.of(["orders.*", "*.created"]),
        Interest.of(["orders.*"], subject="b"),
        Interest.of(["orders.*"], subject="a", filter=large),
        Interest.of(["*.deleted"]),
    ]
    index, listeners = Index(READING), [Listener(interest) for interest in interests]
    for listener in listeners:
        index.add(listener)
    events = [
        happened("orders.order.created", data='{"total": 11}'),
        happened("orders.order.created", data='{"total": 9}'),
        happened("projects.task.created", subject=None),
        happened("orders.order.confirmed", subject="b"),
    ]

    found = [[listeners.index(one) for one in index.wanting(event)] for event in events]
    for listener in listeners:
        index.discard(listener)
        index.discard(listener)

    assert list(map(sorted, found)) == [[0, 1, 2, 4], [0, 1, 2], [0, 2], [0, 1, 2, 3]]
    assert [[n for n, one in enumerate(interests) if wants(one, READING, event)] for event in events] == [
        sorted(numbers) for numbers in found
    ]
    assert [index.wanting(event) for event in events] == [[]] * 4
    assert len(index) == 0


def test_type_finds_who_came_later_when_it_was_seen_before() -> None:
    """What is remembered of a type follows who comes and goes."""
    index, event = Index(READING), happened("orders.order.created")
    assert index.wanting(event) == []
    early, late = Listener(Interest.of(["orders.*"])), Listener(Interest.of(["*.created"]))

    index.add(early)
    index.add(late)
    both = index.wanting(event)
    index.discard(early)

    assert both == [early, late]
    assert index.wanting(event) == [late]


def test_ten_thousand_cost_nothing_when_an_event_is_for_one_of_them() -> None:
    """A filter that many share is asked once, and those on other subjects are not looked at."""
    index, shared = Index(READING), Filter.of({"n": [1]})
    counted = Asked(shared.written, shared.fields, shared._test)
    for number in range(2_000):
        index.add(Listener(Interest(("orders.*",), subject=str(number))))
        index.add(Listener(Interest(("orders.*",), filter=counted)))
    Asked.asked = 0

    found = index.wanting(happened("orders.order.created", subject="7", data='{"n": 1}'))

    assert len(found) == 2_001
    assert Asked.asked == 1


async def test_listener_forgets_what_waits_when_too_much_comes() -> None:
    """It is woken to read the record, and takes nothing more until it has."""
    listener = Listener(Interest())
    waiting = asyncio.create_task(listener.next())
    await asyncio.sleep(0)

    for _ in range(MOST_FRAMES + 5):
        listener.offer(Mark("1"))

    assert await waiting == []
    assert listener.overflowed
    assert listener.end is None


async def test_first_reason_stays_when_a_tail_is_ended_again() -> None:
    """Who was let go does not count as having left."""
    listener = Listener(Interest())
    listener.offer(Mark("1"))

    listener.close(End.REVOKED)
    listener.close(End.LEFT)
    listener.offer(Mark("2"))

    assert (listener.end, await listener.next()) == (End.REVOKED, [])


def test_frames_have_both_forms_when_an_event_is_shown() -> None:
    """SSE with the marks as id, a message with them beside the CloudEvent; extensions stay."""
    frame = EventFrame(happened("orders.order.created", data='{"a": 1}'), "1-2")
    told: dict[str, Any] = msgspec.json.decode(frame.message)

    assert frame.sse.startswith(b"id: 1-2\ndata: {")
    assert frame.sse.endswith(b"}\n\n")
    assert (told["last_event_id"], told["data"], told["region"]) == ("1-2", {"a": 1}, "eu")
    assert Mark("7", first=True).sse == b"retry: 1000\nid: 7\n\n"
    assert Notice("dropped", "slow", "why").sse == b'event: dropped\ndata: {"reason":"slow","message":"why"}\n\n'
