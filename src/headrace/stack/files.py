"""How the stack writes its small files.

Owns one way of replacing a file: whoever reads, and whoever starts after a kill, finds the old content or the new one,
whole. Only the owner may read what is written here, because some of it is secret.
"""

from __future__ import annotations

from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600, exist_ok=False)
    unfinished.write_bytes(content)
    unfinished.replace(path)
