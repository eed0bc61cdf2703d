"""Who gets the room of workers that several queues share.

Owns the rule. First, a waiting queue that has nothing under way gets one place, so that none starves. What is left
goes by priority over all queues; among queues whose next jobs are equal in it, the one with the least under way goes
first. A worker that serves fewer queues is filled before one that serves more, because others can take less of it.
Nothing here reads the record or the time: the same question has the same answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

import msgspec

Served = frozenset[str] | None
"""The queues that a pool of workers serves; None for all."""


class Wish(msgspec.Struct, frozen=True):
    """What a queue with waiting jobs could use."""

    queue: str
    in_flight: int
    most: int
    """How many may be released at most, because of the queue's own limits."""
    waiting: Mapping[int, int]
    """Jobs by priority, the front of the queue."""
    served: int = 0
    """When the queue was last given room, as a count: who waits for longest goes first among equals."""


def serving(pools: Iterable[Served], queue: str) -> list[Served]:
    """Return those pools that serve a queue, those that serve the fewest queues first."""
    able = [names for names in pools if names is None or queue in names]
    return sorted(able, key=lambda names: (names is None, len(names or ()), sorted(names or ())))


def share(pools: Mapping[Served, int], wishes: Sequence[Wish]) -> dict[str, int]:
    """Return how many jobs of each queue may be released into the free places of the pools."""
    dealer = _Dealer(pools, wishes)
    for wish in sorted(wishes, key=lambda one: (-max(one.waiting, default=-1), one.served)):
        if not wish.in_flight:
            dealer.give(wish)
    for priority in sorted({level for wish in wishes for level in wish.waiting}, reverse=True):
        line = [
            (wish.in_flight + dealer.given[wish.queue], wish.served, wish.queue, wish)
            for wish in wishes
            if priority in wish.waiting
        ]
        heapq.heapify(line)
        while line:
            under_way, served, queue, wish = heapq.heappop(line)
            if dealer.left_of(wish, priority) and dealer.give(wish):
                heapq.heappush(line, (under_way + 1, served, queue, wish))
    return dealer.given


class _Dealer:
    """What is free in each pool and wanted by each queue, while it is dealt."""

    def __init__(self, pools: Mapping[Served, int], wishes: Sequence[Wish]) -> None:
        self.given = {wish.queue: 0 for wish in wishes}
        self._free = dict(pools)
        self._able = {wish.queue: serving(pools, wish.queue) for wish in wishes}

    def left_of(self, wish: Wish, priority: int) -> bool:
        """Tell whether jobs of at least this priority are left."""
        return self.given[wish.queue] < sum(count for level, count in wish.waiting.items() if level >= priority)

    def give(self, wish: Wish) -> bool:
        """Give one place; tell whether there was one."""
        if self.given[wish.queue] >= min(wish.most, sum(wish.waiting.values())):
            return False
        for names in self._able[wish.queue]:
            if self._free[names] > 0:
                self._free[names] -= 1
                self.given[wish.queue] += 1
                return True
        return False
