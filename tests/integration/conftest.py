"""What the integration tests may ask for besides the servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from headrace.database.record import Record, open_record
from headrace.settings import Settings
from tests.dead_letters import Letters, open_letters_road
from tests.road import Road, open_road


@pytest.fixture
async def road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """The stores and the application `trial`, bound; no relay and no worker runs yet."""
    async with open_road(database_url, redis_url) as opened:
        yield opened


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Record]:
    """The record of a fresh database, and nothing else."""
    async with open_record(Settings(database_url=database_url)) as opened:
        yield opened


@pytest.fixture
async def letters_road(database_url: str, redis_url: str) -> AsyncIterator[Road]:
    """The stores, and the application whose deliveries die; no relay and no worker runs yet."""
    async with open_letters_road(database_url, redis_url) as opened:
        yield opened


@pytest.fixture
def letters(letters_road: Road) -> Letters:
    """What is shipped and what is dead, on that road."""
    return Letters(letters_road.record, letters_road.driver)
