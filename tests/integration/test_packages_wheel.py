"""The wheel, as a stranger gets it: plain pip, an empty environment, no lock and no override.

Plain pip cannot follow the lock's override, and settles for ARQ 0.25 instead, which works as a clock as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 240
IMPORTS = """
from importlib.metadata import version
import arq, taskiq_redis, headrace, storefront
from arq.worker import Worker
import workers.tasks, workers.cron
assert callable(arq.cron) and issubclass(Worker, object)
print(version("arq"), version("redis"), version("taskiq-redis"))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command outside the repository and return its output; fail with what it said."""
    done = subprocess.run(  # noqa: S603 - our own commands
        command, capture_output=True, text=True, check=False, timeout=SECONDS, cwd="/", env=environment
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which plain pip installed nothing but the built wheel."""
    place = tmp_path_factory.mktemp("wheel")
    run("uv", "build", "--wheel", "--quiet", "--out-dir", place, ROOT)
    (wheel,) = place.glob("*.whl")
    run(sys.executable, "-m", "venv", place / "venv")
    run(
        place / "venv/bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--disable-pip-version-check",
        wheel,
    )
    return place / "venv/bin"


def bare() -> dict[str, str]:
    """Return this environment without what would lead an interpreter back to the repository."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HEADRACE_", "VIRTUAL"))
    }


def test_everything_imports_when_plain_pip_installed_the_wheel(environment: Path) -> None:
    """Pip finds a set of versions that fit, and every process's module imports with them."""
    arq, redis, taskiq_redis = run(environment / "python", "-c", IMPORTS, environment=bare()).split()

    assert arq.startswith("0.25.")
    assert redis.startswith("8.")
    assert taskiq_redis.startswith("1.2.")


def test_the_command_line_answers_when_plain_pip_installed_the_wheel(environment: Path) -> None:
    """The wheel brings the `headrace` command."""
    told = run(environment / "headrace", "--help", environment=bare())

    assert "up" in told
    assert "migrate" in told


def test_pip_finds_no_conflict_when_it_installed_the_wheel(environment: Path) -> None:
    """What the wheel declares is true of what was installed."""
    assert "No broken requirements" in run(environment / "python", "-m", "pip", "check", environment=bare())
