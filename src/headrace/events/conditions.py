"""The conditions of a filter: what one value of an event's data may be.

Owns the leaves of the filter language, a list of alternatives of which one has to hold, and the reading of each from
JSON. A value that is a list holds if one of its elements does; a field that is missing meets `{"exists": false}` only.
Reading raises `InvalidInputError` with the path of what is wrong; asking never raises, whatever the value is. Never
compare a boolean with a number: JSON keeps them apart, Python does not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from headrace.errors import FieldError, InvalidInputError

ABSENT: Final = object()
"""The value of a field that is not there."""

Condition = Callable[[Any], bool]
"""Asks one scalar."""

_COMPARED: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ONE: Final = 2
_TWO: Final = 4


@dataclass(frozen=True, slots=True)
class Leaf:
    """The alternatives for one field."""

    conditions: tuple[Condition, ...]
    absent: bool
    """Whether a missing field meets it."""
    present: bool
    """Whether any value does."""

    def holds(self, value: object) -> bool:
        """Tell whether a field's value, or `ABSENT`, meets one of the alternatives."""
        if value is ABSENT:
            return self.absent
        if self.present:
            return True
        if isinstance(value, list):
            return any(self._any(one) for one in _scalars_in(value))
        return not isinstance(value, dict) and self._any(value)

    def _any(self, scalar: object) -> bool:
        for condition in self.conditions:  # noqa: SIM110 - asked for every event: a generator costs as much again
            if condition(scalar):
                return True
        return False


def leaf_of(written: Sequence[object], at: str) -> Leaf:
    """Read a list of alternatives that stands at the path `at`.

    Raises:
        InvalidInputError: one of them is no condition.

    """
    if not written:
        refuse(at, "an empty list is met by nothing: name at least one alternative")
    conditions: list[Condition] = []
    exists: set[bool] = set()
    literals = [one for one in written if not isinstance(one, list | Mapping)]
    if literals:
        conditions.append(_among(literals))
    for place, one in enumerate(written):
        if isinstance(one, Mapping) and "exists" in one:
            exists.add(_exists_of(one, f"{at}.{place}"))
        elif isinstance(one, list | Mapping):
            conditions.append(_condition_of(one, f"{at}.{place}"))
    return Leaf(tuple(conditions), absent=False in exists, present=True in exists)


def refuse(field: str, message: str) -> NoReturn:
    """Refuse what stands at a path.

    Raises:
        InvalidInputError: always.

    """
    told = f"{field}: {message}"
    raise InvalidInputError(told, (FieldError(field, message),))


def _scalars_in(value: list[Any]) -> Iterator[Any]:
    """Return what a list holds, and the lists in it; without recursion: data may be nested deeply."""
    waiting = [iter(value)]
    while waiting:
        for one in waiting[-1]:
            if isinstance(one, list):
                waiting.append(iter(one))
                break
            if not isinstance(one, dict):
                yield one
        else:
            waiting.pop()


def _exists_of(one: Mapping[str, Any], at: str) -> bool:
    given = one["exists"]
    if len(one) != 1 or not isinstance(given, bool):
        refuse(f"{at}.exists", "write it alone, with true or false")
    return given


def _condition_of(one: list[Any] | Mapping[str, Any], at: str) -> Condition:
    if isinstance(one, list):
        refuse(at, "an alternative is a value or an operator, not a list")
    if len(one) != 1:
        refuse(at, 'an operator stands alone in its object, such as {"prefix": "DE-"}')
    ((name, argument),) = one.items()
    make = _OPERATORS.get(name)
    if make is None:
        refuse(f"{at}.{name}", f"there is no operator {name!r}; there are {', '.join(sorted([*_OPERATORS, 'exists']))}")
    return make(argument, f"{at}.{name}")


def _among(literals: Sequence[object]) -> Condition:
    """Ask whether a value is one of some, however many there are."""
    known = {(isinstance(literal, bool), literal) for literal in literals}
    return lambda value: (isinstance(value, bool), value) in known


def _text(argument: object, at: str) -> str:
    if not isinstance(argument, str) or not argument:
        refuse(at, "this takes a text that is not empty")
    return argument


