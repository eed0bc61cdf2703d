"""Which events there are: a name, a version and a msgspec type for each.

Owns the decorators `event` and `upcast`, and the value `EventType` that they attach to a class. Declaring registers
nothing: an `Application` lists its events. A type name is `<context>.<thing>.<past participle>`, such as
`orders.order.confirmed`. Never change the meaning of a published type: give it a new version, and say with `upcast` how
the data of the one before are read; what is on record is never rewritten.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from headrace.errors import ConfigurationError

E = TypeVar("E", bound=msgspec.Struct)

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the data of one version from those of the version before."""

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
    upcasts: Mapping[int, Upcast] = field(default_factory=dict, compare=False, repr=False)
    """How data of an older version become those of the next one, by the older version."""

    @property
    def oldest(self) -> int:
        """The oldest version whose data this code can read."""
        version = self.version
        while version - 1 in self.upcasts:
            version -= 1
        return version

    @property
    def readable(self) -> str:
        """The versions whose data this code can read, in words."""
        return f"version {self.version}" if self.oldest == self.version else f"versions {self.oldest} to {self.version}"

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
        ConfigurationError: the name or the version is malformed, or the class has no such field.

    Example:
        >>> @event("shop.customer.joined", subject="customer_id")
        ... class CustomerJoined(msgspec.Struct, frozen=True):
        ...     customer_id: str
        ...     name: str

    """
    if version < 1:
        message = f"the event {name} has version {version}: versions begin at 1"
        raise ConfigurationError(message)
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


def upcast(data_type: type[msgspec.Struct], *, from_version: int) -> Callable[[Upcast], Upcast]:
    """Declare how data of an older version are read: as those of the version that followed it.

    Events on record stay as they were published. Whoever reads one is given the data of the present version, made by
    one function after the other. A function gets the JSON object of its version and returns that of the next one.

    Args:
        data_type: the class of the present version, declared with `@event`.
        from_version: the version of the data that the function is given.

    Raises:
        ConfigurationError: the class is no event, has no such older version, or the version has its function already.

    Example:
        >>> @upcast(CustomerJoined, from_version=1)
        ... def split_name(data: dict[str, Any]) -> dict[str, Any]:
        ...     first, _, last = data.pop("name").partition(" ")
        ...     return data | {"first_name": first, "last_name": last}

    """

    def declare(function: Upcast) -> Upcast:
        found = event_type_of(data_type)
        if not 1 <= from_version < found.version:
            message = f"{found.type} has version {found.version}: nothing is upcast to it from version {from_version}"
            raise ConfigurationError(message)
        if from_version in found.upcasts:
            message = f"{found.type} has two functions that upcast from version {from_version}"
            raise ConfigurationError(message)
        setattr(data_type, _ATTRIBUTE, replace(found, upcasts={**found.upcasts, from_version: function}))
        return function

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
