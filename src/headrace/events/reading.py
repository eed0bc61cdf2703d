"""Reading the data of an event on record: as the type of the present version, whatever version it was published at.

Owns the one way from JSON on record to a declared type, which live handling, redelivery, replays, checks and the folds
of applications share: data of an older version pass through the functions declared with `@upcast`, one version after
the other. Data that do not fit are `UnreadableEventError`, for good. A type or a version that this code does not know
is `UnknownEventError`: code deployed later may, so whoever meets it waits. Never write what was upcast back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import msgspec

from headrace.errors import HeadraceError
from headrace.events.filters import Filter, decoded
from headrace.events.registry import EventType, event_type_of

E = TypeVar("E", bound=msgspec.Struct)


class UnreadableEventError(HeadraceError):
    """The data on record do not fit the type, at any time to come."""


class UnknownEventError(HeadraceError):
    """This code does not know the type, or this version of it: newer code published it."""


class Published(Protocol):
    """What is asked of an event on record: `RecordedEvent` and `Event` have it."""

    @property
    def type(self) -> str:
        """The CloudEvents type."""
        ...

    @property
    def version(self) -> int:
        """The version of the data."""
        ...

    @property
    def data(self) -> str | msgspec.Raw:
        """The data, as JSON."""
        ...


def data_of(data_type: type[E], event: Published) -> E:
    """Return the data of an event of this type, read as the present version of it.

    Raises:
        UnreadableEventError: it is of another type, or its data do not fit.
        UnknownEventError: its version is newer than this code.

    Example:
        >>> for event in await history_of(connection, str(order_id)):
        ...     state = state.after(data_of(OrderConfirmed, event))

    """
    declared = event_type_of(data_type)
    if event.type != declared.type:
        message = f"{event.type} is not {declared.type}"
        raise UnreadableEventError(message)
    data: E = _read(declared, event)
    return data


class Reading:
    """Reads the events of several types."""

    def __init__(self, events: Iterable[EventType]) -> None:
        self._types = {event.type: event for event in events}
        self._present = {(one.type, one.version): _decoder(one.data_type).decode for one in self._types.values()}

    def data_of(self, event: Published) -> Any:  # noqa: ANN401 - one of the types
        """Return the data of an event as the present version of its type.

        Raises:
            UnreadableEventError: its data do not fit.
            UnknownEventError: this code does not know its type, or not this version of it.

        """
        decode = self._present.get((event.type, event.version))
        return _read(self._declared(event), event) if decode is None else _decoded(decode, event.type, event.data)

    def meets(self, asked: Filter, event: Published) -> bool:
        """Tell whether a filter means an event, by its present data; what this code cannot read is not left out."""
        try:
            return asked.matches(self.present(event))
        except (UnreadableEventError, UnknownEventError):
            return True  # whoever handles it finds out why, and newer code may read it

    def present(self, event: Published) -> str:
        """Return the data of an event as JSON of the present version: what filters are asked of.

        Raises:
            UnreadableEventError: no function makes them from an older version, or one fails.
            UnknownEventError: this code does not know its type, or not this version of it.

        """
        declared = self._declared(event)
        if declared.version == event.version:
            return _text(event.data)
        return upcast_data(declared, event.version, event.data)

    def _declared(self, event: Published) -> EventType:
        declared = self._types.get(event.type)
        if declared is None:
            message = f"this code does not know the event type {event.type}"
            raise UnknownEventError(message)
        return declared


def upcast_data(declared: EventType, version: int, data: str | msgspec.Raw) -> str:
    """Return data of some version as those of the present one, both as JSON.

    Raises:
        UnreadableEventError: no function makes them, or one fails.
        UnknownEventError: the version is newer than this code.

    """
    if version > declared.version:
        message = f"{declared.type} was published at version {version}, and this code knows {declared.readable}"
        raise UnknownEventError(message)
    if version < declared.oldest:
        message = f"{declared.type} was published at version {version}, and this code reads {declared.readable}"
        raise UnreadableEventError(message)
    value = decoded(_text(data))
    older = version
    try:
        for older in range(version, declared.version):
            value = declared.upcasts[older](value)
        return msgspec.json.encode(value).decode()
    except Exception as error:  # the application's function may raise anything: then these data do not fit
        message = f"{declared.type} cannot be upcast from version {older}: {error!r}"
        raise UnreadableEventError(message) from error


def _read(declared: EventType, event: Published) -> Any:  # noqa: ANN401 - of the declared type
    data = event.data
    if event.version != declared.version:
        data = upcast_data(declared, event.version, data)
    return _decoded(_decoder(declared.data_type).decode, event.type, data)


def _decoded(decode: Callable[[str | msgspec.Raw], Any], kind: str, data: str | msgspec.Raw) -> Any:  # noqa: ANN401 - the same
    try:
        return decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        message = f"the data of {kind} do not fit: {error}"
        raise UnreadableEventError(message) from error


def _text(data: str | msgspec.Raw) -> str:
    return data if isinstance(data, str) else bytes(data).decode()


@lru_cache(maxsize=1024)
def _decoder(data_type: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(data_type)
