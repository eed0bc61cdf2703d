"""What the documents say is true: their links lead somewhere, their commands exist, their runnable examples run.

A block that opens with ```` ```python runnable ```` is run as it stands, in a process of its own.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec
import pytest

from headrace.cli import cli

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
LINK: Final = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
FENCE: Final = re.compile(r"^ *```(?P<language>[^\n]*)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
HEADING: Final = re.compile(r"^#+ +(.*)$", re.MULTILINE)
RECIPE: Final = re.compile(r"^([a-z][a-z-]*)[^:=\n]*:(?!=)", re.MULTILINE)
SHELLS: Final = frozenset({"console", "sh", "bash", "shell"})


class Block(msgspec.Struct, frozen=True):
    """A fenced block of a page."""

    page: Path
    language: str
    body: str


def blocks() -> Iterator[Block]:
    """Yield every fenced block of every page."""
    for page in PAGES:
        for match in FENCE.finditer(page.read_text()):
            if match["body"].strip():
                yield Block(page, match["language"].strip(), match["body"])


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(page.read_text()))
    return {heading.strip().replace(" ", "-") for heading in headings}


def commands(program: str) -> Iterator[list[str]]:
    """Yield the arguments of every line of a shell block that starts a program of ours."""
    started = re.compile(rf"(?:\$ )?(?:uv run )?(?:\S*/)?{program}(?= |$)")
    for block in blocks():
        if block.language not in SHELLS:
            continue
        for line in block.body.replace("\\\n", " ").splitlines():
            if match := started.match(line.strip()):
                yield shlex.split(line.strip()[match.end() :], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and every anchor a heading of it."""
    text = FENCE.sub("", page.read_text())

    for target, anchor in LINK.findall(text):
        led_to = (page.parent / target).resolve() if target else page
        assert led_to.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(led_to), f"{target}#{anchor} is no heading"


def test_just_recipes_exist_when_a_page_names_them() -> None:
    """`just` knows every recipe that a page tells to run."""
    known = set(RECIPE.findall((ROOT / "justfile").read_text()))

    assert {arguments[0] for arguments in commands("just") if arguments} <= known


def test_headrace_commands_exist_when_a_page_names_them() -> None:
    """The command line knows every command, and every option, that a page tells to run."""
    for arguments in commands("headrace"):
        told = f"headrace {shlex.join(arguments)}"
        command: click.Command = cli
        rest = arguments
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            found = command.get_command(click.Context(command), rest[0])
            assert found is not None, told
            command, rest = found, rest[1:]
        options = {option for parameter in command.get_params(click.Context(command)) for option in parameter.opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options, told


def test_examples_run_when_they_are_marked_runnable(tmp_path: Path) -> None:
    """A reader who copies such a block gets what the page promises."""
    example = tmp_path / "example.py"
    for block in blocks():
        if block.language != "python runnable":
            continue
        example.write_text(block.body)

        done = subprocess.run(  # noqa: S603 - our own page
            [sys.executable, example], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
        )

        assert done.returncode == 0, f"{block.page.name}: {done.stderr}"
