"""`headrace subscriptions preview` as an operator uses it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from headrace.clock import now
from headrace.transaction import transaction
from tests.integration.api_road import ThingHappened
from tests.integration.commands import Ended, headrace
from tests.road import Road

LARGE = '{"count": [{"numeric": [">", 1]}]}'


async def preview(road: Road, *arguments: str) -> Ended:
    """Run the command with an application that declares an event."""
    given = ("subscriptions", "preview", *arguments)
    return await headrace(road, *given, HEADRACE_APPLICATIONS="tests.integration.api_road:TRIAL")


async def test_preview_is_printed_by_type_with_examples(road: Road) -> None:
    """For a person, and as the API has it."""
    async with transaction(road.record) as tx:
        ids = [await tx.publish(ThingHappened("lamp", count)) for count in (1, 2, 3)]
    an_hour_ago = (now() - timedelta(hours=1)).isoformat()

    printed = await preview(road, "trial.*", "--filter", LARGE, "--from", an_hour_ago)
    told = await preview(road, "trial.*", "--filter", LARGE, "--from", an_hour_ago, "--json")

    assert (printed.code, printed.err) == (0, "")
    assert "trial.thing.happened" in printed.out
    assert "2 of all 3 events" in printed.out
    assert str(ids[2]) in printed.out
    assert (told.json["matched"], told.json["examples"]) == (2, [str(ids[2]), str(ids[1])])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("Trial.*",), "is no event type or pattern"),
        (("trial.*", "--filter", "{"), "the filter is not JSON"),
        (("trial.*", "--filter", '{"count": 1}'), "filter.count: this takes a list"),
        (("trial.*", "--from", "yesterday"), "give RFC 3339"),
    ],
)
async def test_preview_is_refused_when_it_is_malformed(road: Road, arguments: tuple[str, ...], told: str) -> None:
    """A usage error says what is wrong."""
    ended = await preview(road, *arguments)

    assert ended.code == 2
    assert told in ended.err
