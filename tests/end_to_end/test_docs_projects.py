"""The projects that the documents show pass their own tests.

A block of Python that begins with a comment such as `# shop.py` is that file; blocks with the same name follow one
another in it. All files of a page are one project, which pytest runs as its reader would.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FILE: Final = re.compile(r"^```python\n# (?P<name>\w+\.py)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES: Final = sorted(page for page in (ROOT / "docs").glob("*.md") if FILE.search(page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_project_of_a_page_passes_its_own_tests(page: Path, tmp_path: Path) -> None:
    """A reader who copies the files and runs pytest sees them pass, without a server of his own."""
    files: dict[str, list[str]] = defaultdict(list)
    for match in FILE.finditer(page.read_text()):
        files[match["name"]].append(match["body"])
    for name, bodies in files.items():
        (tmp_path / name).write_text("\n\n".join(bodies))

    done = subprocess.run(  # noqa: S603 - our own page
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
