"""Versions of events: what is on record is read as the present version."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.application import Application, combine
from headrace.clock import new_id, now
from headrace.errors import ConfigurationError
from headrace.events.model import RecordedEvent
from headrace.events.reading import Reading, UnknownEventError, UnreadableEventError, data_of
from headrace.events.registry import event, event_type_of, upcast


@event("shop.customer.joined", subject="customer_id", version=3)
class CustomerJoined(msgspec.Struct, frozen=True):
    """Somebody became a customer."""

    customer_id: str
    first_name: str
    last_name: str
    country: str


@upcast(CustomerJoined, from_version=1)
def split_name(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one name."""
    first, _, last = data.pop("name").partition(" ")
    return data | {"first_name": first, "last_name": last}


@upcast(CustomerJoined, from_version=2)
def suppose_country(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 sold in Switzerland only."""
    return data | {"country": "CH"}


@event("shop.customer.left")
class CustomerLeft(msgspec.Struct, frozen=True):
    """Somebody left."""

    customer_id: str


PRESENT = '{"customer_id":"c","first_name":"Ada","last_name":"Byron","country":"GB"}'


def an_event(version: int, data: str, event_type: str = "shop.customer.joined") -> RecordedEvent:
    """Return an event on record."""
    return RecordedEvent(new_id(), event_type, version, "/shop", "x", "c", 0, 1, now(), now(), data, "00-1")


@pytest.mark.parametrize(
    ("version", "data", "expected"),
    [
        (3, PRESENT, CustomerJoined("c", "Ada", "Byron", "GB")),
        (2, '{"customer_id":"c","first_name":"Ada","last_name":"B"}', CustomerJoined("c", "Ada", "B", "CH")),
        (1, '{"customer_id":"c","name":"Ada Byron"}', CustomerJoined("c", "Ada", "Byron", "CH")),
    ],
)
def test_data_are_of_the_present_version_when_an_older_one_was_published(
    version: int, data: str, expected: CustomerJoined
) -> None:
    """The functions follow one another from the version on record."""
    reading = Reading([event_type_of(CustomerJoined)])

    assert data_of(CustomerJoined, an_event(version, data)) == expected
    assert reading.data_of(an_event(version, data)) == expected
    assert msgspec.json.decode(reading.present(an_event(version, data)), type=CustomerJoined) == expected


@pytest.mark.parametrize(
    ("version", "data", "told"),
    [
        (1, "{}", "cannot be upcast from version 1"),
        (1, "[]", "cannot be upcast from version 1"),
        (2, '{"customer_id": 1, "first_name": "", "last_name": ""}', "do not fit"),
        (3, "{}", "do not fit"),
        (0, PRESENT, "reads versions 1 to 3"),
    ],
)
def test_data_are_unreadable_when_they_fit_no_version(version: int, data: str, told: str) -> None:
    """What no later code will read either is told apart, whatever the application's function raised."""
    with pytest.raises(UnreadableEventError, match=told):
        data_of(CustomerJoined, an_event(version, data))


def test_event_is_unknown_when_its_version_is_newer() -> None:
    """Newer code published it, and newer code will read it."""
    with pytest.raises(UnknownEventError, match="version 4, and this code knows versions 1 to 3"):
        data_of(CustomerJoined, an_event(4, PRESENT))


def test_event_is_unknown_when_its_type_is_not_declared() -> None:
    """A pattern meets types of newer code too."""
    with pytest.raises(UnknownEventError, match=r"shop\.customer\.moved"):
        Reading([event_type_of(CustomerJoined)]).data_of(an_event(1, "{}", "shop.customer.moved"))


def test_event_is_refused_when_it_is_of_another_type() -> None:
    """A class reads its own events."""
    with pytest.raises(UnreadableEventError, match="is not"):
        data_of(CustomerLeft, an_event(3, PRESENT))


@pytest.mark.parametrize("version", [0, 3, 4])
def test_upcast_is_refused_when_the_version_is_no_older_one(version: int) -> None:
    """Only versions before the present one are upcast."""
    with pytest.raises(ConfigurationError, match="has version 3"):
        upcast(CustomerJoined, from_version=version)(split_name)


def test_upcast_is_refused_when_a_version_has_one_already() -> None:
    """Two ways to read one version are one too many."""
    with pytest.raises(ConfigurationError, match="two functions"):
        upcast(CustomerJoined, from_version=1)(split_name)


def test_combine_is_refused_when_a_version_between_is_missing() -> None:
    """A chain with a gap would leave old events unread, and nobody would know before they come."""

    @event("shop.customer.moved", version=3)
    class CustomerMoved(msgspec.Struct, frozen=True):
        """Somebody moved."""

    upcast(CustomerMoved, from_version=1)(lambda data: data)

    with pytest.raises(ConfigurationError, match="one is missing"):
        combine([Application(name="shop", events=(CustomerMoved,))])
