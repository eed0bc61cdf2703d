"""Settings from the environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigurationError
from headrace.settings import Settings, variables

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)


def test_defaults_hold_when_nothing_is_set() -> None:
    """An environment without HEADRACE_* gives the defaults."""
    assert Settings.from_environment({"PATH": "/bin", "OTEL_SERVICE_NAME": "x"}) == Settings()


def test_values_are_read_by_their_type() -> None:
    """Numbers are numbers."""
    settings = Settings.from_environment({"HEADRACE_PORT": "9000", "HEADRACE_LEASE_SECONDS": "1.5"})

    assert (settings.port, settings.lease_seconds) == (9000, 1.5)


def test_empty_value_is_as_good_as_none() -> None:
    """`HEADRACE_QUEUES=` in an environment file means the default."""
    assert Settings.from_environment({"HEADRACE_QUEUES": "", "HEADRACE_PORT": ""}) == Settings()


def test_refused_with_a_suggestion_when_a_name_is_nearly_right() -> None:
    """A typing error names what was meant."""
    with pytest.raises(ConfigurationError, match=r"HEADRACE_DATABSE_URL: did you mean HEADRACE_DATABASE_URL\?"):
        Settings.from_environment({"HEADRACE_DATABSE_URL": "postgresql://x"})


def test_refused_with_the_way_to_the_list_when_a_name_is_far_off() -> None:
    """Nothing is suggested that has nothing to do with it."""
    with pytest.raises(ConfigurationError, match="headrace settings"):
        Settings.from_environment({"HEADRACE_QQQQ": "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("WORKER_CONCURRENCY", "0"),
        ("WORKER_PROCESSES", "0"),
        ("LEASE_SECONDS", "0.1"),
        ("SHUTDOWN_SECONDS", "-1"),
        ("DATABASE_POOL_SIZE", "1"),
    ],
)
def test_refused_when_a_value_does_not_fit(name: str, value: str) -> None:
    """A value out of bounds stops the process with the field's name."""
    with pytest.raises(ConfigurationError, match=name.lower()):
        Settings.from_environment({f"HEADRACE_{name}": value})


@given(
    api_key=st.none() | _TEXT,
    host=_TEXT,
    port=st.integers(0, 65535),
    lease=st.floats(0.5, 60),
    queues=st.none() | _TEXT,
)
def test_as_environment_gives_the_same_settings_to_another_process(
    api_key: str | None, host: str, port: int, lease: float, queues: str | None
) -> None:
    """What a supervisor hands on is read as it was."""
    settings = Settings(api_key=api_key, host=host, port=port, lease_seconds=lease, queues=queues)

    assert Settings.from_environment(settings.as_environment()) == settings


def test_every_variable_has_a_meaning() -> None:
    """`headrace settings` leaves none unexplained."""
    listed = variables()

    assert {row.name for row in listed} == {f"HEADRACE_{field.upper()}" for field in Settings.__struct_fields__}
    assert all(len(row.meaning) > 10 for row in listed)
