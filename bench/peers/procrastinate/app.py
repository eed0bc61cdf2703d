"""Procrastinate in its best settings: `procrastinate --app app.app worker`.

Owns the application. It keeps finished jobs, as Headrace does, and wakes by LISTEN. It has no place for results: this
is the one peer that stores none.
"""

from __future__ import annotations

import os

from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"], min_size=4, max_size=20))


@app.task(name="peer.echo")
async def echo(value: object) -> object:
    """Return the value."""
    return value
