"""What every transport keeps: the contract of `headrace.streams.transport`, sentence by sentence."""

from __future__ import annotations

import asyncio
import time

import pytest

from headrace.streams.connection import AWAY
from headrace.streams.transport import WRONG_TYPE, Batch, GroupLostError, GroupTakenError, LaneWriter
from tests.conformance.carriers import Carrier, Harm, ends, read_all

NAME = "shop.welcome"
SHORT = 0.05


def numbered(count: int, *, after: int = 0, lane: int = 0) -> Batch:
    """Return a batch whose payloads say their positions."""
    return Batch(lane, after, [b"%d" % position for position in range(after + 1, after + count + 1)])


async def test_entries_come_in_order_when_they_were_appended_in_portions(carrier: Carrier, writer: LaneWriter) -> None:
    """1, 7: dense positions, each lane in its order, and the bytes that were appended."""
    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        await group.rewind(1, 0)
        for after in range(0, 30, 3):
            await writer.append([numbered(3, after=after), numbered(3, after=after, lane=1)])

        first = await group.read([0, 1], count=7)
        rest = await read_all(group, [0, 1], count=7)

    assert [(entry.position, entry.payload) for entry in first[0]] == [(n, b"%d" % n) for n in range(1, 8)]
    assert [entry.position for entry in first[1]] + rest[1] == list(range(1, 31))
    assert rest[0] == list(range(8, 31))


async def test_batch_is_refused_when_its_position_is_wrong(carrier: Carrier, writer: LaneWriter) -> None:
    """2: neither twice nor past a hole; the lane says where it ends, and another lane of the call goes on."""
    await writer.append([numbered(5)])

    again = await writer.append([numbered(5), numbered(2, lane=1)])
    beyond = await writer.append([numbered(2, after=9)])

    assert again == {0: 5, 1: 2}
    assert beyond == {0: 5}
    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        assert await read_all(group, [0]) == {0: [1, 2, 3, 4, 5]}


async def test_writers_do_no_harm_when_two_append_at_once(carrier: Carrier) -> None:
    """2, 10: a relay that woke up late writes only what belongs there anyway."""
    writers = [carrier.transport.writer() for _ in range(2)]

    async def write(writer: LaneWriter) -> None:
        end = 0
        while end < 200:
            end = (await writer.append([numbered(10, after=end)]))[0]

    await asyncio.gather(*map(write, writers))

    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        assert await read_all(group, [0]) == {0: list(range(1, 201))}


async def test_end_is_told_when_nothing_is_appended(writer: LaneWriter) -> None:
    """2, 3: a batch of nothing asks, and a missing lane ends at 0."""
    await writer.append([numbered(4)])

    found = await ends(writer, [0, 1])

    assert found == {0: 4, 1: 0}


async def test_lane_is_made_anew_when_something_foreign_stands_there(carrier: Carrier, writer: LaneWriter) -> None:
    """3, 4: it is neither overwritten nor taken for a lane, until it is rebased."""
    await writer.append([numbered(3)])
    await carrier.put_foreign(0)

    refused = await writer.append([numbered(1, after=3)])
    await writer.rebase(0, 3)

    assert refused == {0: WRONG_TYPE}
    assert await writer.append([numbered(1, after=3)]) == {0: 4}


async def test_lane_ends_where_it_is_told_to_when_it_is_rebased(writer: LaneWriter) -> None:
    """4: whatever it held is gone, and the next batch follows that position."""
    await writer.append([numbered(50)])

    await writer.rebase(0, 41)

    assert await writer.append([numbered(1, after=50)]) == {0: 41}
    assert await writer.append([numbered(1, after=41)]) == {0: 42}


async def test_unacknowledged_stays_when_a_lane_is_trimmed(carrier: Carrier, writer: LaneWriter) -> None:
    """5: never more than was asked for, and the lane still ends where it did."""
    await writer.append([numbered(900)])

    removed = await writer.trim({0: 700, 1: 5})

    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 700)
        assert await read_all(group, [0]) == {0: list(range(701, 901))}
    assert 0 < removed <= 700
    assert await ends(writer, [0]) == {0: 900}


