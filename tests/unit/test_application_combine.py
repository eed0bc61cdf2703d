"""Joining applications."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from headrace import diagnostics
from headrace.application import Application, combine, load
from headrace.errors import ConfigurationError
from headrace.events.registry import event
from headrace.jobs.schedule import Schedule
from headrace.providers import Providers, open_providers
from headrace.settings import Settings
from headrace.subscribers.contract import subscriber
from headrace.subscribers.delivery import Delivery
from tests import trial


@event("trial.thing.happened", subject="thing_id")
class ThingHappened(msgspec.Struct, frozen=True):
    """Something happened."""

    thing_id: str


@subscriber("trial.listener", ThingHappened)
async def listener(delivery: Delivery, happened: ThingHappened) -> None:
    """Do nothing about it."""
    del delivery, happened


class Clock:
    """Something that an application provides."""


@asynccontextmanager
async def open_clock(settings: Settings) -> AsyncIterator[Clock]:
    """Make it."""
    del settings
    yield Clock()


def test_combine_joins_what_the_applications_declare() -> None:
    """All tasks of all applications, by name."""
    registry = combine([diagnostics.application, trial.application])

    assert {"diagnostics.echo", "trial.add"} <= registry.tasks.keys()


def test_combine_is_refused_when_a_name_is_declared_twice() -> None:
    """Two tasks of one name would run by chance."""
    other = Application(name="other", tasks=(trial.add,))

    with pytest.raises(ConfigurationError, match=r"trial\.add is declared twice.*other"):
        combine([trial.application, other])


def test_combine_is_refused_when_two_applications_provide_one_type() -> None:
    """Which of the two a task would get must not depend on the order of a setting."""
    one = Application(name="one", providers={Clock: open_clock})
    two = Application(name="two", providers={Clock: open_clock})

    with pytest.raises(ConfigurationError, match="Clock is declared twice"):
        combine([one, two])


def test_combine_is_refused_when_a_subscription_listens_to_an_unlisted_event() -> None:
    """An event that no application lists would never be decoded."""
    with pytest.raises(ConfigurationError, match=r"trial\.listener listens to trial\.thing\.happened"):
        combine([Application(name="deaf", subscriptions=(listener,))])


def test_combine_is_refused_when_a_schedule_calls_an_unlisted_task() -> None:
    """A schedule that nobody can run is found at the start, not at night."""
    nightly = Schedule("trial.nightly", cron="0 3 * * *", call=trial.add.call(1, 2))

    with pytest.raises(ConfigurationError, match=r"trial\.nightly calls trial\.add"):
        combine([Application(name="idle", schedules=(nightly,))])


def test_load_finds_applications_by_name() -> None:
    """`module:attribute`, several by comma, spaces allowed, and `none`."""
    assert load("tests.trial:application, headrace.diagnostics") == [trial.application, diagnostics.application]
    assert load("none") == []


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("no.such.module:application", "cannot be loaded"),
        ("tests.trial:nothing", "cannot be loaded"),
        ("tests.trial:add", "is a Task and not an Application"),
        ("tests.trial:application,", "cannot be loaded"),
    ],
)
def test_load_is_refused_when_a_name_leads_nowhere(names: str, reason: str) -> None:
    """The message names the setting and what is wrong with it."""
    with pytest.raises(ConfigurationError, match=rf"HEADRACE_APPLICATIONS.*{reason}"):
        load(names)


async def test_providers_are_open_while_the_block_runs() -> None:
    """An instance is found by its type, and what nobody provides is an error that says so."""
    async with open_providers({Clock: open_clock}, Settings()) as providers:
        found = providers.get(Clock)

    assert isinstance(found, Clock)
    with pytest.raises(ConfigurationError, match="nothing provides Clock"):
        Providers({}).get(Clock)
