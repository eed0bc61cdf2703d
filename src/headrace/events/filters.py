"""Filters: which events of a type are meant, by their data.

Owns the language of Amazon EventBridge's event patterns over the data of an event
(https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-event-patterns-content-based-filtering.html): an object of
fields, each with a list of alternatives or an object of its own fields; all fields have to hold, and one member of
`"$or"`. A malformed one is refused with the path of what is wrong. It is asked here and nowhere else, by subscriptions,
webhooks, live views and previews, so that they cannot differ; no data make asking fail. Never let SQL decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.errors import FieldError, InvalidInputError
from headrace.events.conditions import ABSENT, leaf_of, refuse

MAX_BYTES: Final = 8192
"""Of a filter as JSON."""

MAX_DEPTH: Final = 20
"""Of objects within objects."""

MAX_OPERATORS: Final = 64
"""Of all fields together: each may be asked of every element of a long list."""

OR: Final = "$or"

_Test = Callable[[Mapping[str, Any]], bool]
_NOTHING: Final[Mapping[str, Any]] = {}
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that was read. Make it with `Filter.of`; two that are written alike are equal."""

    written: str
    """As it stands on record: JSON."""
    fields: frozenset[str] = field(compare=False)
    """The dotted paths of the fields that it asks for."""
    _test: _Test = field(compare=False, repr=False)

    @classmethod
    def of(cls, written: object, *, field: str = "filter") -> Filter:
        """Read a filter from what JSON or Python has for it; `field` names it in errors.

        Raises:
            InvalidInputError: it is no filter; `errors` holds the path, such as `filter.total_cents.0.numeric`.

        Example:
            >>> large = Filter.of({"total_cents": [{"numeric": [">=", 100_00]}], "currency": ["EUR", "CHF"]})
            >>> large.matches('{"total_cents": 12900, "currency": "EUR"}')
            True

        """
        text, plain = _plain(written, field)
        test = _all_of(plain, field, 1)
        if _operators(plain) > MAX_OPERATORS:
            refuse(field, f"this has more than {MAX_OPERATORS} operators; literal values are not counted")
        return cls(text, frozenset(_paths(plain, "")), test)

    def matches(self, data: str) -> bool:
        """Tell whether an event with these data, as JSON text, is meant."""
        return self.holds(decoded(data))

    def holds(self, data: object) -> bool:
        """Tell whether an event with these data, decoded already, is meant: decode once where many filters ask."""
        return self._test(data if isinstance(data, dict) else _NOTHING)


def decoded(data: str) -> Any:  # noqa: ANN401 - any JSON
    """Return the JSON of an event's data as `Filter.holds` takes it; None where it is nested too deeply to be read."""
    try:
        return _decode(data)
    except msgspec.DecodeError:  # PostgreSQL keeps numbers that no machine word holds: they are floats here
        return json.loads(data, parse_int=float)
    except RecursionError:
        return None


def _plain(written: object, at: str) -> tuple[str, dict[str, Any]]:
    """Return a filter as JSON and as what JSON becomes: no tuples, enums or other mappings are left."""
    try:
        encoded = msgspec.json.encode(written, order="sorted")
        plain = msgspec.json.decode(encoded)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{at}: this is no JSON: {error}"
        raise InvalidInputError(message, (FieldError(at, message),)) from error
    if len(encoded) > MAX_BYTES:
        refuse(at, f"this takes more than {MAX_BYTES} bytes")
    if not isinstance(plain, dict):
        refuse(at, "a filter is an object of fields")
    return encoded.decode(), plain


def _operators(node: object) -> int:
    """Return how many objects stand in lists: the operators, and the members of `$or`."""
    if isinstance(node, list):
        return sum(isinstance(one, dict) + _operators(one) for one in node)
    return sum(_operators(one) for one in node.values()) if isinstance(node, dict) else 0


def _all_of(written: Mapping[str, Any], at: str, depth: int) -> _Test:
    if not written:
        refuse(at, "name at least one field")
    if depth > MAX_DEPTH:
        refuse(at, f"this is nested more than {MAX_DEPTH} deep")
    tests = [_test_of(name, value, f"{at}.{name}", depth) for name, value in written.items()]
    if len(tests) == 1:
        return tests[0]

    def all_hold(data: Mapping[str, Any]) -> bool:
        for test in tests:  # noqa: SIM110 - asked for every event: a generator costs as much again
            if not test(data):
                return False
        return True

    return all_hold


def _test_of(name: str, written: object, at: str, depth: int) -> _Test:
    if name == OR:
        return _any_of(written, at, depth)
    if name.startswith("$"):
        refuse(at, f"there is no {name!r}: only {OR!r} begins with a dollar sign")
    if isinstance(written, dict):
        return _within(name, _all_of(written, at, depth + 1))
    if not isinstance(written, list):
        shown = msgspec.json.encode(written).decode()
        refuse(at, f"this takes a list of alternatives, or an object of fields: write [{shown}]")
    leaf = leaf_of(written, at)
    return lambda data: leaf.holds(data.get(name, ABSENT))


def _any_of(written: object, at: str, depth: int) -> _Test:
    if not isinstance(written, list) or not written or not all(isinstance(one, dict) for one in written):
        refuse(at, "this takes a list of objects of fields, one of which has to hold")
    tests = [_all_of(one, f"{at}.{place}", depth + 1) for place, one in enumerate(written)]
    return lambda data: any(test(data) for test in tests)


def _within(name: str, test: _Test) -> _Test:
    """Ask the object under a name; of a list, one of its objects has to hold in all its fields."""

    def holds(data: Mapping[str, Any]) -> bool:
        value = data.get(name)
        if isinstance(value, list):
            return any(test(one) for one in value if isinstance(one, dict))
        return test(value if isinstance(value, dict) else _NOTHING)

    return holds


def _paths(written: Mapping[str, Any], above: str) -> Iterator[str]:
    for name, value in written.items():
        if name == OR:
            for one in value if isinstance(value, list) else ():
                yield from _paths(one if isinstance(one, dict) else {}, above)
        elif isinstance(value, dict):
            yield from _paths(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"
