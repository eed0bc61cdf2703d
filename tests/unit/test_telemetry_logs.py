"""Log lines: JSON, one form for everybody, with the trace they belong to."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.telemetry.logs import configure_logging

SCRIPT = """
import logging, sys
from uuid import UUID
import structlog
from headrace.settings import Settings
from headrace.telemetry import setup, spans
from headrace.telemetry.logs import configure_logging
from headrace.telemetry.messages import Message

logging.basicConfig(format="TASKIQ %(message)s")
logging.getLogger("arq").addHandler(logging.StreamHandler(sys.stdout))
setup.configure("worker")
configure_logging(Settings(), "worker")
with spans.run("default", Message(UUID(int=1), sys.argv[1]), task="shop.greet"):
    structlog.get_logger("headrace.x").info("job_started", job_id=UUID(int=1))
    logging.getLogger("arq").warning("tick %s", 1, extra={"due": 7})
structlog.get_logger("headrace.x").debug("not_seen")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("other").exception("crashed")
"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def lines_of_a_process() -> tuple[list[dict[str, object]], str]:
    """Run a process that logs in every way; return its lines on standard error, and its standard output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "HEADRACE_"))}
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SCRIPT, f"00-{TRACE}-00f067aa0ba902b7-00"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
    )
    return [msgspec.json.decode(line, type=dict[str, object]) for line in done.stderr.splitlines()], done.stdout


def test_every_line_is_json_and_names_its_trace_when_it_is_logged_in_a_span() -> None:
    """Ours and the libraries' lines have the same keys, once, on standard error; nothing else is written."""
    lines, output = lines_of_a_process()

    ours, library, crash = lines
    assert output == ""
    assert (ours["event"], ours["level"], ours["logger"]) == ("job_started", "info", "headrace.x")
    assert ours["role"] == "worker"
    assert ours["trace_id"] == library["trace_id"] == TRACE
    assert str(ours["timestamp"]).endswith("Z")
    assert (library["event"], library["logger"], library["due"]) == ("tick 1", "arq", 7)
    assert "trace_id" not in crash
    assert "ZeroDivisionError" in str(crash["exception"])


def test_configure_logging_refuses_when_the_level_is_unknown() -> None:
    """A mistyped level stops the process and says what can be chosen."""
    with pytest.raises(ConfigurationError, match="debug, info, warning, error"):
        configure_logging(Settings(log_level="loud"), "api")
