"""What a worker and its child processes say to each other.

Owns the messages and their frames: four bytes of length, then msgpack. A child decides the outcome of its attempt
itself, where the exception lives; so nothing is pickled, and a result is the JSON that will stand on record.
"""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.jobs.model import Claim, Outcome

LENGTH: Final = 4


class Begin(msgspec.Struct, frozen=True):
    """Run this attempt; the worker sends it to a child that is idle."""

    claim: Claim
    module: str
    """Where the task is declared."""
    task: str
    """Its name there; the claim may have an older one."""
    traceparent: str
    """Of the run's span."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The child has started."""


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """The function has reported its progress."""

    done: int | float
    total: int | float
    note: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The attempt is over, and the child idle."""

    outcome: Outcome


Said = Ready | Progressed | Ended
"""What a child may say."""

_encoder: Final = msgspec.msgpack.Encoder()
_begin: Final = msgspec.msgpack.Decoder(Begin)
_said: Final[msgspec.msgpack.Decoder[Said]] = msgspec.msgpack.Decoder(Said)


def framed(message: Begin | Said) -> bytes:
    """Return a message as it is sent."""
    encoded = _encoder.encode(message)
    return len(encoded).to_bytes(LENGTH) + encoded


def begin_of(encoded: bytes) -> Begin:
    """Read what a worker said."""
    return _begin.decode(encoded)


def said_by(encoded: bytes) -> Said:
    """Read what a child said."""
    return _said.decode(encoded)
