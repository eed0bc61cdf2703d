"""Times on a command line: read as the API reads them.

Owns the one reader, and the callback for options that take a time. A time without its zone is refused: it would mean
something else on each machine.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import click
import msgspec

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
WRITTEN: Final = "give RFC 3339 with a time zone, such as 2026-01-31T12:00:00Z"


def moment_of(written: str) -> datetime:
    """Return a time that somebody wrote.

    Raises:
        ValueError: it is no time of RFC 3339, or has no zone.

    """
    return msgspec.convert(written, _Moment)


def read_moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Return the time that an option was given.

    Raises:
        click.BadParameter: it is no time of RFC 3339, or has no zone.

    """
    del ctx, param
    if value is None:
        return None
    try:
        return moment_of(value)
    except ValueError as error:
        raise click.BadParameter(WRITTEN) from error
