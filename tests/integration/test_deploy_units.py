"""The systemd units: understood by systemd without a word, and shut off from all that they do not need.

`systemd-analyze verify` ends well even for a misspelt setting and only says so: anything it says is a failure here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.environment_example import render
from headrace.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
INSTALLED = "/opt/headrace/.venv/bin"
EXPOSURE_TENTHS = 20
ROLES = {"migrate", "api", "relay", "worker", "consume", "cron"}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and "CI" not in os.environ,
    reason="systemd-analyze is not installed here; CI installs it",
)


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze and return what it said."""
    return subprocess.run(  # noqa: S603 - our own arguments
        ["systemd-analyze", *arguments],  # noqa: S607 - wherever the system has it
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def section(unit: Path, comment: str) -> str:
    """Return the paragraph of a unit that begins with a comment."""
    (found,) = [part for part in unit.read_text().split("\n\n") if part.startswith(f"# {comment}")]
    return found.strip()


def test_there_is_a_unit_for_every_process() -> None:
    """Nothing of the road has to be started by hand."""
    wanted = (DEPLOY / "systemd/headrace.target").read_text()

    names = {unit.stem.removeprefix("headrace-") for unit in UNITS}

    assert names == ROLES | {"worker@"}
    assert all(f"headrace-{role}.service" in wanted for role in ROLES)


@needs_systemd
def test_verify_says_nothing_when_the_commands_are_installed(tmp_path: Path) -> None:
    """Every key, section and command of every unit is known to systemd; the commands are those of this environment."""
    commands = str(Path(sys.executable).parent)
    for unit in (DEPLOY / "systemd").iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(INSTALLED, commands))

    done = analyze("verify", *sorted(tmp_path.iterdir()))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_hardly_exposed(unit: Path) -> None:
    """Systemd's own measure of what a broken-in process could reach is at most 2.0 of 10."""
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE_TENTHS}", unit)

    assert done.returncode == 0, done.stdout


def test_every_unit_is_shut_off_alike() -> None:
    """The units differ in what they start, not in what they may do."""
    assert len({section(unit, "What the process may not do") for unit in UNITS}) == 1


def test_the_environment_example_is_what_the_settings_say() -> None:
    """No setting is missing in the example; `just environment-example` writes it anew."""
    assert (DEPLOY / "headrace.env.example").read_text() == render()


def test_the_environment_example_gives_the_defaults_when_it_is_uncommented() -> None:
    """Its values are read as systemd reads them, and are valid."""
    lines = [line.removeprefix("#") for line in render().splitlines() if line.startswith("#HEADRACE_")]
    environment = {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}

    assert Settings.from_environment(environment) == Settings()
    assert len(environment) == len(msgspec.structs.fields(Settings)) - 1
