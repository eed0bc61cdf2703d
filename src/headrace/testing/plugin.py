"""Fixtures for an application's own pytest: `pytest_plugins = ["headrace.testing.plugin"]` in its `conftest.py`.

Owns `headrace_stores`, one for the whole run, and the two fixtures that say where its servers are. A project that has
servers of its own gives its own `headrace_database_url` and `headrace_redis_url`; where nothing is said they are
embedded. Needs nothing but pytest: whichever plugin runs the project's asynchronous tests runs these too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.testing.stores import Stores, open_stores


@pytest.fixture(scope="session")
def headrace_database_url() -> str | None:
    """The PostgreSQL in which the tests' databases are made; None for an embedded one."""
    return None


@pytest.fixture(scope="session")
def headrace_redis_url() -> str | None:
    """The Redis that drained tests use, and empty; None for an embedded one."""
    return None


@pytest.fixture(scope="session")
def headrace_stores(headrace_database_url: str | None, headrace_redis_url: str | None) -> Iterator[Stores]:
    """The servers of the run."""
    with open_stores(database_url=headrace_database_url, redis_url=headrace_redis_url) as stores:
        yield stores
