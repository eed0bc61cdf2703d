"""Which events there are: a name, a version and a msgspec type for each.

Owns the decorator `event` and the value `EventType` that it attaches to a class. Declaring registers nothing: an
`Application` lists its events. A type name is `<context>.<thing>.<past participle>`, such as `orders.order.confirmed`.
Never change the meaning of a published type: give it a new version.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from headrace.errors import ConfigurationError

E = TypeVar("E", bound=msgspec.Struct)

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")
_ATTRIBUTE = "__event_type__"


@dataclass(frozen=True, slots=True)
class EventType:
    """A declared event: the CloudEvents `type`, the version of its data, and where its subject is found."""

    type: str
    version: int
    subject: str | None
    data_type: builtins.type[msgspec.Struct]
    description: str

    @property
    def source(self) -> str:
        """The CloudEvents `source` of events published by this code: `/` and the first part of the type."""
        return "/" + self.type.split(".", 1)[0]

    def subject_of(self, data: msgspec.Struct) -> str | None:
        """Return the ordering key of one event: the value of its subject field, as text."""
        return None if self.subject is None else str(getattr(data, self.subject))


def event(name: str, *, subject: str | None = None, version: int = 1) -> Callable[[type[E]], type[E]]:
    """Declare a msgspec Struct as the data of an event.

    Args:
        name: the CloudEvents type, at least two dotted parts in lower case.
        subject: the field whose value is the CloudEvents subject; events of one subject are handled in order.
        version: the version of the data's shape, from 1.

    Raises:
        ConfigurationError: the name is malformed, or the class has no such field.

    Example:
        >>> @event("shop.customer.joined", subject="customer_id")
        ... class CustomerJoined(msgspec.Struct, frozen=True):
        ...     customer_id: str
        ...     name: str

    """
    if not _NAME.fullmatch(name):
        message = f"the event type {name!r} must be dotted parts in lower case, such as orders.order.confirmed"
        raise ConfigurationError(message)

    def declare(data_type: type[E]) -> type[E]:
        if subject is not None and subject not in data_type.__struct_fields__:
            message = f"the event {name} has no field {subject!r} to be its subject"
            raise ConfigurationError(message)
        description = (data_type.__doc__ or "").strip().split("\n\n", 1)[0].replace("\n", " ")
        setattr(data_type, _ATTRIBUTE, EventType(name, version, subject, data_type, description))
        return data_type

    return declare


def event_type_of(data_type: type[Any]) -> EventType:
    """Return what `@event` attached to a class.

    Raises:
        ConfigurationError: the class was not declared.

    """
    found = getattr(data_type, _ATTRIBUTE, None)
    if not isinstance(found, EventType):
        message = f'{data_type.__qualname__} is not an event: declare it with @event("context.thing.happened")'
        raise ConfigurationError(message)
    return found