async def test_gap_is_seen_when_entries_were_trimmed(carrier: Carrier, writer: LaneWriter) -> None:
    """7: the reader goes on behind what is gone, and its positions say so."""
    await writer.append([numbered(900)])
    await writer.trim({0: 900})
    await writer.append([numbered(1, after=900)])

    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        read = await read_all(group, [0])

    assert read[0][0] > 1
    assert read[0][-1] == 901


async def test_old_entries_are_seen_when_a_group_is_new(carrier: Carrier, writer: LaneWriter) -> None:
    """6: a group begins where the record says, not where the lane happens to end."""
    await writer.append([numbered(10)])

    async with carrier.transport.group(NAME, "one") as first, carrier.transport.group("shop.audit", "one") as second:
        await first.rewind(0, 0)
        await second.rewind(0, 7)

        assert await read_all(first, [0]) == {0: list(range(1, 11))}
        assert await read_all(second, [0]) == {0: [8, 9, 10]}


async def test_group_waits_when_it_comes_before_its_lane(carrier: Carrier, writer: LaneWriter) -> None:
    """4, 6: a subscriber that starts before the relay is given what the relay brings."""
    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 41)
        await writer.rebase(0, 41)
        await writer.append([numbered(2, after=41)])

        assert await read_all(group, [0]) == {0: [42, 43]}


async def test_entries_come_again_when_their_reader_died(carrier: Carrier, writer: LaneWriter) -> None:
    """6: what a dead reader was given and had not on record comes to the next one, whoever it is."""
    await writer.append([numbered(10)])
    async with carrier.transport.group(NAME, "dead") as dead:
        await dead.rewind(0, 0)
        await dead.read([0], count=10)
        await dead.acknowledge({0: [1, 2, 3, 4]})

    async with carrier.transport.group(NAME, "next") as group:
        await group.rewind(0, 4)

        assert await read_all(group, [0]) == {0: [5, 6, 7, 8, 9, 10]}


async def test_entries_come_again_when_nobody_acknowledged_them(carrier: Carrier, writer: LaneWriter) -> None:
    """6, 9: the same reader, rewound, is given them again; without a rewind it is not."""
    await writer.append([numbered(5)])
    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        first = await read_all(group, [0])
        meanwhile = await group.read([0], count=10, wait_seconds=SHORT)

        await group.rewind(0, 2)

        assert (first, meanwhile) == ({0: [1, 2, 3, 4, 5]}, {})
        assert await read_all(group, [0]) == {0: [3, 4, 5]}


async def test_groups_and_lanes_are_apart_when_many_read_at_once(carrier: Carrier, writer: LaneWriter) -> None:
    """6, 7: two readers of one group share the lanes, another group is given everything."""
    await writer.append([numbered(100, lane=lane) for lane in range(4)])

    async with (
        carrier.transport.group(NAME, "one") as one,
        carrier.transport.group(NAME, "two") as two,
        carrier.transport.group("shop.audit", "one") as audit,
    ):
        for lane in range(4):
            await (one if lane < 2 else two).rewind(lane, 0)
            await audit.rewind(lane, 0)
        read = await asyncio.gather(
            read_all(one, [0, 1], count=7), read_all(two, [2, 3], count=7), read_all(audit, [0, 1, 2, 3], count=7)
        )

    everything = {lane: list(range(1, 101)) for lane in range(4)}
    assert read[0] | read[1] == everything
    assert read[2] == everything


@pytest.mark.parametrize("harm", ["lane", "group", "foreign"])
async def test_reader_goes_on_when_what_it_read_is_lost(carrier: Carrier, writer: LaneWriter, harm: str) -> None:
    """8: the read that meets it says so; mended as relay and subscriber do, nothing is missing."""
    harms: dict[str, Harm] = {
        "lane": lambda one: one.lose_lane(0),
        "group": lambda one: one.lose_group(0, NAME),
        "foreign": lambda one: one.put_foreign(0),
    }
    await writer.append([numbered(10)])
    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        await group.read([0], count=4)

        await harms[harm](carrier)
        with pytest.raises(GroupLostError):
            await group.read([0], count=4, wait_seconds=SHORT)
        if harm != "group":
            await writer.rebase(0, 2)
            await writer.append([numbered(8, after=2)])
        await group.rewind(0, 4)

        assert await read_all(group, [0]) == {0: [5, 6, 7, 8, 9, 10]}


