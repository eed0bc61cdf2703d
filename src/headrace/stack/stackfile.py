"""`stack.json`: where a running stack is.

Owns the file that tells other programs the URLs and the process ids of a stack. It exists while the stack runs, and is
true: a process that died is missing from it until its successor runs. It holds the password of the embedded
PostgreSQL, so only its owner may read it. Never write it in place: whoever reads finds the old one or the new one,
whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from headrace.stack.files import replace_file

NAME = "stack.json"
SECRET_KEYS = "secret.keys"  # noqa: S105 - the name of a file
"""The file beside it with the keys that encrypt the secrets on this stack's record."""


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file.

    `processes` holds those that the contract names; the sink for mail, warehouse calls and traces stands beside them,
    and a URL of it is null where the operator chose another place.
    """

    api_url: str
    redis_url: str
    postgres_url: str
    mail_url: str
    smtp_url: str | None = None
    warehouse_url: str | None = None
    traces_url: str | None = None
    sink_pid: int | None = None
    processes: Mapping[str, int] = msgspec.field(default_factory=dict)


def write(directory: Path, whereabouts: Whereabouts) -> None:
    """Replace the file."""
    replace_file(directory / NAME, msgspec.json.format(msgspec.json.encode(whereabouts), indent=2) + b"\n")


def read(directory: Path) -> Whereabouts | None:
    """Return the content, or `None` where no stack runs on the directory."""
    try:
        return msgspec.json.decode((directory / NAME).read_bytes(), type=Whereabouts)
    except FileNotFoundError:
        return None


def forget(directory: Path) -> None:
    """Remove the file."""
    (directory / NAME).unlink(missing_ok=True)
