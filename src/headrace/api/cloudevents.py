"""CloudEvents 1.0 over HTTP, JSON format: one event or a batch, in and out.

Owns the reading of a body by its content type, with the field that is wrong named, in a batch by its place. Extension
attributes are lower-case letters and digits with a string, a number or a boolean. One of them is Headrace's:
`dataversion` says of which version of the type the data are, the present one where it is missing; data of an older
version are kept as they came, if this code can read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec
from litestar.exceptions import ClientException

from headrace.api.bodies import decode
from headrace.errors import FieldError, InvalidInputError
from headrace.events.intake import Attributes, Content, event_of
from headrace.events.model import NewEvent
from headrace.events.reading import UnreadableEventError, upcast_data
from headrace.events.registry import EventType

SINGLE: Final = "application/cloudevents+json"
VERSION: Final = "dataversion"
BATCH: Final = "application/cloudevents-batch+json"
MOST_EVENTS: Final = 1_000
SINGLE_BYTES: Final = 1024 * 1024

_NAMED: Final = frozenset(Attributes.__struct_fields__)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,4}")
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,20}")
# RFC 3986, 4.1: only these characters, and a colon in the first segment only after a scheme
_URI_REFERENCE: Final = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*:|(?![^/?#]*:))(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
)


def events_of(body: bytes, content_type: str, declared: Mapping[str, EventType]) -> list[NewEvent]:
    """Read the events of a request.

    Raises:
        ClientException: not JSON (400), too large for one event (413), or of another content type (415).
        InvalidInputError: an event is malformed, of an unknown type, or its data do not fit.

    """
    if content_type == BATCH:
        members = decode(body, list[dict[str, msgspec.Raw]])
        if not 0 < len(members) <= MOST_EVENTS:
            _refuse("", f"a batch has 1 to {MOST_EVENTS} events")
        return [event_of_member(member, declared, str(place)) for place, member in enumerate(members)]
    if content_type not in {SINGLE, "application/json"}:
        message = f"send {SINGLE} or {BATCH}"
        raise ClientException(message, status_code=415)
    if len(body) > SINGLE_BYTES:
        message = f"an event takes at most {SINGLE_BYTES} bytes"
        raise ClientException(message, status_code=413)
    return [event_of_member(decode(body, dict[str, msgspec.Raw]), declared, "")]


def event_of_member(member: dict[str, msgspec.Raw], declared: Mapping[str, EventType], at: str) -> NewEvent:
    """Read one event; `at` is its place in a batch, "" where it stands alone.

    Raises:
        ClientException: an attribute is not JSON (400).
        InvalidInputError: it is malformed, of an unknown type, or its data do not fit.

    """
    named = {name: value for name, value in member.items() if name in _NAMED}
    attributes: Attributes = decode(msgspec.json.encode(named), Attributes, at=at)
    if not _URI_REFERENCE.fullmatch(attributes.source):
        _refuse(_within(at, "source"), "this must be a URI-reference, such as https://shop.example or /shop")
    event_type = declared.get(attributes.type)
    if event_type is None:
        _refuse(_within(at, "type"), f"no application declares the event type {attributes.type}")
    extensions = {name: value for name, value in member.items() if name not in _NAMED}
    _check_extensions(extensions, at)
    version = _version_of(extensions.pop(VERSION, None), event_type, _within(at, VERSION))
    content = _content_of(bytes(attributes.data), version, event_type, _within(at, "data"))
    try:
        return event_of(attributes, extensions, event_type, content)
    except InvalidInputError as error:
        errors = tuple(FieldError(_within(at, one.field), one.message) for one in error.errors)
        raise InvalidInputError(str(error), errors) from error


def _version_of(given: msgspec.Raw | None, event_type: EventType, at: str) -> int:
    if given is None:
        return event_type.version
    written = str(msgspec.json.decode(given))
    if not _VERSION.fullmatch(written):
        _refuse(at, "this must be a whole number, from 1")
    version = int(written)
    if not event_type.oldest <= version <= event_type.version:
        _refuse(at, f"{event_type.type} is read in {event_type.readable} here, not in version {version}")
    return version


def _content_of(data: bytes, version: int, event_type: EventType, at: str) -> Content:
    if version == event_type.version:
        present = decode(data, event_type.data_type, at=at)
        return Content(version, msgspec.json.encode(present), present)
    kept = msgspec.json.encode(decode(data, dict[str, Any], at=at))
    try:
        upcast = upcast_data(event_type, version, kept.decode())
    except UnreadableEventError as error:
        _refuse(at, str(error))
    return Content(version, kept, decode(upcast.encode(), event_type.data_type, at=at))


def _check_extensions(extensions: Mapping[str, msgspec.Raw], at: str) -> None:
    for name, value in extensions.items():
        if name == "data_base64":
            _refuse(_within(at, name), "binary data are not taken: send JSON as data")
        if not _EXTENSION.fullmatch(name):
            _refuse(_within(at, name), "an extension is named by up to 20 lower-case letters and digits")
        decode(bytes(value), str | int | float | bool, at=_within(at, name))


def _within(at: str, field: str) -> str:
    return f"{at}.{field}".strip(".")


def _refuse(field: str, message: str) -> NoReturn:
    text = f"{field}: {message}" if field else message
    raise InvalidInputError(text, (FieldError(field, message),))