async def test_reader_learns_of_it_when_a_stranger_was_given_its_entries(carrier: Carrier, writer: LaneWriter) -> None:
    """8: where nothing comes, because somebody else took it, the wait ends with that."""
    await writer.append([numbered(10)])
    async with carrier.transport.group(NAME, "one") as group, carrier.transport.group(NAME, "stranger") as stranger:
        await group.rewind(0, 0)
        await stranger.read([0], count=10)

        with pytest.raises(GroupTakenError):
            await group.read([0], count=10, wait_seconds=SHORT)
        await group.rewind(0, 0)

        assert await read_all(group, [0]) == {0: list(range(1, 11))}


async def test_read_ends_when_something_comes(carrier: Carrier, writer: LaneWriter) -> None:
    """7: a waiting reader is woken by the append, not by the end of its wait."""
    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        began_at = time.monotonic()
        reading = asyncio.create_task(group.read([0], count=10, wait_seconds=5))
        await asyncio.sleep(0)

        await writer.append([numbered(1)])

        assert [entry.position for entry in (await reading)[0]] == [1]
        assert time.monotonic() - began_at < 4


async def test_lost_lane_ends_a_wait_when_it_is_lost_meanwhile(carrier: Carrier, writer: LaneWriter) -> None:
    """8: nobody waits on something that is not there any more."""
    await writer.append([numbered(1)])
    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 1)
        reading = asyncio.create_task(group.read([0], count=10, wait_seconds=0.5))
        await asyncio.sleep(SHORT)

        await carrier.lose_lane(0)

        with pytest.raises(GroupLostError):
            await reading
            await group.read([0], count=10, wait_seconds=SHORT)


@pytest.mark.parametrize("payload", [b"", b"\x00\xff\xc1 no event", b"*1\r\n$4\r\nQUIT\r\n"])
async def test_bytes_come_as_they_are_when_they_are_no_event(
    carrier: Carrier, writer: LaneWriter, payload: bytes
) -> None:
    """7: a transport looks at no payload; what is poison is for others to say."""
    await writer.append([Batch(0, 0, [payload, b"next"])])

    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        read = await group.read([0], count=10)

    assert [entry.payload for entry in read[0]] == [payload, b"next"]


async def test_large_payloads_come_whole_when_there_are_many(carrier: Carrier, writer: LaneWriter) -> None:
    """7: events of 256 KiB and more are entries like others."""
    payloads = [bytes([number]) * 400_000 for number in range(12)]
    await writer.append([Batch(0, 0, payloads)])

    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        read = await group.read([0], count=100)

    assert [entry.payload for entry in read[0]] == payloads


async def test_others_go_on_when_readers_are_closed_at_once(carrier: Carrier, writer: LaneWriter) -> None:
    """6: many readers that end together take nothing with them."""

    async def come_and_go(number: int) -> None:
        async with carrier.transport.group(f"shop.{number}", "one") as group:
            await group.rewind(0, 0)
            await group.read([0], count=10, wait_seconds=SHORT)

    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        await writer.append([numbered(20)])

        await asyncio.gather(*map(come_and_go, range(10)))

        assert await read_all(group, [0]) == {0: list(range(1, 21))}


async def test_everything_goes_on_when_the_connections_broke(carrier: Carrier, writer: LaneWriter) -> None:
    """10: broken is away for a moment; the same objects find their way back, and nothing is twice or missing."""
    await writer.append([numbered(10)])
    async with carrier.transport.group(NAME, "one") as group:
        await group.rewind(0, 0)
        await group.rewind(1, 0)
        await group.read([0], count=4)
        reading = asyncio.create_task(group.read([1], count=1, wait_seconds=1))
        await asyncio.sleep(SHORT)

        await carrier.break_connections()
        with pytest.raises(AWAY):
            await reading
        end = await _persistently(writer, numbered(5, after=10))
        await group.rewind(0, 4)

        assert end == 15
        assert await read_all(group, [0]) == {0: list(range(5, 16))}


async def _persistently(writer: LaneWriter, batch: Batch) -> int:
    """Append as the relay does: a fault is another try, and the answer decides."""
    for _ in range(10):
        try:
            return (await writer.append([batch]))[batch.lane]
        except AWAY:
            continue
    pytest.fail("it stayed away")
