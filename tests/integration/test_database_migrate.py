"""Migrations: run once however often they are asked for, and refused with the mend where they do not meet."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from headrace.database.migrate import upgrade
from headrace.errors import ConfigurationError
from tests.servers import PostgresServer


@pytest.fixture
async def empty_database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a database without any table."""
    name = f"empty_{secrets.token_hex(4)}"
    yield await postgres_server.create(name)
    await postgres_server.drop(name)


async def test_upgrade_does_nothing_when_the_schema_fits(empty_database_url: str) -> None:
    """Three at once, and one more: the first migrates, the others find it done."""
    await asyncio.gather(*(asyncio.to_thread(upgrade, empty_database_url) for _ in range(3)))

    await asyncio.to_thread(upgrade, empty_database_url)


async def test_upgrade_is_refused_when_the_database_has_migrations_of_others(empty_database_url: str) -> None:
    """A database that an application has tables in is not touched by a Headrace that does not load it."""
    await asyncio.to_thread(upgrade, empty_database_url, ["storefront.migrations"])

    with pytest.raises(ConfigurationError, match="HEADRACE_APPLICATIONS"):
        await asyncio.to_thread(upgrade, empty_database_url)


def test_upgrade_is_refused_when_postgresql_does_not_answer() -> None:
    """One line says which setting to look at."""
    with pytest.raises(ConfigurationError, match="HEADRACE_DATABASE_URL"):
        upgrade("postgresql://nobody@127.0.0.1:1/nothing")
