"""`headrace webhooks` as an operator uses it: what it prints, what it changes, how it exits."""

from __future__ import annotations

from headrace.webhooks.secrets import new_key
from tests.endpoints import always, endpoint
from tests.integration.commands import headrace
from tests.road import Road


async def test_webhook_is_made_tried_and_disabled_when_an_operator_says_so(road: Road) -> None:
    """The secret is printed once; a test tells what was answered and exits by it."""
    variables = {"HEADRACE_SECRET_KEYS": new_key(), "HEADRACE_WEBHOOK_ALLOW_PRIVATE": "true"}
    async with endpoint() as shop:
        made = await headrace(road, "webhooks", "create", shop.url, "--type", "trial.*", "--json", **variables)
        webhook_id = made.json["id"]
        shop.answer = always(503)
        refused = await headrace(road, "webhooks", "test", webhook_id, **variables)
        disabled = await headrace(road, "webhooks", "disable", webhook_id)
        listed = await headrace(road, "webhooks")
        deliveries = await headrace(road, "webhooks", "deliveries", webhook_id)

    assert (made.code, made.json["secret"][:6]) == (0, "whsec_"), made.err
    assert (refused.code, refused.out[:25]) == (1, "the endpoint answered 503")
    assert (disabled.code, disabled.out.strip()) == (0, f"the webhook {webhook_id} is disabled")
    assert "whsec_" not in listed.out
    assert webhook_id in listed.out
    assert deliveries.out.strip() == "nothing was sent to it yet"


async def test_command_says_what_is_wrong_when_a_webhook_cannot_be_made(road: Road) -> None:
    """A private address, a type that nobody declares, no key: one line each."""
    key = {"HEADRACE_SECRET_KEYS": new_key()}

    private = await headrace(road, "webhooks", "create", "http://127.0.0.1/x", "--type", "trial.*", **key)
    unknown = await headrace(road, "webhooks", "create", "https://a.example.com", "--type", "no.such", **key)
    keyless = await headrace(road, "webhooks", "create", "https://93.184.216.34", "--type", "trial.*")

    assert (private.code, "HEADRACE_WEBHOOK_ALLOW_PRIVATE" in private.err) == (1, True)
    assert (unknown.code, "declares the event type no.such" in unknown.err) == (1, True)
    assert (keyless.code, "HEADRACE_SECRET_KEYS" in keyless.err) == (1, True)
