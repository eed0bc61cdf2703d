"""`headrace subscriptions preview` refuses what it cannot ask, before it asks anything."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from headrace.commands.subscriptions_preview import preview_


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["Trial.*"], "is no event type or pattern"),
        (["trial.*", "--filter", "{"], "the filter is not JSON"),
        (["trial.*", "--filter", '{"count": 1}'], "filter.count: this takes a list"),
        (["trial.*", "--from", "yesterday"], "give RFC 3339"),
        (["trial.*", "--from", "2026-01-02T00:00:00"], "give RFC 3339"),
        (["trial.*", "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"], "begin before it ends"),
        ([], "Missing argument"),
    ],
)
def test_preview_is_refused_when_it_is_malformed(arguments: list[str], told: str) -> None:
    """A usage error says what is wrong."""
    ended = CliRunner().invoke(preview_, arguments)

    assert ended.exit_code == 2
    assert told in ended.output
