"""What a subscription listens to, and what its function is given.

Owns the meaning of patterns, filter and versions for one subscription, wherever its events come from: the belt, the
record, a job. A filter is asked of the data of the present version, as the function gets them. An event that this code
cannot read is not left out by a filter: whoever handles it finds out why, and newer code may read it. Never decide here
what follows from that.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from headrace.events.reading import Reading
from headrace.streams.payload import Wanted
from headrace.subscribers.contract import Subscription

UNKNOWN_WAIT_SECONDS: Final = 30.0
"""How long a delivery waits for newer code before it is tried again."""


def wanted_by(subscription: Subscription) -> Wanted:
    """Return what tells the events that a subscription handles from those that it passes over."""
    asked = subscription.filter
    meets = None if asked is None else partial(Reading(subscription.events).meets, asked)
    return Wanted(subscription.patterns, known=subscription.types, meets=meets)
