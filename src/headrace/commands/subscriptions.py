"""`headrace subscriptions`: what an operator does with subscriptions.

Owns the table of these commands; each is imported when it runs. Without a command it lists them.
"""

from __future__ import annotations

from typing import Final

from headrace.commands.lazy import LazyGroup

_COMMANDS: Final = {
    "list": ("headrace.commands.subscriptions_standing:list_", "List subscriptions, and how far behind each is"),
    "show": ("headrace.commands.subscriptions_standing:show", "Show a subscription on every lane"),
    "pause": ("headrace.commands.subscriptions_standing:pause", "Deliver no further events to a subscription"),
    "resume": ("headrace.commands.subscriptions_standing:resume", "Deliver events to it again, from where it was"),
    "preview": ("headrace.commands.subscriptions_preview:preview_", "Count yesterday's events that one would be given"),
    "dead": ("headrace.commands.subscriptions_dead:dead", "List what failed for good, in groups of the same fault"),
    "redrive": ("headrace.commands.subscriptions_dead:redrive", "Try what failed for good again"),
    "replay": ("headrace.commands.subscriptions_replaying:replay", "Give a subscription events of the record again"),
    "rebuild": ("headrace.commands.subscriptions_replaying:rebuild", "Make the tables of a projection anew"),
    "holders": ("headrace.commands.subscriptions_trimming:holders", "Name those that keep events from being trimmed"),
    "forget": ("headrace.commands.subscriptions_trimming:forget", "Take one off the record that no code has any more"),
}

subscriptions: Final = LazyGroup(
    "subscriptions", _COMMANDS, help="List subscriptions; with a command, do something with one.", default="list"
)
