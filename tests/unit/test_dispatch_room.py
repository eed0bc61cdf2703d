"""How much room the workers of a queue have."""

from __future__ import annotations

import pytest

from headrace.relay.room import Room, Serving


def room_of(workers: list[Serving], *, paused: set[str] | None = None, rate: float = 0.0) -> Room:
    """Return a room that has seen these workers, and queue `a` being worked off at a rate."""
    room = Room()
    room._workers = workers
    room._paused = paused or set()
    room._rates = {"a": rate}
    return room


ALL = Serving(None, ["t"], 10)
ONLY_A = Serving(["a"], ["t"], 3)
ONLY_B = Serving(["b"], ["t"], 50)


@pytest.mark.parametrize(
    ("workers", "in_flight", "room"),
    [
        ([], 0, 0),
        ([ONLY_B], 0, 0),
        ([ONLY_A], 0, 3),
        ([ALL, ONLY_A, ONLY_B], 0, 13),
        ([ALL, ONLY_A], 4, 9),
        ([ONLY_A], 3, 0),
    ],
)
def test_room_is_what_the_serving_workers_have_free(workers: list[Serving], in_flight: int, room: int) -> None:
    """The slots of those that serve the queue, less what is under way."""
    assert room_of(workers)._room_of("a", in_flight) == room


def test_room_grows_with_the_rate_when_jobs_are_worked_off_fast() -> None:
    """Fifty milliseconds of work lie ready beyond the slots, so that nobody waits for the relay."""
    assert room_of([ALL], rate=2000.0)._room_of("a", 0) == 110


def test_room_is_none_when_the_queue_is_paused() -> None:
    """However fast it was."""
    assert room_of([ALL], paused={"a"}, rate=2000.0)._room_of("a", 0) == 0


def test_room_is_never_negative_when_a_worker_has_died() -> None:
    """What is under way may be more than the slots that are left."""
    assert room_of([ONLY_A])._room_of("a", 100) <= 0
