"""The listeners of a process by what they want: an event finds them, and nobody else.

Owns the index: by patterns (resolved once for each type that comes), by subject, by filter (asked once for all who have
the same one). An event that nobody wants costs one look into a dict, however many listen. Never ask a listener.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from headrace.events.filters import Filter, decoded
from headrace.events.model import RecordedEvent
from headrace.events.patterns import matches
from headrace.events.reading import Reading, UnknownEventError, UnreadableEventError
from headrace.live.listener import Interest, Listener

_MOST_TYPES: Final = 4096
"""That are remembered; what an application publishes are few."""

_Patterns = tuple[str, ...]
_Alike = dict[Listener, None]
"""Listeners with the same interest, in the order in which they came."""
_BySubject = dict[str | None, dict[Filter | None, _Alike]]


class Index:
    """Who wants what."""

    def __init__(self, reading: Reading) -> None:
        """Ask filters of data as `reading` reads them: in their present version."""
        self._reading = reading
        self._by_patterns: dict[_Patterns, _BySubject] = {}
        self._by_type: dict[str, list[_BySubject]] = {}
        self._listeners: dict[Listener, None] = {}

    def __len__(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def __iter__(self) -> Iterator[Listener]:
        """Yield all who listen, those that came first first."""
        return iter(list(self._listeners))

    def add(self, listener: Listener) -> None:
        """Let events find a listener."""
        interest = listener.interest
        by_subject = self._by_patterns.get(interest.patterns)
        if by_subject is None:
            by_subject = self._by_patterns[interest.patterns] = {}
            for event_type, found in self._by_type.items():
                if matches(interest.patterns, event_type):
                    found.append(by_subject)
        by_subject.setdefault(interest.subject, {}).setdefault(interest.filter, {})[listener] = None
        self._listeners[listener] = None

    def discard(self, listener: Listener) -> None:
        """Let events find a listener no more."""
        if self._listeners.pop(listener, _ABSENT) is _ABSENT:
            return
        interest = listener.interest
        by_subject = self._by_patterns[interest.patterns]
        by_filter = by_subject[interest.subject]
        del by_filter[interest.filter][listener]
        if by_filter[interest.filter]:
            return
        del by_filter[interest.filter]
        if not by_filter:
            del by_subject[interest.subject]
        if not by_subject:
            del self._by_patterns[interest.patterns]
            for found in self._by_type.values():
                found[:] = [one for one in found if one is not by_subject]

    def wanting(self, event: RecordedEvent) -> list[Listener]:
        """Return who wants an event."""
        found = self._by_type.get(event.type)
        if found is None:
            found = self._resolved(event.type)
        if not found:
            return []
        listeners: list[Listener] = []
        asked = Asked(self._reading, event)
        for by_subject in found:
            for subject in (None,) if event.subject is None else (None, event.subject):
                for filter_, alike in by_subject.get(subject, _NOBODY).items():
                    if filter_ is None or asked.meets(filter_):
                        listeners += alike
        return listeners

    def _resolved(self, event_type: str) -> list[_BySubject]:
        found = [one for patterns, one in self._by_patterns.items() if matches(patterns, event_type)]
        if len(self._by_type) >= _MOST_TYPES:
            self._by_type.clear()
        self._by_type[event_type] = found
        return found


_ABSENT: Final = object()
_NOBODY: Final[dict[Filter | None, _Alike]] = {}
_UNREAD: Final = object()


class Asked:
    """An event of which filters are asked: its data are read once, and only if one is."""

    def __init__(self, reading: Reading, event: RecordedEvent) -> None:
        self._reading = reading
        self._event = event
        self._data: Any = _UNREAD

    def meets(self, chosen: Filter) -> bool:
        """Tell whether the event meets a filter; data that this code cannot read are asked as they are on record."""
        if self._data is _UNREAD:
            try:
                self._data = decoded(self._reading.present(self._event))
            except (UnreadableEventError, UnknownEventError):
                self._data = decoded(self._event.data)
        return chosen.holds(self._data)


def wants(interest: Interest, reading: Reading, event: RecordedEvent) -> bool:
    """Tell whether an interest is in an event: what `Index` decides for many, for one."""
    if interest.subject not in {None, event.subject} or not matches(interest.patterns, event.type):
        return False
    return interest.filter is None or Asked(reading, event).meets(interest.filter)
