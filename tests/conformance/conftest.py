"""The transports under test, each on servers of its own kind; a topology is started once for all tests of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from headrace.streams.transport import LaneWriter
from tests.cluster import Cluster, running_cluster
from tests.conformance.carriers import Carrier, InProcessCarrier, redis_carrier
from tests.sentinels import running_sentinels
from tests.topologies import Topology, server_binary

needs_server = pytest.mark.skipif(server_binary() is None, reason="no Redis or Valkey server binary on this machine")

TRANSPORTS = [
    "in_process",
    "redis",
    pytest.param("cluster", marks=needs_server),
    pytest.param("sentinel", marks=needs_server),
]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Redis Cluster of six servers."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as opened:
        yield opened


@pytest.fixture(scope="session")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """A primary, two replicas and three sentinels."""
    with running_sentinels(tmp_path_factory.mktemp("sentinel")) as opened:
        yield opened


@pytest.fixture(params=TRANSPORTS)
def redis_at(request: pytest.FixtureRequest) -> str | None:
    """Where the Redis of a transport is, empty; None where it has none."""
    if request.param == "in_process":
        return None
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    topology: Topology = request.getfixturevalue(request.param)
    topology.mend()
    topology.empty()
    return topology.url


@pytest.fixture
async def carrier(redis_at: str | None) -> AsyncIterator[Carrier]:
    """A transport that holds nothing."""
    if redis_at is None:
        yield InProcessCarrier()
        return
    async with redis_carrier(redis_at) as opened:
        yield opened


@pytest.fixture
def writer(carrier: Carrier) -> LaneWriter:
    """The relay's side."""
    return carrier.transport.writer()
