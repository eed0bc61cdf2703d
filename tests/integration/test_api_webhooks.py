"""`/v1/webhooks`: made, shown, changed, rotated, tried, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook as Receiver
from standardwebhooks import WebhookVerificationError

from headrace.api.door import Door
from headrace.settings import Settings
from headrace.webhooks.secrets import new_key
from tests.endpoints import Endpoint, always, endpoint
from tests.integration.api_road import HEADERS, KEY, open_api

URL = "https://hooks.example.com/in"
NEW = {"url": URL, "types": ["trial.*"]}


def settings_of(database_url: str, **changes: Any) -> Settings:  # noqa: ANN401 - fields of Settings
    """Return settings with a key for secrets."""
    given: dict[str, Any] = {"database_url": database_url, "api_key": KEY, "secret_keys": new_key()}
    return Settings(**given | changes)


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """An API under which webhooks may call loopback."""
    async with open_api(settings_of(database_url, webhook_allow_private=True)) as opened:
        yield opened


@pytest.fixture
async def strict(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An API under which webhooks call public addresses only."""
    async with open_api(settings_of(database_url)) as (client, _):
        yield client


@pytest.fixture
async def shop() -> AsyncIterator[Endpoint]:
    """Somebody's server, which takes everything."""
    async with endpoint() as opened:
        yield opened


async def make(client: httpx.AsyncClient, **changes: object) -> dict[str, Any]:
    """Make a webhook."""
    answer = await client.post("/v1/webhooks", json=NEW | changes)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def end_first_former_secret(door: Door) -> None:
    """Let the day of the first former secret be over."""
    first = "(SELECT min(id) FROM webhook_former_secrets)"
    async with door.record.engine.begin() as connection:
        await connection.exec_driver_sql(f"UPDATE webhook_former_secrets SET valid_until = now() WHERE id = {first}")  # noqa: S608 - constants


async def test_secret_is_shown_once_when_a_webhook_is_made(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The answer has what was asked for, and the secret; no later one has it."""
    client, _ = api

    answer = await client.post("/v1/webhooks", json=NEW | {"rate": {"limit": 5, "per_seconds": 1}, "description": "a"})
    made = answer.json()

    shown = (await client.get(f"/v1/webhooks/{made['id']}")).json()
    listed = (await client.get("/v1/webhooks")).json()["items"]
    assert answer.headers["location"] == f"/v1/webhooks/{made['id']}"
    assert made["secret"].startswith("whsec_")
    assert (made["url"], made["types"], made["enabled"]) == (URL, ["trial.*"], True)
    assert (made["rate"], made["filter"], made["description"]) == ({"limit": 5, "per_seconds": 1.0}, None, "a")
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert listed == [shown]


async def test_secret_stands_encrypted_when_it_is_on_record(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Neither the webhook's row nor the answer kept for a repeat holds it; the repeat shows it again."""
    client, door = api
    headers = {"Idempotency-Key": "one"}

    first = await client.post("/v1/webhooks", json=NEW, headers=headers)
    repeat = await client.post("/v1/webhooks", json=NEW, headers=headers)

    async with door.record.engine.connect() as connection:
        rows = (await connection.exec_driver_sql("SELECT secret FROM webhooks")).scalars().all()
        kept = (await connection.exec_driver_sql("SELECT body FROM idempotency_keys")).scalars().all()
    assert repeat.json() == first.json()
    assert repeat.headers["idempotent-replay"] == "true"
    assert len(rows) == len(kept) == 1
    assert "whsec_" not in rows[0]
    assert b"whsec_" not in kept[0]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://localhost:8000",
        "http://10.0.0.1",
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://0x7f.1/",
        "ftp://example.com/",
        "https://user:pw@example.com/",
        "not a url",
    ],
)
async def test_url_is_refused_when_it_is_not_for_the_public(strict: httpx.AsyncClient, url: str) -> None:
    """422 names the field, at creation and at a change."""
    made = await make(strict, url="https://93.184.216.34/hook")

    created = await strict.post("/v1/webhooks", json=NEW | {"url": url})
    changed = await strict.patch(f"/v1/webhooks/{made['id']}", json={"url": url})

    for answer in (created, changed):
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert [error["field"] for error in answer.json()["errors"]] == ["url"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"types": []}, "types"),
        ({"types": ["trial.thing.hapened"]}, "types.0"),
        ({"types": ["trial.*", "Trial Thing"]}, "types.1"),
        ({"rate": {"limit": 0, "per_seconds": 1}}, "rate.limit"),
        ({"filter": {"count": 5}}, "filter.count"),
        ({"secret": "mine"}, "secret"),
        ({"url": None}, "url"),
    ],
)
async def test_body_is_refused_when_a_field_is_wrong(
    api: tuple[httpx.AsyncClient, Door], wrong: dict[str, object], field: str
) -> None:
    """422 with the path of what is wrong; a type nobody declares is one such thing, a pattern for later is not."""
    client, _ = api

    answer = await client.post("/v1/webhooks", json=NEW | wrong)
    later = await client.post("/v1/webhooks", json=NEW | {"types": ["not.yet.*"]})

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert later.status_code == 201


