"""The three forms of `HEADRACE_REDIS_URL`, and what is refused."""

from __future__ import annotations

import pytest
from redis.asyncio import SSLConnection
from redis.crc import key_slot

from headrace.belt import PREFIX
from headrace.errors import ConfigurationError
from headrace.jobs.belt import stream_of
from headrace.streams.address import Topology, address_of
from headrace.streams.connection import pool_of
from headrace.streams.names import lane_key
from headrace.streams.primary import TlsPrimaryConnection
from headrace.tasks.claims import PREFIX as CLAIMS


def test_nodes_and_options_are_read_when_it_is_a_cluster() -> None:
    """All hosts are asked, with the user's name, password and options; a port has its default."""
    address = address_of("redis+cluster://ada:s%40crt@one:7000,two,[::1]:7002?client_name=shop")

    assert address.topology is Topology.CLUSTER
    assert address.nodes == [("one", 7000), ("two", 6379), ("::1", 7002)]
    assert (address.options["username"], address.options["password"]) == ("ada", "s@crt")
    assert address.options["client_name"] == "shop"


def test_sentinels_have_their_own_password_when_one_is_given() -> None:
    """What the primary is told is not told to a sentinel, and neither is the database."""
    address = address_of("redis+sentinel://:secret@one,two:5000/belt?db=3&sentinel_password=other")

    assert address.nodes == [("one", 26379), ("two", 5000)]
    assert address.service == "belt"
    assert (address.options["password"], address.options["db"]) == ("secret", 3)
    assert address.sentinel_options["password"] == "other"  # noqa: S105 - made up
    assert "db" not in address.sentinel_options


def test_tls_is_spoken_when_the_scheme_says_so() -> None:
    """To the primary, and to those who know where it is."""
    address = address_of("rediss+sentinel://one/belt?ssl_ca_certs=/ca.pem")

    pool = pool_of("rediss+sentinel://one/belt?ssl_ca_certs=/ca.pem", connections=1)

    assert address.sentinel_options["connection_class"] is SSLConnection
    assert pool.connection_class is TlsPrimaryConnection


@pytest.mark.parametrize(
    "redis_url",
    [
        "http://one:6379",
        "redis+ring://one",
        "unix+cluster://one",
        "redis+cluster://",
        "redis+cluster://one:port",
        "redis+cluster://one/1",
        "redis+cluster://one?db=1",
        "redis+sentinel://:secret@one",
    ],
)
def test_url_is_refused_when_it_is_none_of_the_forms(redis_url: str) -> None:
    """The process stops with the forms that there are, and shows no password."""
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://host:port") as raised:
        address_of(redis_url)

    assert "secret" not in str(raised.value)


def test_all_keys_of_the_belt_lie_in_one_slot() -> None:
    """One command reads many lanes, or many queues; one client finds one primary."""
    keys = [PREFIX, lane_key(0), lane_key(63), stream_of("default"), stream_of("mail{1}"), f"{CLAIMS}digest"]

    assert len({key_slot(key.encode()) for key in keys}) == 1
