"""Health says what is alive and what is missing; the API describes itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
from sqlalchemy import text

from headrace.api.door import Door
from headrace.api.gauges import fill_gauges
from headrace.clock import now
from headrace.database.record import open_record
from headrace.presence import Identity, Presence, Role
from headrace.settings import Settings
from headrace.telemetry.metrics import Metrics
from tests.integration.api_road import KEY, enqueue, open_api

ROLES: tuple[Role, ...] = ("relay", "worker", "consume", "cron")
LEAD = text("""
    INSERT INTO leases (name, holder, epoch, expires_at)
    VALUES ('relay', gen_random_uuid(), 1, now() + interval '1 minute')
""")


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Door]]:
    """A client of the API, and the parts behind it."""
    async with open_api(Settings(database_url=database_url, redis_url=redis_url, api_key=KEY)) as opened:
        yield opened


class Gate:
    """A way to PostgreSQL that can be shut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Break every connection and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self._flows.set()

    def freeze(self) -> None:
        """Keep every connection, take new ones, and let nothing through any more."""
        self._flows.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy(reader, far_writer))
            group.create_task(self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                await self._flows.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)


@asynccontextmanager
async def gate_to(url: str) -> AsyncIterator[tuple[Gate, str]]:
    """Run a gate to a server, and say how to reach the server through it."""
    parts = urlsplit(url)
    gate = Gate(parts.hostname or "", parts.port or 5432)
    await gate.open()
    through = parts.netloc.rpartition(":")[0] + f":{gate.port}"
    try:
        yield gate, urlunsplit(parts._replace(netloc=through))
    finally:
        await gate.shut()


async def test_answer_is_503_when_postgresql_is_away(database_url: str, redis_url: str) -> None:
    """While PostgreSQL is away everything that needs it is 503 with `Retry-After`; afterwards it goes on by itself."""
    async with gate_to(database_url) as (gate, url):
        settings = Settings(database_url=url, redis_url=redis_url, api_key=KEY)
        async with open_api(settings) as (client, _):
            await enqueue(client)
            await gate.shut()
            job = {"task": "diagnostics.echo", "args": {"value": 1}}
            away = [
                await client.post("/v1/jobs", json=job),
                await client.post("/v1/jobs", json=job, headers={"Idempotency-Key": "k"}),
                await client.post("/v1/jobs/batch", json={"jobs": [job]}),
                await client.get("/v1/jobs"),
                await client.get("/v1/queues"),
                await client.get("/health/ready"),
                await client.get("/v1/jobs", headers={"Authorization": f"Bearer hr_{'0' * 12}_{'0' * 64}"}),
            ]
            alive = await client.get("/health/live")
            system = await client.get("/health/system")
            scrape = await client.get("/metrics")
            await gate.open()
            async with asyncio.timeout(10):
                while (await client.post("/v1/jobs", json=job)).status_code == 503:
                    await asyncio.sleep(0.05)
            jobs = (await client.get("/v1/jobs")).json()["items"]

    assert [answer.status_code for answer in away] == [503] * len(away)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in away)
    assert (alive.status_code, system.status_code, scrape.status_code) == (200, 503, 200)
    assert [part["part"] for part in system.json()["missing"]] == ["postgresql"]
    assert len(jobs) == 2


async def test_gauges_keep_their_values_when_no_connection_is_accepted(database_url: str) -> None:
    """What PostgreSQL says to who connects reaches us as the driver's own error, as while it starts up."""
    metrics = Metrics()
    metrics.outbox.set(7)
    async with open_record(Settings(database_url=f"{database_url}_that_is_not_there")) as record:
        await fill_gauges(metrics, record)

    assert b"headrace_outbox_events 7.0" in metrics.render()


async def test_answer_is_503_in_time_when_postgresql_is_frozen(database_url: str, redis_url: str) -> None:
    """A PostgreSQL that takes connections and answers nothing holds no request longer than the bound."""
    job = {"task": "diagnostics.echo", "args": {"value": 1}}
    event = {"specversion": "1.0", "id": "1", "source": "/t", "type": "trial.thing.happened", "data": {"thing": "a"}}
    async with gate_to(database_url) as (gate, url):
        settings = Settings(database_url=url, redis_url=redis_url, api_key=KEY)
        async with open_api(settings, statement_seconds=1.0) as (client, _):
            await asyncio.gather(*(enqueue(client) for _ in range(4)))
            await asyncio.gather(*(client.get("/v1/jobs") for _ in range(4)))
            gate.freeze()
            async with asyncio.timeout(10):
                answers = await asyncio.gather(
                    *(client.get(path) for path in ("/v1/jobs", "/v1/queues", "/v1/events", "/health/ready")),
                    *(client.post("/v1/jobs", json=job) for _ in range(4)),
                    client.post("/v1/jobs", json=job, headers={"Idempotency-Key": "k"}),
                    client.post("/v1/events", json=event),
                )
                scrape = await client.get("/metrics")

    assert [answer.status_code for answer in answers] == [503] * len(answers)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert all("it is not known whether" in answer.json()["detail"] for answer in answers[4:9])
    assert scrape.status_code == 200


