"""Fingerprints: the same fault has one, whichever case it was, and another fault has another."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec
import pytest

from headrace.errors import ConfigurationError
from headrace.jobs.fingerprint import fingerprint_of
from headrace.release import release_of
from headrace.settings import Settings


class OtherError(ValueError):
    """Another one."""


def pack(message: str, kind: type[Exception] = ValueError) -> None:
    """Fail here."""
    raise kind(message)


def ship(message: str) -> None:
    """Fail elsewhere."""
    raise ValueError(message)


def decode(message: str) -> None:
    """Fail in somebody else's code that we called."""
    msgspec.json.decode(message)


def printed(failing: Callable[..., None], *arguments: object) -> str:
    """Return the fingerprint of what a function raises."""
    try:
        failing(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it raises is what is looked at
        return fingerprint_of(error, str(error))
    message = "it did not fail"
    raise AssertionError(message)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 17 is gone", "order 18 is gone"),
        ("no such file: 'a.pdf'", "no such file: 'b.pdf'"),
        ('no such key "a"', 'no such key "b"'),
        ("0193a4f5-aa11-7bb2-8000-1234567890ab timed out", "0193a4f6-bb22-7cc3-9000-ba0987654321 timed out"),
        ("cust_8fJ2 has no address", "cust_9aa has no address"),
        ("connect to 10.0.0.7:5432 failed", "connect to db2.example:5432 failed"),
        ("duplicate\nDETAIL: Key (id)=(17)", "duplicate\nDETAIL: Key (id)=(18)"),
    ],
)
def test_fingerprint_is_the_same_when_only_the_case_differs(one: str, other: str) -> None:
    """Numbers, ids, quoted values and further lines say which case it was, not which fault."""
    assert printed(pack, one) == printed(pack, other)


@pytest.mark.parametrize(
    ("failing", "arguments"),
    [(pack, ("order 1 is late",)), (pack, ("order 1 is gone", OtherError)), (ship, ("order 1 is gone",))],
)
def test_fingerprint_differs_when_the_fault_does(failing: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Another message, another type, another place."""
    assert printed(failing, *arguments) != printed(pack, "order 1 is gone")


def test_fingerprint_is_short_hex_when_there_is_no_traceback() -> None:
    """An error that was never raised has one too."""
    found = fingerprint_of(ValueError("x"), "x")

    assert len(found) == 16
    assert int(found, 16) >= 0


def test_place_is_ours_when_others_code_raised() -> None:
    """Two callers of one library have two faults."""

    def elsewhere(message: str) -> None:
        msgspec.json.decode(message)

    assert printed(decode, "{") != printed(elsewhere, "{")


@pytest.mark.parametrize("message", ["", "\n", "\ud800", "x" * 100_000, "'" * 10_000, "1" * 100_000])
def test_fingerprint_is_made_when_the_message_is_odd(message: str) -> None:
    """Empty, enormous, or nothing that UTF-8 has."""
    assert len(fingerprint_of(ConfigurationError(message), message)) == 16


def test_release_is_what_the_operator_says() -> None:
    """`HEADRACE_RELEASE` goes before everything."""
    assert release_of(Settings(release="1f3a9c2")) == "1f3a9c2"


def test_release_is_that_of_the_packages_when_nobody_says() -> None:
    """The distribution of an application, or the version that its package tells."""
    module = type(sys)("unpacked")
    module.__version__ = "3.1"  # type: ignore[attr-defined] # as many packages have it
    sys.modules["unpacked"] = module
    try:
        told = release_of(Settings(applications="msgspec:x, unpacked.application:application"))
    finally:
        del sys.modules["unpacked"]

    assert told.startswith("msgspec ")
    assert told.endswith(", unpacked 3.1")


@pytest.mark.parametrize("applications", ["none", "nowhere.to.be.found:application"])
def test_release_is_headraces_own_when_packages_tell_none(applications: str) -> None:
    """So an upgrade of Headrace is told apart at least."""
    assert release_of(Settings(applications=applications)).startswith("headrace ")
