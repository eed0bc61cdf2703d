"""`headrace webhooks`: who is told of events, and what became of what was sent.

Owns the table of these commands; each is imported when it runs. Without a command it lists the webhooks.
"""

from __future__ import annotations

from typing import Final

from headrace.commands.lazy import LazyGroup

_COMMANDS: Final = {
    "list": ("headrace.commands.webhooks_reading:list_", "List webhooks, and how their endpoints answer"),
    "show": ("headrace.commands.webhooks_reading:show", "Show a webhook"),
    "create": ("headrace.commands.webhooks_changing:create", "Make a webhook and print its secret, this once"),
    "delete": ("headrace.commands.webhooks_changing:delete", "Delete a webhook"),
    "enable": ("headrace.commands.webhooks_changing:enable", "Send events to a webhook again"),
    "disable": ("headrace.commands.webhooks_changing:disable", "Send nothing more to a webhook"),
    "rotate-secret": ("headrace.commands.webhooks_changing:rotate_secret", "Make another secret and print it"),
    "test": ("headrace.commands.webhooks_changing:test", "Send a test event at once, and tell what was answered"),
    "deliveries": ("headrace.commands.webhooks_reading:deliveries", "List what was sent to a webhook"),
    "resend": ("headrace.commands.webhooks_changing:resend", "Send a delivery again, now"),
}

webhooks: Final = LazyGroup(
    "webhooks", _COMMANDS, help="List webhooks; with a command, do something with one.", default="list"
)
