"""The yardstick: a bare Litestar handler that does one INSERT and commit through asyncpg.

Owns the application that the doors of Headrace are compared with: no authentication, no trace, no job. Run by uvicorn
with the same event loop and parser as Headrace's API.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import msgspec
from litestar import Litestar, post
from litestar.datastructures import State

from headrace.clock import new_id

VARIABLE = "BENCH_DATABASE_URL"
TABLE = "CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, task text NOT NULL, value text NOT NULL)"
_INSERT = "INSERT INTO bare (id, task, value) VALUES ($1, $2, $3)"
_CONNECTIONS = 10


class Asked(msgspec.Struct, frozen=True):
    """The body: what a job's is, more or less."""

    task: str
    args: dict[str, str]


class Answered(msgspec.Struct, frozen=True):
    """The answer."""

    id: UUID


@post("/bare", status_code=202)
async def insert(data: Asked, state: State) -> Answered:
    """Insert one row and commit."""
    identity = new_id()
    await state.pool.execute(_INSERT, identity, data.task, data.args["value"])
    return Answered(identity)


@asynccontextmanager
async def _pool(app: Litestar) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ[VARIABLE], min_size=_CONNECTIONS, max_size=_CONNECTIONS) as pool:
        await pool.execute(TABLE)
        app.state.pool = pool
        yield


app = Litestar([insert], lifespan=[_pool], openapi_config=None, logging_config=None)
