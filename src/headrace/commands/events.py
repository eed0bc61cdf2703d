"""`headrace events`: what an operator does with events.

Owns the table of these commands; each is imported when it runs.
"""

from __future__ import annotations

from typing import Final

from headrace.commands.lazy import LazyGroup

_COMMANDS: Final = {
    "show": ("headrace.commands.events_reading:show", "Show an event, and how it stands with each subscription"),
    "tail": ("headrace.commands.events_following:tail", "Print events as they come"),
    "publish": ("headrace.commands.events_publishing:publish", "Publish events, from a file or by their parts"),
    "replay": ("headrace.commands.subscriptions_replaying:replay", "Give events of the record to a subscription again"),
}

events: Final = LazyGroup("events", _COMMANDS, help="Publish, show and follow events.")
