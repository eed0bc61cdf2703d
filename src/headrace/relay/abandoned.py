"""Keys that an older version used leave Redis.

Owns their names: lanes and queues bore them before all of the belt lay in one slot. What they held is on record and was
put under the new names from there. They are deleted each time a relay begins to lead, so that one of the older version
which still ran leaves nothing behind either. Never delete a key that this version uses.
"""

from __future__ import annotations

from typing import Final

import structlog

from headrace.loops import Pace, repeat
from headrace.relay.connection import connected
from headrace.relay.leader import Leadership
from headrace.streams.address import Topology, address_of

logger = structlog.get_logger(__name__)

_ONCE_A_DAY: Final = Pace(86_400.0)
_QUEUES: Final = "SELECT name FROM queues"
_LANES: Final = 64
"""More lanes than anybody had."""


async def remove_abandoned(leadership: Leadership) -> None:
    """Delete the keys of older versions, and then wait for the end of the leadership."""
    if address_of(leadership.settings.redis_url).topology is Topology.CLUSTER:  # an older version knew no cluster
        await leadership.stop.wait()
    await repeat("remove_abandoned", lambda: _remove(leadership), _ONCE_A_DAY, leadership.stop)


async def _remove(leadership: Leadership) -> None:
    async with connected(leadership) as connection:
        queues = [row["name"] for row in await connection.fetch(_QUEUES)]
    names = [f"headrace:lane:{lane}" for lane in range(_LANES)]
    names += [f"headrace:queue:{{{queue}}}" for queue in queues]
    if removed := await leadership.redis.unlink(*names):
        logger.info("abandoned_keys_removed", count=removed)