async def test_webhook_changes_when_it_is_patched_or_put(api: tuple[httpx.AsyncClient, Door]) -> None:
    """PATCH keeps what is missing, PUT gives it its default again; neither touches the secret."""
    client, _ = api
    made = await make(client, description="first", rate={"limit": 1, "per_seconds": 60})
    path = f"/v1/webhooks/{made['id']}"

    patched = await client.patch(path, json={"filter": {"count": [1]}, "enabled": False})
    put = await client.put(path, json=NEW | {"types": ["trial.thing.happened"]})

    assert (patched.json()["description"], patched.json()["rate"]["limit"]) == ("first", 1)
    assert (patched.json()["filter"], patched.json()["enabled"]) == ({"count": [1]}, False)
    assert patched.json()["disabled_reason"] == "disabled by operator"
    assert (put.json()["rate"], put.json()["filter"], put.json()["enabled"]) == (None, None, True)
    assert (put.json()["types"], put.json()["disabled_at"]) == (["trial.thing.happened"], None)


async def test_webhook_is_unknown_when_it_was_deleted(api: tuple[httpx.AsyncClient, Door]) -> None:
    """204, and 404 for everything after it, its subscription too."""
    client, _ = api
    made = await make(client)
    path = f"/v1/webhooks/{made['id']}"

    deleted = await client.delete(path)

    asked = [
        await client.get(path),
        await client.patch(path, json={}),
        await client.delete(path),
        await client.post(f"{path}/rotate-secret"),
        await client.post(f"{path}/test"),
        await client.get(f"{path}/deliveries"),
        await client.post(f"{path}/deliveries/{made['id']}/resend"),
        await client.get(f"/v1/subscriptions/{made['subscription']}"),
    ]
    assert deleted.status_code == 204
    assert [answer.status_code for answer in asked] == [404] * len(asked)


async def test_receiver_accepts_when_it_knows_either_secret(
    api: tuple[httpx.AsyncClient, Door], shop: Endpoint
) -> None:
    """The reference library verifies a test event, before a rotation, and after it with both secrets."""
    client, _ = api
    made = await make(client, url=shop.url)
    path = f"/v1/webhooks/{made['id']}"

    before = await client.post(f"{path}/test")
    rotated = (await client.post(f"{path}/rotate-secret")).json()
    after = await client.post(f"{path}/test")

    first, second = shop.calls
    assert before.json() | {"duration_seconds": 0} == {
        "ok": True, "status": 200, "error": None, "response": "thank you", "duration_seconds": 0,
        "message_id": first.id,
    }  # fmt: skip
    assert after.json()["ok"] is True
    assert rotated["secret"] != made["secret"]
    assert rotated["former_secret_until"] is not None
    assert Receiver(made["secret"]).verify(first.body, first.headers)["type"] == "headrace.webhook.test"
    for secret in (made["secret"], rotated["secret"]):
        assert Receiver(secret).verify(second.body, second.headers)["subject"] == made["id"]


async def test_former_secret_ends_when_its_day_is_over(api: tuple[httpx.AsyncClient, Door], shop: Endpoint) -> None:
    """A day after the rotation one signature is sent, that of the new secret."""
    client, door = api
    made = await make(client, url=shop.url)
    await client.post(f"/v1/webhooks/{made['id']}/rotate-secret")
    async with door.record.engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE webhook_former_secrets SET valid_until = valid_until - interval '24 hours'"
        )

    await client.post(f"/v1/webhooks/{made['id']}/test")

    shown = (await client.get(f"/v1/webhooks/{made['id']}")).json()
    assert len(shop.calls[0].headers["webhook-signature"].split(" ")) == 1
    assert shown["former_secret_until"] is None


async def test_receivers_accept_when_the_secret_is_rotated_again_within_the_day(
    api: tuple[httpx.AsyncClient, Door], shop: Endpoint
) -> None:
    """Whoever still has the first secret verifies what is sent after two rotations; the latest end is shown."""
    client, door = api
    made = await make(client, url=shop.url)
    path = f"/v1/webhooks/{made['id']}"

    first = (await client.post(f"{path}/rotate-secret")).json()
    second = (await client.post(f"{path}/rotate-secret")).json()
    await client.post(f"{path}/test")

    await end_first_former_secret(door)
    await client.post(f"{path}/test")

    before, after = shop.calls
    for secret in (made["secret"], first["secret"], second["secret"]):
        assert Receiver(secret).verify(before.body, before.headers)["subject"] == made["id"]
    for secret in (first["secret"], second["secret"]):
        assert Receiver(secret).verify(after.body, after.headers)["subject"] == made["id"]
    with pytest.raises(WebhookVerificationError):
        Receiver(made["secret"]).verify(after.body, after.headers)
    assert second["former_secret_until"] > first["former_secret_until"]


