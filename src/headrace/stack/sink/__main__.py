"""The world outside, for a stack on one machine: `python -m headrace.stack.sink DIR SMTP_PORT HTTP_PORT`.

Owns one process that plays the mail server, the warehouse and the trace collector, and a page at `/` that shows a
person what arrived. Mails and receipts are kept under `DIR/mail` and `DIR/warehouse`, traces in memory. Never listen
on anything but the loopback interface, and never show what arrived without escaping it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import uvicorn

from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.stack.ports import LOOPBACK
from headrace.stack.sink.mail import Mailbox
from headrace.stack.sink.routes import create_app
from headrace.stack.sink.traces import Traces
from headrace.stack.sink.warehouse import Warehouse
from headrace.telemetry.logs import configure_logging


async def serve(settings: Settings, directory: Path, *, smtp_port: int, http_port: int) -> None:
    """Take mail, orders and traces until SIGTERM or SIGINT."""
    mailbox = Mailbox(directory / "mail")
    if settings.warehouse_secret is None:
        message = "the sink checks signatures: set HEADRACE_WAREHOUSE_SECRET"
        raise ConfigurationError(message)
    warehouse = Warehouse(directory / "warehouse", settings.warehouse_secret)
    app = create_app(mailbox, warehouse, Traces())
    server = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, port=http_port, access_log=False, log_config=None))
    smtp = await asyncio.get_running_loop().create_server(mailbox.protocol, LOOPBACK, smtp_port)
    async with smtp:
        await server.serve()


def main(arguments: list[str]) -> None:
    """Run the sink of a directory on two ports."""
    directory, smtp_port, http_port = arguments
    settings = Settings.from_environment(os.environ)
    configure_logging(settings, "sink")
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # aiosmtpd writes a line for each command of each mail
    asyncio.run(serve(settings, Path(directory), smtp_port=int(smtp_port), http_port=int(http_port)))


if __name__ == "__main__":
    main(sys.argv[1:])
