"""How much room the workers of a queue have, and which of the queues that share them gets it."""

from __future__ import annotations

from uuid import UUID

import pytest

from headrace.relay.demand import Demand
from headrace.relay.room import Room, Serving
from headrace.relay.sharing import Served, Wish, share

ALL = Serving(UUID(int=1), None, ["t"], 10)
ONLY_A = Serving(UUID(int=2), ["a"], ["t"], 3)
ONLY_B = Serving(UUID(int=3), ["b"], ["t"], 50)
A, B = frozenset({"a"}), frozenset({"b"})


def pools_of(
    workers: list[Serving],
    *,
    queued: dict[str, int] | None = None,
    running: dict[UUID, int] | None = None,
    rate: float = 0.0,
) -> dict[Served, int]:
    """Return the free places of workers, while queue `a` is being worked off at a rate."""
    room = Room()
    room._workers = workers
    room._rates = {"a": rate}
    return room.pools(Demand([], set(), [], {}, queued or {}, running or {}))


@pytest.mark.parametrize(
    ("workers", "queued", "running", "pools"),
    [
        ([], {}, {}, {}),
        ([ALL, ONLY_A, ONLY_B], {}, {}, {None: 10, A: 3, B: 50}),
        ([ALL, ONLY_A], {"a": 4}, {}, {None: 9, A: 0}),
        ([ALL, ONLY_A], {"a": 20}, {}, {None: 0, A: 0}),
        ([ALL, ONLY_A], {"other": 4}, {}, {None: 6, A: 3}),
        ([ALL, ONLY_A], {"a": 1}, {ALL.id: 10}, {None: 0, A: 2}),
        ([ONLY_A], {"unserved": 100}, {UUID(int=9): 100}, {A: 3}),
        ([Serving(UUID(int=4), ["a"], ["t"], 0), ONLY_A], {}, {UUID(int=4): 5}, {A: 3}),
    ],
)
def test_places_are_what_the_workers_have_free(
    workers: list[Serving], queued: dict[str, int], running: dict[UUID, int], pools: dict[Served, int]
) -> None:
    """Their slots, less what runs in each and what waits on the belts; a worker that stops takes nobody's place."""
    assert pools_of(workers, queued=queued, running=running) == pools


def test_places_grow_with_the_rate_when_jobs_are_worked_off_fast() -> None:
    """Fifty milliseconds of work lie ready beyond the slots, so that nobody waits for the relay."""
    assert pools_of([ALL], rate=2000.0) == {None: 110}


def test_places_are_none_when_the_belt_is_more_than_half_full() -> None:
    """A release of many costs little more than a release of one."""
    assert pools_of([ALL], rate=2000.0, running={ALL.id: 10}, queued={"a": 51}) == {None: 0}
    assert pools_of([ALL], rate=2000.0, running={ALL.id: 10}, queued={"a": 50}) == {None: 50}


def wish(queue: str, *, in_flight: int = 0, most: int = 500, served: int = 0, **waiting: int) -> Wish:
    """Return a wish; `p5=3` says that three jobs of priority 5 wait."""
    return Wish(queue, in_flight, most, {int(level[1:]): jobs for level, jobs in waiting.items()}, served)


@pytest.mark.parametrize(
    ("wishes", "given"),
    [
        ([wish("a", p5=100)], {"a": 10}),
        ([wish("a", p5=3)], {"a": 3}),
        ([wish("a", p5=100), wish("b", p5=100)], {"a": 5, "b": 5}),
        ([wish("a", p5=100), wish("b", p5=2)], {"a": 8, "b": 2}),
        ([wish("a", p5=100, in_flight=30), wish("b", p5=100, in_flight=26)], {"a": 3, "b": 7}),
        ([wish("a", p1=100, in_flight=5), wish("b", p9=100, in_flight=5)], {"a": 0, "b": 10}),
        ([wish("a", p1=100), wish("b", p9=100, in_flight=5)], {"a": 1, "b": 9}),
        ([wish("a", p1=100, in_flight=5), wish("b", p9=4, p1=100, in_flight=5)], {"a": 5, "b": 5}),
        ([wish("a", p5=100, most=2), wish("b", p5=100, in_flight=50)], {"a": 2, "b": 8}),
    ],
)
def test_room_is_shared_by_priority_and_then_evenly_when_queues_share_workers(
    wishes: list[Wish], given: dict[str, int]
) -> None:
    """Who has nothing under way gets one; then priority decides, and among equals who has the least under way."""
    assert share({None: 10}, wishes) == given


def test_room_goes_to_who_waits_for_longest_when_there_is_less_than_one_for_each() -> None:
    """A hundred idle queues and one place: each gets it once in a hundred times."""
    queues = [wish(f"q{n}", p5=1, served=100 - n) for n in range(100)]

    given = share({None: 1}, queues)

    assert [queue for queue, jobs in given.items() if jobs] == ["q99"]


def test_room_is_used_up_when_workers_overlap() -> None:
    """Workers of one queue are filled before those that others need."""
    given = share({None: 2, A: 2}, [wish("a", p5=9), wish("b", p5=2, in_flight=1)])

    assert given == {"a": 3, "b": 1}
