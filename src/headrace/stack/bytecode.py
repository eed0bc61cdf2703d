"""Where the processes of a stack find their code compiled.

Owns one decision: where Python could neither find bytecode beside the packages nor write it there (the packages belong
to somebody else, or `PYTHONDONTWRITEBYTECODE` is set), every process would compile everything at every start, which
takes twice the time of all the rest. Such a stack keeps its bytecode in the user's cache instead. Never write beside
the packages where that was ruled out.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import httpx

_PREFIX, _RULED_OUT = "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"


def bytecode_environment(
    environment: Mapping[str, str], directory: Path, *, module: Path = Path(httpx.__file__)
) -> dict[str, str]:
    """Return the variables that make Python keep its bytecode; none where it keeps it anyway.

    Args:
        environment: that of the processes.
        directory: the stack's, for an account without a home.
        module: one of the installed packages, for all of them.

    """
    compiled = Path(importlib.util.cache_from_source(str(module)))
    would_write = not environment.get(_RULED_OUT) and os.access(module.parent, os.W_OK)
    if environment.get(_PREFIX) or compiled.exists() or would_write:
        return {}
    cache = Path(environment.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "headrace" / "bytecode"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = directory / "bytecode"
    return {_PREFIX: str(cache), _RULED_OUT: ""}
