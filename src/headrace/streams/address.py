"""Where Redis is: one server, a cluster, or a primary that sentinels name.

Owns the meaning of `HEADRACE_REDIS_URL`: `redis://host:port/0`, `redis+cluster://host:port,host:port` and
`redis+sentinel://host:port,host:port/service?db=0`, with `rediss` in place of `redis` where TLS is spoken, a user and a
password before the hosts, and redis-py's own options after a question mark. Sentinels have a user and password of their
own, `sentinel_username` and `sentinel_password`. Never connect from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from redis.asyncio.connection import parse_url

from headrace.errors import ConfigurationError

_DEFAULT_PORTS: Final = {"": 6379, "cluster": 6379, "sentinel": 26379}
_OF_SENTINELS: Final = ("sentinel_username", "sentinel_password")


class Topology(StrEnum):
    """What stands at the address."""

    SERVER = ""
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


Node = tuple[str, int]
"""A host and a port."""


class Address(msgspec.Struct, frozen=True):
    """A `HEADRACE_REDIS_URL` that was read."""

    topology: Topology
    nodes: Sequence[Node]
    """Those that are asked where the primary is; of a single server, itself."""
    service: str
    """The name under which sentinels know the primary."""
    options: Mapping[str, Any]
    """What redis-py is told for each connection to the primary."""
    sentinel_options: Mapping[str, Any]
    """What it is told for each connection to a sentinel."""


def address_of(redis_url: str) -> Address:
    """Read the URL.

    Raises:
        ConfigurationError: it is none of the three forms.

    """
    parts = urlsplit(redis_url)
    scheme, _, kind = parts.scheme.partition("+")
    if kind not in set(Topology) or (kind and scheme not in {"redis", "rediss"}):
        raise _refused(redis_url, "its scheme is none that is known")
    topology = Topology(kind)
    if topology is Topology.SERVER:
        return Address(topology, (), "", _read(redis_url), {})
    credentials, _, hosts = parts.netloc.rpartition("@")
    nodes = [_node(redis_url, host, _DEFAULT_PORTS[kind]) for host in hosts.split(",") if host]
    if not nodes:
        raise _refused(redis_url, "it names no host")
    service = parts.path.strip("/")
    if topology is Topology.SENTINEL and not service:
        raise _refused(redis_url, "it does not name the service, as redis+sentinel://host:26379/mymaster")
    query = dict(parse_qsl(parts.query))
    own = {name.removeprefix("sentinel_"): query.pop(name) for name in _OF_SENTINELS if name in query}
    netloc = f"{credentials}@{hosts.split(',')[0]}" if credentials else hosts.split(",")[0]
    options = _read(urlunsplit((scheme, netloc, "", urlencode(query), "")))
    if topology is Topology.CLUSTER and (service or options.get("db")):
        raise _refused(redis_url, "a cluster has one database and no service")
    shared = {name: value for name, value in options.items() if name not in {"host", "port", "db"}}
    unsigned = {name: value for name, value in shared.items() if name not in {"username", "password"}}
    return Address(topology, nodes, service, options, unsigned | own)


def _node(redis_url: str, host: str, default_port: int) -> Node:
    parts = urlsplit(f"//{host}")
    try:
        port = parts.port
    except ValueError as error:
        raise _refused(redis_url, str(error)) from error
    return parts.hostname or "127.0.0.1", port or default_port


def _read(redis_url: str) -> dict[str, Any]:
    try:
        return dict(parse_url(redis_url))
    except ValueError as error:
        raise _refused(redis_url, str(error)) from error


def _refused(redis_url: str, reason: str) -> ConfigurationError:
    form = "redis://host:port/0, redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/service"
    shown = redis_url.rpartition("@")[2]  # what stands before it is a password
    return ConfigurationError(f"HEADRACE_REDIS_URL {shown}: {reason}; it is {form}")
