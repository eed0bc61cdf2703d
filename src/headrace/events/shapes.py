"""The shape of an event's data, as JSON Schema: its fields by their dotted paths.

Owns the schema of a declared type and the walk over schemas, which are the same whether this code made them or the
record kept them. What a schema leaves open (any JSON, a map, a union) is taken to have any field. Never decode a value
here: a schema says what may be there, not what is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from headrace.events.registry import EventType

Schema = Mapping[str, Any]

_ANYTHING: Final = {"description": "any JSON"}
_DEPTH: Final = 20
_REF: Final = "#/$defs/"


def schema_of(event: EventType) -> dict[str, Any]:
    """Return the JSON Schema of a declared type's data; what msgspec cannot describe is any JSON."""
    try:
        return msgspec.json.schema(event.data_type, schema_hook=lambda _: dict(_ANYTHING))
    except TypeError:  # a default that has no JSON of its own
        return dict(_ANYTHING)


def version_schema(event: EventType) -> dict[str, Any]:
    """Return the JSON Schema of `dataversion`: the versions of a type whose data are taken and read."""
    said = "the version of the data; data of an older one stay as they were"
    bounds = {"minimum": event.oldest, "maximum": event.version, "default": event.version}
    return {"type": "integer", "description": said} | bounds


def has_field(schema: Schema, path: str) -> bool:
    """Tell whether data of a schema may have a field at a path; a field within a list is that of its elements."""
    return _has(schema, schema, path)


def paths_of(schema: Schema) -> Iterator[str]:
    """Yield the paths of the fields that a schema names."""
    yield from (path for path, _, _ in fields_of(schema))


def fields_of(schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """Yield each field that a schema names: its path, its own schema, and whether it has to be there in any case.

    A field of several members of a union is yielded for each.
    """
    yield from _fields(schema, schema, "", _DEPTH)


def target_of(node: Schema, root: Schema) -> Schema:
    """Return what a node refers to, itself where it refers to nothing."""
    reference = str(node.get("$ref", ""))
    found: Schema = root.get("$defs", {}).get(reference.removeprefix(_REF), {}) if reference else node
    return found


def _fields(node: Schema, root: Schema, above: str, depth: int) -> Iterator[tuple[str, Schema, bool]]:
    objects = [member for member in members_of(node, root) if "properties" in member]
    required = set.intersection(*(set(member.get("required", ())) for member in objects)) if objects else set()
    for member in objects:
        for name, child in member["properties"].items():
            yield above + name, target_of(child, root), name in required
            if depth:
                yield from _fields(child, root, f"{above}{name}.", depth - 1)


def members_of(node: Schema, root: Schema) -> Iterator[Schema]:
    """Yield the objects that a node may be: itself, those of a union, the elements of a list."""
    found = target_of(node, root)
    alternatives = [*found.get("anyOf", ()), *found.get("oneOf", ())]
    if "items" in found and isinstance(found["items"], Mapping):
        alternatives.append(found["items"])
    if not alternatives:
        yield found
    for one in alternatives:
        yield from members_of(one, root)


def _has(node: Schema, root: Schema, path: str) -> bool:
    name, _, rest = path.partition(".")
    for member in members_of(node, root):
        properties = member.get("properties")
        if properties is None:
            if _is_open(member):
                return True
            continue
        if name in properties and (not rest or _has(properties[name], root, rest)):
            return True
        if path in properties:  # a name may hold a dot
            return True
    return False


def _is_open(member: Schema) -> bool:
    """Tell whether a schema without named fields may be an object."""
    return member.get("type", "object") == "object" and not {"const", "enum"} & member.keys()
