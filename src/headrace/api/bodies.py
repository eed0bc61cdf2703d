"""Bodies: JSON in, one value of the declared type out, in one pass.

Owns the decoding of every request body, by `StrictRequest`, which Litestar uses for every `data` argument: `"3"` is no
number and an unknown field of a closed type is refused. Not JSON at all is 400; JSON of another shape is 422 and names
the field. A NUL in any string is 422 too: PostgreSQL cannot store it.
Never decode a body elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.exceptions import ClientException

from headrace.api.answers import header_of
from headrace.errors import FieldError, InvalidInputError
from headrace.keys import Principal

_PLACE: Final = re.compile(r" - at `(?:key in )?\$(.*)`$")
_MEMBER: Final = re.compile(r"^Object (?:missing required|contains unknown) field `(.*)`$", re.DOTALL)
_INDEX: Final = re.compile(r"\[(\d+|\.\.\.)\]")
_JSON: Final = "application/json"
_NUL: Final = "the character NUL is not allowed"


class StrictRequest(Request[Principal, Principal, State]):
    """A request whose JSON body is decoded into what its handler declares as `data`."""

    async def json(self) -> Any:  # noqa: ANN401 - the type that the handler declares
        """Return the decoded body.

        Raises:
            ClientException: it is not JSON (400), or is said to be something else (415).
            InvalidInputError: it is JSON of another shape (422).

        """
        if not _says_json(header_of(self.scope, b"content-type")):
            message = "send application/json"
            raise ClientException(message, status_code=415)
        field = self.route_handler.parsed_data_field
        return decode(await self.body(), Any if field is None else field.annotation)


def _says_json(content_type: str | None) -> bool:
    """Tell whether a body is said to be JSON; who says nothing sends JSON."""
    kind = (content_type or _JSON).partition(";")[0].strip().lower()
    return kind == _JSON or kind.endswith("+json")


def decode(body: bytes, kind: Any, *, at: str = "") -> Any:  # noqa: ANN401 - a value of the type that is asked for
    """Decode JSON into a type; `at` is the path of this JSON within the whole body.

    Raises:
        ClientException: it is not JSON (400).
        InvalidInputError: it does not fit the type, or holds a NUL (422).

    """
    try:
        value = _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        _refuse_malformed(body)
        wrong = field_error(error, at=at)
        raise InvalidInputError(_told(wrong), (wrong,)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error
    if b"\\u0000" in body:
        refuse_nul(body, at=at)
    return value


def _refuse_malformed(body: bytes) -> None:
    """Refuse what is no JSON at all: a decoder that looks for a shape stops before it has read everything."""
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError:
        return
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> ClientException:
    if isinstance(error, RecursionError):
        return ClientException("the JSON is nested too deeply")
    return ClientException(f"the body is not JSON: {error}")


def refuse_nul(body: bytes, *, at: str = "") -> None:
    """Refuse JSON with a NUL in one of its strings.

    Raises:
        InvalidInputError: naming every such field.

    """
    errors = tuple(FieldError(path, _NUL) for path in _nul_paths(msgspec.json.decode(body), at))
    if errors:
        raise InvalidInputError(_told(errors[0]), errors)


def field_error(error: msgspec.ValidationError, *, at: str = "") -> FieldError:
    """Turn msgspec's message into the field, as a dotted path, and what is wrong with it."""
    text = str(error)
    place = _PLACE.search(text)
    path = _INDEX.sub(r".\1", place.group(1)).strip(".") if place else ""
    message = text[: place.start()] if place else text
    member = _MEMBER.match(message)
    parts = [at, path, member.group(1) if member else ""]
    return FieldError(".".join(part for part in parts if part), _plain(message))


def _told(wrong: FieldError) -> str:
    return f"{wrong.field}: {wrong.message}" if wrong.field else wrong.message


def _plain(message: str) -> str:
    if message.startswith("Object missing required field"):
        return "this field is required"
    if message.startswith("Object contains unknown field"):
        return "there is no such field"
    return message[:1].lower() + message[1:]


def _nul_paths(value: object, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if "\x00" in value:
            yield path
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nul_paths(item, f"{path}.{index}".strip("."))
    elif isinstance(value, dict):
        for name, item in value.items():
            if "\x00" in name:
                yield path
            yield from _nul_paths(item, f"{path}.{name}".strip("."))


@lru_cache(maxsize=512)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - any type that msgspec knows
    return msgspec.json.Decoder(kind)
