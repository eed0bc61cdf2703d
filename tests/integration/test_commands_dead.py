"""`headrace subscriptions dead` and `redrive` as an operator uses them."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.dead_letters import Letters, Lost, Packed
from tests.integration.commands import headrace
from tests.road import Road, running


async def test_groups_and_deliveries_are_shown_when_something_is_dead(letters: Letters, letters_road: Road) -> None:
    """First what went wrong how often, then one by one; the JSON is the API's."""
    events = await letters.die([Packed("ada", 1), Packed("bob", 2)])

    groups = await headrace(letters_road, "subscriptions", "dead", "letters.ship")
    told = await headrace(letters_road, "subscriptions", "dead", "letters.ship", "--json")
    fingerprint = told.json["items"][0]["fingerprint"]
    found = await headrace(letters_road, "subscriptions", "dead", "letters.ship", fingerprint)
    page = await headrace(letters_road, "subscriptions", "dead", "letters.ship", fingerprint, "--limit", "1")

    line = groups.out.splitlines()[1].split()
    assert line[:3] == [fingerprint, "r1", "2"]
    assert "OutOfStockError: parcel 2 is out of stock" in groups.out
    assert [str(events[1]) in found.out.splitlines()[1], str(events[0]) in found.out.splitlines()[2]] == [True, True]
    assert page.err.startswith("more: --cursor ")


async def test_deliveries_are_tried_again_when_the_operator_says_yes(letters: Letters, letters_road: Road) -> None:
    """More than one is asked about; a dry run counts; the job is named."""
    await letters.die([Packed("ada", 1), Packed("bob", 2), Lost("eve", 3)])
    await letters.mend()
    again = ("subscriptions", "redrive", "letters.ship", "--type", "*.packed")

    counted = await headrace(letters_road, *again, "--dry-run")
    asked = await headrace(letters_road, *again)
    async with running(letters_road):
        begun = await headrace(letters_road, *again, "--canary", "--yes", "--json")
        job = await letters_road.finished(UUID(begun.json["job_id"]))
        await letters_road.all_finished()

    assert counted.out == "2 dead deliveries\n"
    assert (asked.code, "Say --yes" in asked.err) == (2, True)
    assert (job.state, begun.json["count"]) == ("succeeded", 2)
    assert await letters.shipped() == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("dead", "nobody"), 1, "there is no subscription nobody"),
        (("dead", "letters.ship", "--release", "r1"), 2, "name that too"),
        (("redrive", "nobody"), 1, "there is no subscription nobody"),
        (("redrive", "letters.ship", "--type", "a b"), 2, "no event type or pattern"),
        (("redrive", "letters.ship", "--event", "x"), 2, "not a valid UUID"),
        (("redrive", "letters.ship", "--rate", "0"), 2, "--rate"),
    ],
)
async def test_refused_in_one_line_when_it_makes_no_sense(
    letters_road: Road, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """The exit code says whether the call or the record is wrong."""
    ended = await headrace(letters_road, "subscriptions", *arguments)

    assert ended.code == code, ended
    assert said in ended.err
    assert "Traceback" not in ended.err
