"""`headrace check`: are the jobs and events under way still valid for this code, and whom does a changed type break?

Owns the command that is run with the new code before a deploy: exit code 0 where it can read everything on record,
1 where something breaks, naming what. It changes nothing, and may run beside the code that works.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click
import msgspec

from headrace.application import Registry
from headrace.commands.operating import operate, operator_settings
from headrace.commands.shown import echo_json, echo_table, json_option
from headrace.database.driver import borrowed
from headrace.database.record import Record
from headrace.events.check import Listening, check_events, check_redeliveries
from headrace.events.check_types import check_types
from headrace.events.reading import Reading
from headrace.jobs.check import Decode, Finding, Findings, check_jobs, check_schedules
from headrace.resources import build_registry
from headrace.subscribers.failures import DELIVER
from headrace.webhooks.model import FAN_OUT


class Report(msgspec.Struct, frozen=True):
    """What was checked, and what breaks."""

    ok: bool
    jobs: int
    schedules: int
    events: int
    event_types: int
    findings: list[Finding]


@click.command(
    help="Are the jobs, schedules and events under way still valid for this code, and which subscriptions and webhooks "
    "does a changed event type break? Run it with the new code before a deploy: exit code 1 names what breaks."
)
@json_option
def check(*, as_json: bool) -> None:
    """Check what is on record against the code of the loaded applications."""
    registry = build_registry(operator_settings())
    report = operate(lambda record: _check(record, registry))
    if as_json:
        echo_json(report)
    else:
        _echo(report)
    sys.exit(0 if report.ok else 1)


async def _check(record: Record, registry: Registry) -> Report:
    decoders = _decoders(registry)
    subscribed = _subscribed(registry)
    findings = Findings()
    async with (
        borrowed(record.engine) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        jobs = await check_jobs(connection, decoders, findings)
        schedules = await check_schedules(connection, decoders, findings, declared=sorted(registry.schedules))
        events = await check_events(connection, subscribed, findings)
        await check_redeliveries(connection, subscribed, findings, task=DELIVER)
        types = await check_types(connection, registry.events, subscribed, findings)
    found = findings.found()
    return Report(not found, jobs, schedules, events, types, found)


def _decoders(registry: Registry) -> Mapping[str, Decode]:
    return {name: task.decoder.decode for name, task in registry.names.items()}


def _subscribed(registry: Registry) -> dict[str, Listening]:
    return {
        name: Listening(one.patterns, None if name == FAN_OUT else Reading(one.events), one.filter)
        for name, one in registry.subscriptions.items()
    }


def _echo(report: Report) -> None:
    checked = (
        f"{report.jobs} unfinished jobs, {report.schedules} stored schedules, {report.events} events under way, "
        f"{report.event_types} event types"
    )
    if report.ok:
        click.echo(f"ok: this code can read them all: {checked}")
        return
    click.echo(f"checked {checked}")
    rows = [
        (found.count, found.kind, found.name, found.code, found.message, " ".join(found.examples[:2]))
        for found in report.findings
    ]
    echo_table(("COUNT", "WHAT", "NAME", "REASON", "WHAT IS WRONG", "SUCH AS"), rows, empty="")
    click.echo(f"headrace check: {sum(found.count for found in report.findings)} do not fit this code", err=True)