async def test_rotation_is_refused_when_five_former_secrets_are_valid(
    api: tuple[httpx.AsyncClient, Door], shop: Endpoint
) -> None:
    """The sixth rotation of a day is 409 and says until when; nothing has changed, and it passes once one has ended."""
    client, door = api
    made = await make(client, url=shop.url)
    path = f"/v1/webhooks/{made['id']}"

    rotated = [await client.post(f"{path}/rotate-secret") for _ in range(6)]
    await client.post(f"{path}/test")
    await end_first_former_secret(door)
    again = await client.post(f"{path}/rotate-secret")
    removed = await client.delete(path)

    assert [answer.status_code for answer in rotated] == [200] * 5 + [409]
    until = datetime.fromisoformat(rotated[0].json()["former_secret_until"])
    assert f"it can be rotated again at {until + timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}" in rotated[-1].text
    assert len(shop.calls[0].headers["webhook-signature"].split(" ")) == 6
    assert (again.status_code, removed.status_code) == (200, 204)


async def test_types_are_kept_once_each_when_some_are_named_twice(api: tuple[httpx.AsyncClient, Door]) -> None:
    """In the order in which they were given, also when they are changed, and in the subscription as well."""
    client, _ = api

    made = await make(client, types=["trial.*", "orders.*", "trial.*"])
    changed = await client.patch(f"/v1/webhooks/{made['id']}", json={"types": ["orders.*", "orders.*"]})

    subscription = (await client.get(f"/v1/subscriptions/{made['subscription']}")).json()
    assert made["types"] == ["trial.*", "orders.*"]
    assert changed.json()["types"] == subscription["types"] == ["orders.*"]


async def test_no_key_is_listed_when_a_request_puts_nothing_on_record(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A test of a webhook and a preview answer each request anew; OpenAPI lists the key for every other POST."""
    client, _ = api

    paths = (await client.get("/openapi.json", headers=HEADERS)).json()["paths"]

    without = {
        path
        for path, operations in paths.items()
        if path.startswith("/v1") and "post" in operations
        if "Idempotency-Key" not in [one["name"] for one in operations["post"].get("parameters", [])]
    }
    assert without == {"/v1/webhooks/{webhook_id}/test", "/v1/subscriptions/preview"}


async def test_trial_tells_the_status_when_the_endpoint_refuses(
    api: tuple[httpx.AsyncClient, Door], shop: Endpoint
) -> None:
    """A test is answered with 200 whatever the endpoint says, and leaves the webhook as it is."""
    client, _ = api
    shop.answer = always(410)
    made = await make(client, url=shop.url)

    refused = (await client.post(f"/v1/webhooks/{made['id']}/test")).json()

    assert (refused["ok"], refused["status"], refused["error"]) == (False, 410, "the endpoint answered 410")
    assert (await client.get(f"/v1/webhooks/{made['id']}")).json()["enabled"] is True


async def test_api_says_what_is_missing_when_it_has_no_key(database_url: str) -> None:
    """Without HEADRACE_SECRET_KEYS nothing can be made: 503, and the setting by its name."""
    async with open_api(settings_of(database_url, secret_keys=None)) as (client, _):
        answer = await client.post("/v1/webhooks", json=NEW)

        assert answer.status_code == 503
        assert "HEADRACE_SECRET_KEYS" in answer.json()["detail"]
        assert answer.headers["retry-after"]
        assert (await client.get("/v1/webhooks")).json()["items"] == []


async def test_listing_is_paged_when_there_are_many(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Newest first, each once."""
    client, _ = api
    made = [(await make(client))["id"] for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None

    while cursor is not None or not seen:
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/webhooks", params=query)).json()
        seen += [one["id"] for one in page["items"]]
        cursor = page["next_cursor"]

    assert seen == made[::-1]


async def test_scope_is_needed_when_webhooks_are_touched(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Reading needs `webhooks:read`, everything else `webhooks:write`; OpenAPI describes the routes."""
    client, _ = api

    nobody = await client.get("/v1/webhooks", headers={"Authorization": "Bearer nobody"})
    document = (await client.get("/openapi.json", headers=HEADERS)).json()

    assert nobody.status_code == 401
    assert {path for path in document["paths"] if path.startswith("/v1/webhooks")} == {
        "/v1/webhooks",
        "/v1/webhooks/{webhook_id}",
        "/v1/webhooks/{webhook_id}/rotate-secret",
        "/v1/webhooks/{webhook_id}/test",
        "/v1/webhooks/{webhook_id}/deliveries",
        "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}",
        "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/resend",
        "/v1/webhooks/deliveries/{delivery_id}/resend",
    }
