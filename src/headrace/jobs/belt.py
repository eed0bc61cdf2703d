"""How jobs travel on the belt: the names and the entry of a queue's stream.

Owns the key of a queue's stream, its one consumer group and the entry's field. An entry says all that a worker
needs, so that taking a job costs no further round trip; but it decides nothing: a worker must win the claim in the
record first.
"""

from __future__ import annotations

from typing import Final

import msgspec

from headrace import belt
from headrace.jobs.model import Claim

PREFIX: Final = f"{belt.PREFIX}queue:"
GROUP: Final = "workers"
FIELD: Final = b"j"


def stream_of(queue: str) -> str:
    """Return the key of a queue's stream."""
    return f"{PREFIX}{queue}"


entry_of: Final = msgspec.msgpack.Encoder().encode
"""Return the entry's field for a released job."""

released_by: Final = msgspec.msgpack.Decoder(Claim).decode
"""Return the released job that an entry's field names; raises `msgspec.DecodeError` where it names none."""
