"""As whom PostgreSQL runs: it refuses root.

Owns the choice of an account when Headrace itself runs as root, and the question whether that account can reach a
path. An ordinary user needs none of this and gets `None`. Nothing outside the data directory changes its owner or
mode: an account that cannot pass through the directories above gets the capability to do so instead (see `launch`).
Never create an account.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

import msgspec

from headrace.errors import ConfigurationError

CANDIDATES = ("postgres", "nobody")


class Account(msgspec.Struct, frozen=True):
    """An unprivileged user; `reach` says that it must pass through directories which are closed to it."""

    uid: int
    gid: int
    reach: bool

    def __str__(self) -> str:
        """Return the form that `launch` takes."""
        return f"{self.uid}:{self.gid}" + (":reach" if self.reach else "")


def account_for(directory: Path, binaries: Path) -> Account | None:
    """Return who must run a server on `directory`, or `None` for the current user.

    Raises:
        ConfigurationError: this is root, and the machine has no unprivileged account.

    """
    if os.geteuid() != 0:
        return None
    uid, gid = _owner_of(directory) or _first_candidate()
    reach = not all(_open_to(path, uid, gid) for path in _parents(directory, binaries))
    return Account(uid=uid, gid=gid, reach=reach)


def _owner_of(directory: Path) -> tuple[int, int] | None:
    """Return the unprivileged owner that the directory has from an earlier start."""
    if not directory.exists():
        return None
    status = directory.stat()
    return (status.st_uid, status.st_gid) if status.st_uid != 0 else None


def _first_candidate() -> tuple[int, int]:
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    message = (
        f"PostgreSQL refuses to run as root, and there is no account named {' or '.join(CANDIDATES)}: "
        "run `headrace up` as an ordinary user, or set HEADRACE_DATABASE_URL"
    )
    raise ConfigurationError(message)


def _parents(*paths: Path) -> Iterable[Path]:
    return {parent for path in paths for parent in path.resolve().parents}


def _open_to(directory: Path, uid: int, gid: int) -> bool:
    """Tell whether the mode bits let an account pass through; where access lists differ, `reach` does no harm."""
    status = directory.stat()
    if status.st_uid == uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)