async def test_system_names_what_is_missing_when_a_part_is_not_alive(
    api: tuple[httpx.AsyncClient, Door], database_url: str
) -> None:
    """Only where every role is alive and a relay leads is the answer 200; what is missing is named, and since when."""
    client, door = api
    began = now()

    async def missing() -> list[str]:
        answer = await client.get("/health/system")
        parts = answer.json()["missing"]
        assert answer.status_code == (503 if parts else 200)
        assert all(datetime.fromisoformat(part["since"]) <= now() for part in parts)
        return [part["part"] for part in parts]

    nothing = await missing()
    presences = {role: Presence(database_url, Identity(role, 3.0)) for role in ROLES}
    for presence in presences.values():
        await presence.start()
    unled = await missing()
    async with door.record.engine.begin() as connection:
        await connection.execute(LEAD)
    everything = await missing()
    await presences.pop("worker").stop()
    (gone,) = (await client.get("/health/system")).json()["missing"]
    for presence in presences.values():
        await presence.stop()

    assert nothing == list(ROLES)
    assert unled == ["relay"]
    assert everything == []
    assert gone["part"] == "worker"
    assert datetime.fromisoformat(gone["since"]) >= began


async def test_system_names_redis_when_it_is_away(database_url: str) -> None:
    """Redis is missed by the system, and not by the acceptance of work."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = Settings(database_url=database_url, redis_url=f"redis://127.0.0.1:{port}/0", api_key=KEY)
    async with open_api(settings) as (client, _):
        system = await client.get("/health/system")
        ready = await client.get("/health/ready")
        await enqueue(client)

    assert "redis" in [part["part"] for part in system.json()["missing"]]
    assert ready.status_code == 200


async def test_process_is_not_ready_when_the_schema_does_not_fit(api: tuple[httpx.AsyncClient, Door]) -> None:
    """A database of another schema is named, with the command that mends it."""
    client, door = api
    async with door.record.engine.begin() as connection:
        await connection.execute(text("DELETE FROM alembic_version"))

    answer = await client.get("/health/ready")

    assert answer.status_code == 503
    assert "headrace migrate" in answer.json()["detail"]


async def test_metrics_tell_the_record_when_they_are_scraped(api: tuple[httpx.AsyncClient, Door]) -> None:
    """Gauges come from the record, counters from this process, by route templates."""
    client, _ = api
    job = await enqueue(client)
    await client.get(f"/v1/jobs/{job['id']}")

    lines = (await client.get("/metrics")).text.splitlines()

    assert 'headrace_jobs{queue="default",state="pending"} 1.0' in lines
    assert "headrace_outbox_events 0.0" in lines
    assert 'headrace_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 1.0' in lines


async def test_arguments_are_typed_when_the_api_describes_itself(api: tuple[httpx.AsyncClient, Door]) -> None:
    """OpenAPI lists each task's arguments behind a discriminator, and a problem for every operation."""
    client, _ = api

    document = (await client.get("/openapi.json")).json()

    create = document["paths"]["/v1/jobs"]["post"]
    body = create["requestBody"]["content"]["application/json"]["schema"]
    schemas = document["components"]["schemas"]
    assert body["discriminator"]["propertyName"] == "task"
    assert body["discriminator"]["mapping"]["trial.order"] == "#/components/schemas/TrialOrderJob"
    assert schemas["TrialOrderJob"]["properties"]["args"] == {"$ref": "#/components/schemas/TrialOrderArgs"}
    assert set(schemas["TrialOrderArgs"]["properties"]) == {"order_id", "items"}
    assert schemas["Line"]["properties"]["quantity"] == {"type": "integer"}
    assert "application/problem+json" in create["responses"]["default"]["content"]
    assert "JobPage" in schemas
    assert set(create["responses"]["202"]["headers"]) == {"Trace-Id", "Idempotent-Replay", "Location"}
    assert "Retry-After" in create["responses"]["default"]["headers"]
    assert set(schemas["Progress"]["properties"]) == {"done", "total", "note"}
    assert "application/cloudevents-batch+json" in document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(schemas["CloudEvent"]["required"]) == {"specversion", "id", "source", "type"}
    assert document["security"] == [{"key": []}]


async def test_events_are_typed_when_the_api_describes_itself(api: tuple[httpx.AsyncClient, Door]) -> None:
    """OpenAPI describes one event and a batch, with the data of each declared type."""
    client, _ = api

    document = (await client.get("/openapi.json")).json()

    content = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    schemas = document["components"]["schemas"]
    one = content["application/cloudevents+json"]["schema"]
    assert content["application/cloudevents-batch+json"]["schema"]["items"] == one
    assert one["discriminator"]["mapping"] == {"trial.thing.happened": "#/components/schemas/ThingHappenedEvent"}
    assert schemas["ThingHappenedEvent"]["properties"]["data"] == {"$ref": "#/components/schemas/ThingHappenedData"}
    assert set(schemas["ThingHappenedData"]["properties"]) == {"thing", "count"}


async def test_docs_load_nothing_from_elsewhere_when_they_are_read(api: tuple[httpx.AsyncClient, Door]) -> None:
    """The page is whole by itself: no script, and no address but our own."""
    client, _ = api

    page = (await client.get("/docs")).text

    assert "/v1/jobs/{job_id}/explain" in page
    assert "<script" not in page
    assert "http" not in page.replace("HTTP", "")
