"""`headrace events replay` refuses what it cannot ask, before it asks anything."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from headrace.commands.subscriptions_replaying import replay

_BOUNDS = "give a position from 0 to 2^63-1"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a record that is not there."""
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://127.0.0.1:1/none")


@pytest.mark.parametrize(
    ("position", "told"),
    [
        ("-1", _BOUNDS),
        ("99999999999999999999999", _BOUNDS),
        ("0=17,2=-1", _BOUNDS),
        ("0=9223372036854775808", _BOUNDS),
        ("0=1,", _BOUNDS),
        ("x", _BOUNDS),
        ("0=1,0=2", "names a lane twice"),
        ("0=1, 0=1", "names a lane twice"),
    ],
)
def test_replay_is_refused_when_its_position_cannot_be_one(position: str, told: str) -> None:
    """The bounds are those of the API; a usage error says them."""
    ended = CliRunner().invoke(replay, ["trial.watcher", "--from-position", position])

    assert (ended.exit_code, ended.stdout) == (2, "")
    assert told in ended.stderr
