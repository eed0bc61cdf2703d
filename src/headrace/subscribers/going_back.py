"""The tasks that go back in the record: replays to subscribers, rebuilds of projections.

Owns their joining to what workers run. Never list them in an application: every Headrace has them.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.application import Application
from headrace.subscribers.contract import Subscription
from headrace.subscribers.rebuilding import Rebuild
from headrace.subscribers.replaying import Replay


def replays_to(subscriptions: Mapping[str, Subscription]) -> Application:
    """Return what workers need besides the applications: the tasks that go back in the record for them."""
    return Application(name="headrace.replays", tasks=(Replay(subscriptions), Rebuild(subscriptions)))
