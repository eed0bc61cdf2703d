"""Patterns of event types: `orders.*`, `*.completed`, `project.*.updated`.

Owns the one meaning of `*`, any run of characters, dots too, in the three places that ask: this process (a compiled
expression), PostgreSQL (`LIKE`, or `type_matches` over the patterns on record) and the messages about a malformed one.
A pattern without `*` is a type. Never give `?` or `[` a meaning: no type has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from headrace.errors import FieldError, InvalidInputError

MAX_PATTERN = 200
"""Characters of a pattern at most."""

_PATTERN = re.compile(r"[a-z0-9_.*-]+")


def checked(pattern: str, *, field: str = "types") -> str:
    """Return a pattern that is well-formed.

    Raises:
        InvalidInputError: it is empty, too long, or has a character that no type has.

    """
    if len(pattern) > MAX_PATTERN or not _PATTERN.fullmatch(pattern):
        message = f"{pattern[:MAX_PATTERN]!r} is no event type or pattern: dotted parts in lower case, * for any run"
        raise InvalidInputError(message, (FieldError(field, message),))
    return pattern


def like(pattern: str) -> str:
    """Return a pattern as that of SQL's `LIKE`."""
    return pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")


def matches(patterns: Iterable[str], name: str) -> bool:
    """Tell whether a type meets any of the patterns."""
    return any(pattern == name or _compiled(pattern).fullmatch(name) is not None for pattern in patterns)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
