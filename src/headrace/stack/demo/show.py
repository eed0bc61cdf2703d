"""`headrace demo`: the main job of Headrace, shown and checked.

Owns the two acts. First an order is placed and confirmed, and everything that follows is watched to its end: invoice,
mail, warehouse, audit, analytics, trace. Then the worker is killed in the middle of a second order, which still
completes, with every effect once. The exit code is 0 only if all of it really happened: each check is printed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from headrace.clock import new_id, now
from headrace.settings import PREFIX, Settings
from headrace.stack import stackfile
from headrace.stack.demo.client import Client, Confirmation, DemoError, Order, Span, open_client, read_key
from headrace.stack.demo.watch import Watch
from headrace.stack.demo.waterfall import waterfall
from headrace.stack.stackfile import Whereabouts

_PLAIN_WIDTH = 150
_START_SECONDS = 90.0
_FOLLOW_SECONDS = 30.0
_WAREHOUSE_SECONDS = 2.0
_SPANS_SECONDS = 10.0
_EXPORT_SECONDS = 0.7  # the stack's processes export twice a second
_SHIPMENT = "storefront.request_shipment"
_OURS = ("OTEL_", PREFIX)
_SERVICES = {"headrace-api", "headrace-consume", "headrace-worker"}

_ITEMS = [
    {"sku": "millstone-120", "quantity": 2, "unit_price_cents": 24900},
    {"sku": "oak-paddle", "quantity": 16, "unit_price_cents": 1850},
    {"sku": "sluice-gate-hinge", "quantity": 4, "unit_price_cents": 725},
]


class Stage:
    """The running stack that the demo plays on, and where its findings are kept."""

    def __init__(self, console: Console, client: Client, directory: Path, keep: Path) -> None:
        self.console = console
        self.client = client
        self.directory = directory
        self.keep = keep

    def say(self, text: str) -> None:
        """Print a heading."""
        self.console.print(f"\n[bold]{text}[/]", highlight=False)

    def check(self, what: str, *, holds: bool, detail: str) -> None:
        """Print a check; one that does not hold ends the demo.

        Raises:
            DemoError: it does not hold.

        """
        if not holds:
            message = f"{what}: {detail}"
            raise DemoError(message)
        self.console.print(f"  [green]✓[/] {what:<28} {detail}", highlight=False, soft_wrap=True)


async def demo(settings: Settings, *, data_dir: Path | None) -> int:
    """Play the demo on the stack that runs in `data_dir`, or on one of its own; return the exit code."""
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    keep = Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    try:
        async with _stack(console, data_dir, keep) as (directory, whereabouts):
            key = settings.api_key or read_key(directory)
            async with open_client(whereabouts, key) as client:
                stage = Stage(console, client, directory, keep)
                await _first_act(stage)
                await _second_act(stage)
    except DemoError as error:
        console.print(f"  [red]✗ {error}[/]", highlight=False)
        return 1
    console.print(f"\n[bold green]All of it happened.[/] The invoice and the mail are in {keep}", soft_wrap=True)
    return 0


async def _first_act(stage: Stage) -> None:
    stage.say("An order is confirmed")
    order, confirmation = await _confirm_new_order(stage, "ada@example.com")
    order = await Watch(stage.client, stage.console, order.id).until_complete(_FOLLOW_SECONDS)
    stage.say("What it led to")
    await _check_effects(stage, order)
    spans = await _check_trace(stage, confirmation.trace_id)
    stage.say(f"One trace, {confirmation.trace_id}")
    stage.console.print(waterfall(spans))


async def _second_act(stage: Stage) -> None:
    stage.say("The worker is killed in the middle of a second order")
    await stage.client.slow_warehouse(_WAREHOUSE_SECONDS)
    order, _ = await _confirm_new_order(stage, "grace@example.com")
    watch = Watch(stage.client, stage.console, order.id)
    job = await watch.until_running(_SHIPMENT, _FOLLOW_SECONDS)
    pid = _worker_of(stage.directory)
    os.kill(pid, signal.SIGKILL)
    killed_at = now()
    stage.console.print(f"  [red]SIGKILL[/] to worker process {pid}, while it runs {job.task}", highlight=False)
    await stage.client.slow_warehouse(0)
    order = await watch.until_complete(_FOLLOW_SECONDS)
    stage.say("It completed all the same")
    again = next(one for one in await stage.client.jobs_of(order.id) if one.id == job.id)
    lost = [error for error in again.errors if error.type == "WorkerLost"]
    stage.check("the lost attempt is on record", holds=bool(lost), detail=lost[0].message if lost else "it is not")
    started = again.started_at or killed_at
    rerun = (started - killed_at).total_seconds()
    stage.check(
        "it ran again",
        holds=again.attempt > job.attempt,
        detail=f"attempt {again.attempt}, {rerun:.1f} s after the kill",
    )
    await _check_effects(stage, order)


async def _confirm_new_order(stage: Stage, customer: str) -> tuple[Order, Confirmation]:
    body = {"customer_email": customer, "currency": "EUR", "items": _ITEMS}
    order = await stage.client.place_order(body, key=str(new_id()))
    asked = time.perf_counter()
    confirmation = await stage.client.confirm_order(order.id)
    took = (time.perf_counter() - asked) * 1000
    total = f"{order.total_cents / 100:.2f} {order.currency}"
    stage.console.print(f"  order {order.id}, {total}: the answer came in [bold]{took:.0f} ms[/]", highlight=False)
    return order, confirmation


async def _check_effects(stage: Stage, order: Order) -> None:
    pdf = await stage.client.invoice_of(order.id)
    path = stage.keep / f"invoice-{order.id}.pdf"
    await asyncio.to_thread(path.write_bytes, pdf)
    stage.check("invoice", holds=pdf.startswith(b"%PDF"), detail=f"{path} ({len(pdf):,} bytes)")
    mails = [mail for mail in await stage.client.mails_to(order.customer_email) if order.id in mail.message_id]
    attached = [part.name for mail in mails for part in mail.attachments]
    # A mail cannot be taken back: where the worker dies between the server's 250 and the commit, it goes out again.
    again = f", taken {len(mails)} times under one Message-ID" if len(mails) > 1 else ""
    detail = (
        f"“{mails[0].subject}” to {order.customer_email}, with {attached[0]}{again}"
        if attached
        else "no mail with an invoice"
    )
    stage.check("one mail", holds=len({mail.message_id for mail in mails}) == 1 and bool(attached), detail=detail)
    receipts = await stage.client.receipts_of(order.id)
    detail = (
        f"receipt {receipts[0].reference}, signature checked, repeats {receipts[0].duplicates}"
        if receipts
        else "not called"
    )
    stage.check("one warehouse effect", holds=len(receipts) == 1, detail=detail)


async def _check_trace(stage: Stage, trace_id: str) -> list[Span]:
    """Wait until no further span of the journey arrives, and check that every process with a part in it is there."""
    until = time.monotonic() + _SPANS_SECONDS
    spans: list[Span] = []
    while time.monotonic() < until:
        before, spans = len(spans), await stage.client.spans_of(trace_id)
        if before == len(spans) > 0 and {span.service for span in spans} >= _SERVICES:
            break
        await asyncio.sleep(_EXPORT_SECONDS)
    services = {span.service for span in spans}
    detail = f"{len(spans)} spans from {', '.join(sorted(services))}"
    stage.check("one trace", holds=services >= _SERVICES, detail=detail)
    return spans


def _worker_of(directory: Path) -> int:
    whereabouts = stackfile.read(directory)
    pid = whereabouts.processes.get("worker") if whereabouts else None
    if pid is None:
        message = f"{directory / stackfile.NAME} names no worker"
        raise DemoError(message)
    return pid


@asynccontextmanager
async def _stack(console: Console, data_dir: Path | None, keep: Path) -> AsyncIterator[tuple[Path, Whereabouts]]:
    """Lend the running stack of `data_dir`, or run one of its own for the time of the demo."""
    if data_dir is not None:
        whereabouts = stackfile.read(data_dir)
        if whereabouts is None:
            message = f"no stack runs in {data_dir}: start it with `headrace up --data-dir {data_dir}`"
            raise DemoError(message)
        yield data_dir, whereabouts
        return
    console.print("Starting PostgreSQL, Redis and the five processes of Headrace …", highlight=False)
    with tempfile.TemporaryDirectory(prefix="headrace-stack-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        began = time.monotonic()
        async with _running_up(directory, keep / "up.log"):
            whereabouts = stackfile.read(directory)
            if whereabouts is None:
                message = f"the stack came up and wrote no {stackfile.NAME}"
                raise DemoError(message)
            console.print(
                f"  ready in {time.monotonic() - began:.1f} s: {whereabouts.api_url}, mail at {whereabouts.mail_url}"
            )
            yield directory, whereabouts


@asynccontextmanager
async def _running_up(directory: Path, log: Path) -> AsyncIterator[None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headrace.cli", "up", "--port", "0", "--data-dir", str(directory)),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    try:
        await _wait_until_ready(process, log)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _wait_until_ready(process: asyncio.subprocess.Process, log: Path) -> None:
    line = b""
    try:
        async with asyncio.timeout(_START_SECONDS):
            if process.stdout is not None:
                line = await process.stdout.readline()
    except TimeoutError as error:
        message = f"the stack did not come up within {_START_SECONDS:.0f} seconds"
        raise DemoError(message) from error
    if not line.startswith(b"Headrace is ready"):
        message = f"the stack did not come up: {await asyncio.to_thread(log.read_text)}"
        raise DemoError(message)
