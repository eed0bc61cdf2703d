"""Writes `headrace.env.example`, the environment file of a deployment, from the settings themselves.

Owns its form: each variable of `headrace settings` with its meaning and its default, commented out, then those of
OpenTelemetry that matter here. A test compares the file with this output, so that no setting is missing in it.
Never put a real secret here.
"""

from __future__ import annotations

import sys
from typing import Final

from headrace.settings import PREFIX, Variable, variables

_HEAD: Final = """\
# The environment of every Headrace process: install it as /etc/headrace/headrace.env, owner root, mode 0600.
# Each variable stands here with its default; remove the leading # to choose something else.
# Written by `just environment-example`; `headrace settings` prints the same list.
"""
_TELEMETRY: Final = """\

# OpenTelemetry's own variables. Without an endpoint nothing is sent, and trace ids still exist.
#OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318
# Trace one in ten requests and what follows from it, where no collector samples (deploy/telemetry/collector.yaml does).
#OTEL_TRACES_SAMPLER=parentbased_traceidratio
#OTEL_TRACES_SAMPLER_ARG=0.1
"""
_OF_THE_STACK: Final = frozenset({PREFIX + "STACK_DIR"})


def render() -> str:
    """Return the whole file."""
    chosen = [variable for variable in variables() if variable.name not in _OF_THE_STACK]
    return _HEAD + "".join(_entry(variable) for variable in chosen) + _TELEMETRY


def _entry(variable: Variable) -> str:
    value = f'"{variable.default}"' if " " in variable.default else variable.default
    return f"\n# {variable.meaning}\n#{variable.name}={value}\n"


if __name__ == "__main__":
    sys.stdout.write(render())
