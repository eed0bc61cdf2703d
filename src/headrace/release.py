"""Which version of the code this process runs: what stands with everything that fails.

Owns the name of a release: `HEADRACE_RELEASE` where it is set, such as a commit; otherwise the versions of the packages
that hold the applications, and Headrace's own where they tell none.
"""

from __future__ import annotations

import sys
from importlib import metadata

from headrace.settings import Settings

_LONGEST = 200


def release_of(settings: Settings) -> str:
    """Return the release of the applications that the settings name."""
    if settings.release is not None:
        return settings.release[:_LONGEST]
    packages = dict.fromkeys(
        name.strip().partition(":")[0].partition(".")[0] for name in settings.applications.split(",")
    )
    told = [f"{package} {version}" for package in packages if (version := _version(package))]
    return (", ".join(told) or f"headrace {metadata.version('headrace')}")[:_LONGEST]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        told = getattr(sys.modules.get(package), "__version__", None)
        return told if isinstance(told, str) else None
