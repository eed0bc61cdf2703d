"""What of a changed shape breaks those who rely on the former one.

Owns the comparison of two JSON Schemas of one version of a type, field by field: one that is gone (renamed, where one
of the same kind came beside it), one that takes less than it did, and one that has to be there and did not have to.
What only adds or widens breaks nobody. It compares what msgspec writes; of anything else it says nothing rather than
something wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.events.shapes import Schema, fields_of, members_of, target_of

_ANY: Final = "anything"
_COVERED: Final[Mapping[str, str]] = {"integer": "number"}
_LIST: Final = "array of "
_DEPTH: Final = 5

_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


@dataclass(slots=True)
class _Field:
    """What is known of the field at one path, over all the objects that may stand there."""

    kinds: set[str] = field(default_factory=set)
    required: bool = True
    bounds: dict[str, Any] = field(default_factory=dict)
    values: set[str] | None = None
    """The values it may have, where they are listed."""


def breaking_changes(former: Schema, present: Schema) -> list[str]:
    """Return what breaks, each as a sentence about a field, in the order of their paths."""
    before, after = _fields(former), _fields(present)
    return [*_gone(before, after), *_narrowed(before, after), *_asked_anew(before, after)]


def _gone(before: Mapping[str, _Field], after: Mapping[str, _Field]) -> Iterator[str]:
    for path in sorted(before.keys() - after.keys()):
        above = path.rpartition(".")[0]
        if above and above not in after:
            continue  # told of the object that held it
        new = [
            other
            for other in sorted(after.keys() - before.keys())
            if other.rpartition(".")[0] == above and _covers(after[other].kinds, before[path].kinds)
        ]
        yield f"{path} is gone" + (f" (renamed to {' or '.join(new)}?)" if new else "")


def _narrowed(before: Mapping[str, _Field], after: Mapping[str, _Field]) -> Iterator[str]:
    for path in sorted(before.keys() & after.keys()):
        was, now = before[path], after[path]
        if not _covers(now.kinds, was.kinds):
            yield f"{path} was {_told(was.kinds)} and is {_told(now.kinds)}"
        elif now.values is not None and (was.values is None or not was.values <= now.values):
            lost = "" if was.values is None else f": without {', '.join(sorted(was.values - now.values))}"
            yield f"{path} takes fewer values{lost}"
        yield from (f"{path} takes less: {what}" for what in _tightened(was.bounds, now.bounds))
        if now.required and not was.required:
            yield f"{path} has to be there, and did not have to"


def _asked_anew(before: Mapping[str, _Field], after: Mapping[str, _Field]) -> Iterator[str]:
    for path in sorted(after.keys() - before.keys()):
        above = path.rpartition(".")[0]
        if after[path].required and (not above or above in before):
            yield f"{path} is new and has to be there"


def _tightened(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    tighter: Mapping[str, Callable[[Any, Any], bool]] = {
        **dict.fromkeys(_LOWER, lambda old, new: new > old),
        **dict.fromkeys(_UPPER, lambda old, new: new < old),
        "pattern": lambda old, new: bool(new != old),
        "multipleOf": lambda old, new: bool(new != old),
    }
    for name, is_tighter in tighter.items():
        if name in now and (name not in was or is_tighter(was[name], now[name])):
            yield f"{name} {now[name]}"


def _fields(schema: Schema) -> dict[str, _Field]:
    found: dict[str, _Field] = {}
    for path, child, required in fields_of(schema):
        values = _values(child, schema)
        one = found.setdefault(path, _Field(values=values))
        one.required = one.required and required
        one.kinds |= _kinds(child, schema, _DEPTH)
        one.values = None if one.values is None or values is None else one.values | values
        one.bounds |= {name: child[name] for name in (*_LOWER, *_UPPER, "pattern", "multipleOf") if name in child}
    return found


def _kinds(node: Schema, root: Schema, depth: int) -> set[str]:
    """Return what a value may be: names of JSON types, with the format of a text and the elements of a list."""
    target = target_of(node, root)
    alternatives = [*target.get("anyOf", ()), *target.get("oneOf", ())]
    if alternatives:
        return {kind for one in alternatives for kind in _kinds(one, root, depth)}
    if "enum" in target or "const" in target:
        return {_kind_of(value) for value in target.get("enum", [target.get("const")])}
    named = target.get("type")
    kinds = {named} if isinstance(named, str) else set(named or (_ANY,))
    if "string" in kinds and "format" in target:
        return kinds - {"string"} | {f"string ({target['format']})"}
    items = target.get("items")
    if "array" in kinds and isinstance(items, Mapping) and depth:
        return kinds - {"array"} | {_LIST + kind for kind in _kinds(items, root, depth - 1)}
    return kinds


def _values(node: Schema, root: Schema) -> set[str] | None:
    """Return the values that a field may have, None where any of its kind will do."""
    values: set[str] = set()
    for member in members_of(node, root):
        if "enum" in member or "const" in member:
            values |= {str(value) for value in member.get("enum", [member.get("const")])}
        elif member.get("type") == "null":
            values.add("None")
        else:
            return None
    return values


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {int: "integer", float: "number", str: "string"}.get(type(value), _ANY)


def _covers(wide: set[str], narrow: set[str]) -> bool:
    """Tell whether each kind of the one is among the other's."""
    return all(_is_covered(kind, wide) for kind in narrow)


def _is_covered(kind: str, wide: set[str]) -> bool:
    if kind in wide or _ANY in wide:
        return True
    if kind.startswith(_LIST):
        lists = {one.removeprefix(_LIST) for one in wide if one.startswith(_LIST)}
        return "array" in wide or _is_covered(kind.removeprefix(_LIST), lists)
    return _COVERED.get(kind) in wide or kind.partition(" (")[0] in wide


def _told(kinds: set[str]) -> str:
    return " or ".join(sorted(kinds))
