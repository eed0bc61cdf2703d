"""The doors: how many requests a second are answered with everything on record, beside a bare handler.

Owns the comparison of `POST /v1/jobs` and `POST /v1/orders/{id}/confirm` with one INSERT and commit. Each server is
one process; the others of Headrace do not run meanwhile. Requests are authenticated, one trace in ten is recorded and
sent to a receiver. The three take turns, and what counts is the median over the turns: another process's burst hits
one of them.
"""

from __future__ import annotations

from contextlib import ExitStack
from http import HTTPStatus

import httpx
import msgspec

from bench import bare
from bench.load import Load, Taken, request, send
from bench.receiver import receiving
from bench.stage import Stage
from headrace.stack.ports import free_port
from headrace.stack.readiness import until

KEY = "bench-bench-bench-bench-bench-bench"
_JOB = b'{"task":"diagnostics.echo","args":{"value":"a few words"}}'
_ORDER = msgspec.json.encode(
    {
        "customer_email": "ada@example.com",
        "currency": "EUR",
        "items": [
            {"sku": "TEA-1", "quantity": 2, "unit_price_cents": 1250},
            {"sku": "CUP-7", "quantity": 1, "unit_price_cents": 900},
        ],
    }
)
_START_SECONDS = 30.0


class _Order(msgspec.Struct, frozen=True):
    id: str


class Round(msgspec.Struct, frozen=True):
    """One turn of each."""

    bare: Taken
    jobs: Taken
    confirm: Taken


class Doors(msgspec.Struct, frozen=True):
    """Every turn, and how many spans arrived meanwhile."""

    rounds: list[Round]
    spans: int


async def measure_doors(stage: Stage, *, rounds: int, requests: int) -> Doors:
    """Measure the three in turns; `requests` is how many the bare handler is sent in one."""
    ports = {"api": free_port(), "bare": free_port()}
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        api = stage.environment(HEADRACE_PORT=str(ports["api"]), HEADRACE_API_KEY=KEY, **receiver.environment)
        stack.enter_context(stage.running("api", "headrace.cli", "api", environment=api))
        options = ("--port", str(ports["bare"]), "--loop", "uvloop", "--http", "httptools", "--no-access-log")
        yardstick = stage.environment(**{bare.VARIABLE: stage.database_url})
        stack.enter_context(stage.running("bare", "uvicorn", "bench.bare:app", *options, environment=yardstick))
        assert await until(lambda: answers(ports["api"], "/health/ready"), _START_SECONDS), "the API did not start"
        assert await until(lambda: answers(ports["bare"], "/"), _START_SECONDS), "the bare handler did not start"
        await _round(stage, ports, requests // 2)  # connections are opened, statements prepared
        measured = [await _round(stage, ports, requests) for _ in range(rounds)]
        return Doors(measured, receiver.spans)


async def _round(stage: Stage, ports: dict[str, int], requests: int) -> Round:
    accepted = HTTPStatus.ACCEPTED
    plain = request("POST", "/bare", body=_JOB)
    job = request("POST", "/v1/jobs", body=_JOB, key=KEY)
    orders = await _orders(stage, ports["api"], requests // 3)
    confirm = [request("POST", f"/v1/orders/{order}/confirm", key=KEY) for order in orders]
    return Round(
        bare=await send(stage, Load(ports["bare"], [plain], accepted, repeat=requests)),
        jobs=await send(stage, Load(ports["api"], [job], accepted, repeat=requests // 2)),
        confirm=await send(stage, Load(ports["api"], confirm, accepted)),
    )


async def _orders(stage: Stage, port: int, count: int) -> list[str]:
    """Create orders and return their ids."""
    create = request("POST", "/v1/orders", body=_ORDER, key=KEY)
    load = Load(port, [create], HTTPStatus.CREATED, repeat=count, keep_bodies=True)
    created = await send(stage, load)
    return [msgspec.json.decode(body, type=_Order).id for body in created.bodies]


async def answers(port: int, path: str) -> bool:
    """Tell whether a server answers."""
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}{path}")).status_code < HTTPStatus.INTERNAL_SERVER_ERROR
        except httpx.HTTPError:
            return False
