"""What is the in-process transport's own; what it shares with every transport is in `tests/conformance`."""

from __future__ import annotations

from headrace.streams.in_process import InProcessTransport
from headrace.streams.transport import FULL, Batch


async def test_lane_takes_no_more_when_it_is_full() -> None:
    """A batch without room is refused whole, says so, and enters when room was made."""
    transport = InProcessTransport(capacity=10)
    writer = transport.writer()
    await writer.append([Batch(0, 0, [b"a"] * 8)])

    refused = await writer.append([Batch(0, 8, [b"b"] * 3), Batch(1, 0, [b"x"])])
    await writer.trim({0: 5})
    taken = await writer.append([Batch(0, 8, [b"b"] * 3)])

    assert refused == {0: FULL, 1: 1}
    assert taken == {0: 11}


async def test_reader_wakes_when_its_own_lane_gets_something() -> None:
    """An append to another lane neither ends the wait nor loses it."""
    transport = InProcessTransport()
    async with transport.group("shop.welcome", "one") as group:
        await group.rewind(0, 0)
        await transport.writer().append([Batch(1, 0, [b"x"])])

        read = await group.read([0], count=10, wait_seconds=0.01)

    assert read == {}
