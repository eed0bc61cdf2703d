"""What the README shows is what happens: its application runs as it stands, and its demo ends with 0."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.stacks import eventually, running_stack

ROOT = Path(__file__).parents[2]


def the_application() -> str:
    """Return the README's application."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    source: str
    (source,) = [block for block in blocks if "application = Application(" in block]
    return source


def test_application_of_the_readme_runs_as_shown(tmp_path: Path) -> None:
    """An event leads, by its subscriber, to the greeting; the schedule greets everybody."""
    (tmp_path / "shop.py").write_text(the_application())
    environment = {"HEADRACE_APPLICATIONS": "shop:application", "PYTHONPATH": str(tmp_path)}
    event = {"specversion": "1.0", "id": "1", "source": "/readme", "type": "shop.customer.joined", "subject": "Ada"}

    with running_stack(tmp_path / "stack", environment=environment) as stack, stack.client() as client:
        answer = client.post(
            "/v1/events",
            json=event | {"data": {"name": "Ada"}},
            headers={"Content-Type": "application/cloudevents+json"},
        )

        def greetings() -> set[str]:
            jobs = client.get("/v1/jobs", params={"task": "shop.greet", "state": "succeeded"}).json()["items"]
            return {job["result"] for job in jobs}

        eventually(
            lambda: {"Good morning, Ada", "Good morning, everybody"} <= greetings(), within_seconds=40, told=stack.told
        )

    assert answer.status_code == httpx.codes.ACCEPTED, answer.text


@pytest.mark.timeout(180)
def test_demo_ends_with_0_when_all_of_it_happened() -> None:
    """`headrace demo` runs both acts on a stack of its own; every check holds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "OTEL_"))}

    played = subprocess.run(
        [sys.executable, "-m", "headrace.cli", "demo"], capture_output=True, text=True, env=environment, check=False
    )

    assert played.returncode == 0, played.stdout + played.stderr
    assert "All of it happened." in played.stdout
    assert played.stdout.count("✓") >= 8
