"""The command line says what there is, and what is wrong, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import msgspec
import pytest
from click.testing import CliRunner

from headrace.cli import cli

COMMANDS = (
    *("up", "demo", "migrate", "api", "relay", "consume", "jobs", "queues", "events", "subscriptions"),
    *("check", "settings", "keys"),
)

JOBS_COMMANDS = ("list", "show", "explain", "retry", "cancel", "run")


def run(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as its users do."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    command = (sys.executable, "-m", "headrace.cli", *arguments)
    variables = clean | dict(environment or {})
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)  # noqa: S603 - our own command


def test_commands_are_listed_when_help_is_asked_for() -> None:
    """Help names every command and imports none of their stations."""
    program = "import sys; from headrace.cli import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"

    shown = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)  # noqa: S603 - our own command

    assert all(f"\n  {command} " in shown.stdout for command in COMMANDS)
    assert "litestar" not in shown.stdout.splitlines()[-1].split()


def test_nothing_is_imported_when_help_of_a_group_is_asked_for() -> None:
    """The commands for jobs are listed without the way to PostgreSQL."""
    program = (
        "import sys; from headrace.cli import cli; cli(['jobs', '-h'], standalone_mode=False); print(*sys.modules)"
    )

    shown = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)  # noqa: S603 - our own command

    assert all(f"\n  {command} " in shown.stdout for command in JOBS_COMMANDS)
    assert "sqlalchemy" not in shown.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("command", JOBS_COMMANDS)
def test_command_for_jobs_is_there_when_the_table_names_it(command: str) -> None:
    """Each of them has a help of its own."""
    shown = CliRunner().invoke(cli, ["jobs", command, "--help"])

    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_there_when_the_table_names_it(command: str) -> None:
    """Each entry of the table leads to a command with a help of its own."""
    shown = CliRunner().invoke(cli, [command, "--help"])

    assert shown.exit_code == 0, shown.output


def test_settings_are_listed_when_asked_for() -> None:
    """Every variable has a name and a meaning, also as JSON."""
    plain = CliRunner().invoke(cli, ["settings"])
    items = msgspec.json.decode(CliRunner().invoke(cli, ["settings", "--json"]).output)["items"]

    assert all(item["name"].startswith("HEADRACE_") and item["meaning"] for item in items)
    assert all(f"{item['name']}={item['default']}" in plain.output for item in items)


def test_process_refuses_to_start_when_a_setting_is_unknown() -> None:
    """One line on standard error suggests what was meant; the exit code is 2."""
    ended = run("api", environment={"HEADRACE_PRT": "1"})

    assert ended.returncode == 2
    assert ended.stderr == "headrace: unknown setting HEADRACE_PRT: did you mean HEADRACE_PORT?\n"


def test_process_refuses_to_start_when_an_application_is_missing() -> None:
    """An application that cannot be loaded is named."""
    ended = run("relay", environment={"HEADRACE_APPLICATIONS": "no_such_module:application"})

    assert ended.returncode == 2
    assert "no_such_module" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_command_is_refused_when_it_is_unknown() -> None:
    """A misspelt command ends with click's own usage error."""
    assert CliRunner().invoke(cli, ["relai"]).exit_code == 2
