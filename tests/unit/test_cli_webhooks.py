"""`headrace webhooks create` refuses a rate that cannot be kept, before it asks anything."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from headrace.commands.webhooks_changing import create
from headrace.errors import UnavailableError


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a record that is not there."""
    monkeypatch.setenv("HEADRACE_DATABASE_URL", "postgresql://127.0.0.1:1/none")


@pytest.mark.parametrize("rate", ["1/0", "0/1", "-1/60", "1/-1", "1/nan", "1/inf", "9999999999/1", "1", "x/1"])
def test_webhook_is_refused_when_its_rate_cannot_be_kept(rate: str) -> None:
    """A usage error says how a rate is written and within which bounds."""
    ended = CliRunner().invoke(create, ["https://a.example.com", "--type", "trial.*", "--rate", rate])

    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "--rate: give a count and seconds, as 100/60" in ended.stderr


def test_rate_is_taken_when_it_can_be_kept() -> None:
    """What is wrong then is something else: the record is away."""
    ended = CliRunner().invoke(create, ["https://a.example.com", "--type", "*", "--rate", "100/0.5"])

    assert "--rate" not in ended.output
    assert isinstance(ended.exception, UnavailableError)
