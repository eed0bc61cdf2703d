"""The keys of the belt and the form of its entry ids.

Owns the names of lanes under the belt's prefix. A lane's entry at position 7 has the id `7-0`: position and id are the
same thing, so that a lost tail is seen in the id alone. Never let Redis choose an id on a lane.
"""

from __future__ import annotations

from headrace.belt import PREFIX

FIELD = b"e"
"""The one field of a lane's entry: the event in msgpack."""


def lane_key(lane: int) -> str:
    """Return the key of a lane's stream."""
    return f"{PREFIX}lane:{lane}"


def entry_id(position: int) -> str:
    """Return the id of the entry at a position."""
    return f"{position}-0"


def position_of(identity: bytes | str) -> int:
    """Return the position that an id names; one that no relay wrote (`7-3`, a clock's time) counts as far ahead.

    A clock's id is a number of milliseconds, above every position; a second part that is not 0 is made so here.
    """
    if isinstance(identity, str):
        identity = identity.encode()
    return int(identity[:-2]) if identity.endswith(b"-0") else FOREIGN


FOREIGN = 2**63 - 1
"""The position of an entry that no relay wrote."""