def _affix(test: Callable[[str, str], bool]) -> Callable[[object, str], Condition]:
    """Make the reader of `prefix` or `suffix`, which may ignore the case of letters."""

    def make(argument: object, at: str) -> Condition:
        if isinstance(argument, Mapping) and argument.keys() == {"equals-ignore-case"}:
            folded = _text(argument["equals-ignore-case"], f"{at}.equals-ignore-case").casefold()
            return lambda value: isinstance(value, str) and test(value.casefold(), folded)
        given = _text(argument, at)
        return lambda value: isinstance(value, str) and test(value, given)

    return make


def _ignoring_case(argument: object, at: str) -> Condition:
    folded = _text(argument, at).casefold()
    return lambda value: isinstance(value, str) and value.casefold() == folded


def _wildcard(argument: object, at: str) -> Condition:
    first, *others = _text(argument, at).split("*")
    if not others:
        refuse(at, "this takes a text with a *, which stands for any characters")
    return lambda value: isinstance(value, str) and _in_order(value, first, others)


def _in_order(value: str, first: str, others: Sequence[str]) -> bool:
    """Tell whether the parts between the stars follow each other; in one pass, whatever stars there are."""
    if not value.startswith(first):
        return False
    place = len(first)
    for part in others[:-1]:
        found = value.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return len(value) - place >= len(others[-1]) and value.endswith(others[-1])


def _numeric(argument: object, at: str) -> Condition:
    if not isinstance(argument, list) or len(argument) not in {_ONE, _TWO}:
        refuse(at, 'this takes a comparison or a range, such as [">", 0] or [">=", 5, "<", 9]')
    pairs = [(argument[place], argument[place + 1]) for place in range(0, len(argument), 2)]
    for place, (sign, bound) in enumerate(pairs):
        if not isinstance(sign, str) or sign not in _COMPARED:
            refuse(f"{at}.{2 * place}", f"this must be one of {', '.join(_COMPARED)}")
        if not _is_number(bound):
            refuse(f"{at}.{2 * place + 1}", "this must be a number")
    if len(pairs) == _ONE and not _is_range(*pairs):
        refuse(at, "a range begins with > or >= and ends with < or <= of something larger")
    tests = [(_COMPARED[sign], bound) for sign, bound in pairs]
    return lambda value: _is_number(value) and all(compare(value, bound) for compare, bound in tests)


def _is_range(lower: tuple[str, Any], upper: tuple[str, Any]) -> bool:
    return lower[0] in {">", ">="} and upper[0] in {"<", "<="} and bool(lower[1] < upper[1])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _anything_but(argument: object, at: str) -> Condition:
    if isinstance(argument, Mapping):
        return _but_operator(argument, at)
    values = argument if isinstance(argument, list) else [argument]
    if not values:
        refuse(at, "name at least one value")
    for place, one in enumerate(values):
        if isinstance(one, list | Mapping):
            refuse(f"{at}.{place}", "this must be a text, a number, a boolean or null")
    known = _among(values)
    return lambda value: not known(value)


def _but_operator(argument: Mapping[str, Any], at: str) -> Condition:
    """Negate an operator over texts; its argument may be a list, none of which may hold."""
    if len(argument) != 1 or not argument.keys() <= _NEGATED:
        refuse(at, f"this takes values, or one of {', '.join(sorted(_NEGATED))}")
    ((name, given),) = argument.items()
    texts = given if isinstance(given, list) and given else [given]
    conditions = [_OPERATORS[name](one, f"{at}.{name}") for one in texts]
    return lambda value: not any(condition(value) for condition in conditions)


_NEGATED: Final = frozenset({"prefix", "suffix", "equals-ignore-case", "wildcard"})

_OPERATORS: Final[Mapping[str, Callable[[object, str], Condition]]] = {
    "prefix": _affix(str.startswith),
    "suffix": _affix(str.endswith),
    "equals-ignore-case": _ignoring_case,
    "wildcard": _wildcard,
    "anything-but": _anything_but,
    "numeric": _numeric,
}
