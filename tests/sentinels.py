"""A primary with two replicas and three sentinels on loopback.

Owns its making. The sentinels themselves stay alive: which of them is asked is up to whoever connects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import redis

from headrace.belt import PREFIX
from tests.topologies import DEATH_MILLISECONDS, Server, Topology, wait_for

_OPTIONS: Final = {"appendonly": "yes", "save": '""', "repl-diskless-sync-delay": "0"}


class Watched(Topology):
    """Servers that sentinels watch."""

    replica_count = 2

    def __init__(self, url: str, servers: Sequence[Server], sentinels: Sequence[Server]) -> None:
        super().__init__(url, servers)
        self._sentinels = sentinels

    def primary(self, key: str = PREFIX) -> Server:
        """Return the one that a sentinel names, once it says so itself."""
        del key
        port = int(self._sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "belt")[1])
        named = next(one for one in self.servers if one.port == port)
        if named.ask("ROLE")[0] != "master":
            message = "the one that is named is no primary yet"
            raise redis.exceptions.ConnectionError(message)
        return named

    def hand_over(self) -> None:
        """Have a sentinel promote a replica."""
        before = self.primary()
        self._sentinels[0].ask("SENTINEL", "FAILOVER", "belt")
        wait_for(lambda: self.primary() is not before)

    def rejoin(self, server: Server) -> None:
        """Tell a server whom to follow: the sentinels would do so after ten seconds."""
        server.ask("REPLICAOF", "127.0.0.1", self.primary().port)


@contextmanager
def running_sentinels(directory: Path) -> Iterator[Watched]:
    """Run them all."""
    with ExitStack() as stack:
        primary = Server(directory, _OPTIONS)
        follow = {"replicaof": f"127.0.0.1 {primary.port}"}
        servers = [primary, *(Server(directory, _OPTIONS | follow) for _ in range(2))]
        for server in servers:
            stack.callback(server.kill)
            server.start()
        watched = {
            "sentinel monitor": f"belt 127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds": f"belt {DEATH_MILLISECONDS}",
            "sentinel failover-timeout": "belt 3000",
        }
        sentinels = [Server(directory, watched, sentinel=True) for _ in range(3)]
        for sentinel in sentinels:
            stack.callback(sentinel.kill)
            sentinel.start()
        wait_for(lambda: all(map(_knows, sentinels)))
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in sentinels) + "/belt?db=0"
        yield Watched(url, servers, sentinels)


def _knows(sentinel: Server) -> bool:
    seen = sentinel.ask("SENTINEL", "MASTER", "belt")
    facts = seen if isinstance(seen, dict) else dict(zip(seen[::2], seen[1::2], strict=True))
    return int(facts["num-slaves"]) == 2 and int(facts["num-other-sentinels"]) == 2
