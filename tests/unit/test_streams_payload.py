"""The payload of an entry, and the names on the belt."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import new_id, now
from headrace.events.model import RecordedEvent
from headrace.streams.names import FOREIGN, entry_id, lane_key, position_of
from headrace.streams.payload import GONE, PoisonError, Wanted, encode

TYPE = "shop.customer.joined"


def an_event(event_type: str = TYPE) -> RecordedEvent:
    """Return an event."""
    data = '{"name":"Zoë"}'
    return RecordedEvent(new_id(), event_type, 1, "/shop", "x", "c-1", 3, 42, now(), now(), data, "00-1")


def test_event_is_the_same_when_it_was_on_the_belt() -> None:
    """Encoding and reading lose nothing."""
    event = an_event()

    read = Wanted([TYPE]).read(encode(event))

    assert read == event


@pytest.mark.parametrize("other", ["shop.customer.left", "shop.customer.joine", "shop.customer.joined2", ""])
def test_event_is_passed_over_when_its_type_is_not_wanted(other: str) -> None:
    """Types that merely begin alike are other types."""
    assert Wanted([TYPE]).read(encode(an_event(other))) is None


def test_event_is_read_when_its_type_is_long() -> None:
    """A type of more than 31 characters has a longer header and is found all the same."""
    long = "shop." + "very_" * 20 + "long"

    assert Wanted([TYPE, long]).read(encode(an_event(long))) is not None


@given(st.binary(min_size=1))
def test_bytes_are_poison_when_they_are_no_event(payload: bytes) -> None:
    """Whatever is not an event is told by one error, and by no other."""
    try:
        read = Wanted([TYPE]).read(payload)
    except PoisonError:
        return

    assert read is None


def test_event_is_poison_when_it_is_cut_off() -> None:
    """A payload that begins like a wanted event and is not one is poison, not another type."""
    with pytest.raises(PoisonError):
        Wanted([TYPE]).read(encode(an_event())[:80])


def test_event_is_read_when_a_later_version_added_a_field() -> None:
    """Fields at the end that this code does not know are passed over."""
    values = [*msgspec.structs.astuple(an_event()), "new"]

    read = Wanted([TYPE]).read(msgspec.msgpack.encode(values))

    assert read is not None
    assert read.type == TYPE


def test_payload_is_empty_when_the_event_is_gone() -> None:
    """A position whose event retention has dropped still has an entry."""
    assert encode(None) == GONE


def test_names_are_what_operators_look_for() -> None:
    """The key of a lane and the id of an entry are published."""
    assert (lane_key(3), entry_id(7)) == ("headrace:{belt}:lane:3", "7-0")


@pytest.mark.parametrize(("identity", "position"), [(b"7-0", 7), ("7-0", 7), (b"0-0", 0), (b"7-3", FOREIGN)])
def test_position_is_in_the_id_when_a_relay_wrote_it(identity: bytes | str, position: int) -> None:
    """An id with a second part is nobody's position."""
    assert position_of(identity) == position


def test_event_is_read_when_its_type_meets_a_pattern() -> None:
    """Types that nobody declared are met too, and others are passed over, each time they come."""
    wanted = Wanted(["shop.*", "*.completed"], known=[TYPE])

    read = [wanted.read(encode(an_event(name))) for name in (TYPE, "shop.new", "a.completed", "a.b", "a.b", "shop.new")]

    assert [event.type if event else None for event in read] == [
        TYPE,
        "shop.new",
        "a.completed",
        None,
        None,
        "shop.new",
    ]


def test_event_is_passed_over_when_its_data_are_not_meant() -> None:
    """A filter is asked of the events of wanted types only."""
    asked: list[str] = []

    def meets(event: RecordedEvent) -> bool:
        asked.append(event.type)
        return event.type == TYPE

    wanted = Wanted(["shop.*"], meets=meets)

    assert wanted.read(encode(an_event())) is not None
    assert wanted.read(encode(an_event("shop.customer.left"))) is None
    assert wanted.read(encode(an_event("other.thing"))) is None
    assert not wanted.means(an_event("other.thing"))
    assert asked == [TYPE, "shop.customer.left"]
