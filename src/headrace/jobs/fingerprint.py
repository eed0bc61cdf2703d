"""Which failures are the same: a fingerprint of an error, without what differs from one case to the next.

Owns the fingerprint that stands with each failed attempt: the first 16 hex digits of SHA-256 over the error's type, the
first line of its message without numbers and ids, and the innermost frame of the package that was called (module and
function; no line, which moves with every edit). Deaths that leave no exception have one of the database's, made of
their type (`death_fingerprint`). Never put anything else in: two releases with the same fault shall show it once each.
"""

from __future__ import annotations

import hashlib
import re
import sys
from types import FrameType
from typing import Final

_DIGITS: Final = 16
_LONGEST_MESSAGE: Final = 300
_OURS: Final = "headrace"
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_NUMBERED: Final = re.compile(r"[\w.@:/+-]*\d[\w.@:/+-]*")


def fingerprint_of(error: BaseException, message: str) -> str:
    """Return the fingerprint of an error whose text is `message`."""
    kind = type(error)
    said = f"{kind.__module__}.{kind.__qualname__}\n{_without_cases(message)}\n{_place(error)}"
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:_DIGITS]


def _without_cases(message: str) -> str:
    """Return the first line of a message without quoted values and without words that hold a digit."""
    first = message.strip().split("\n", 1)[0][:_LONGEST_MESSAGE]
    return _NUMBERED.sub("#", _QUOTED.sub("'…'", first))


def _place(error: BaseException) -> str:
    """Return the innermost function of the package that Headrace called; of Headrace itself where it called none."""
    frames = _frames(error)
    called = next((package for package in map(_package, frames) if not _is_ground(package)), _OURS)
    own = [frame for frame in frames if _package(frame) == called] or frames
    return f"{own[-1].f_globals.get('__name__')}.{own[-1].f_code.co_qualname}" if own else ""


def _frames(error: BaseException) -> list[FrameType]:
    found, traceback = [], error.__traceback__
    while traceback is not None:
        found.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return found


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_ground(package: str) -> bool:
    return package in {_OURS, ""} or package in sys.stdlib_module_names
