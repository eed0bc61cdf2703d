"""What a migration says of itself is read as Alembic reads it."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import to_tuple

from headrace.database.schema import PACKAGE, Revision, revisions_in, versions_of

PACKAGES = (PACKAGE, "storefront.migrations")


def test_revisions_are_alembics_when_they_are_read_from_their_files() -> None:
    """Names and dependencies are those that Alembic finds by importing the files."""
    directories = [versions_of(package) for package in PACKAGES]
    config = Config()
    config.set_main_option("script_location", str(directories[0].parent))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, directories)))

    read = {one.name: set(one.before) for directory in directories for one in revisions_in(directory)}

    assert read == {
        script.revision: {*to_tuple(script.down_revision, default=()), *to_tuple(script.dependencies, default=())}
        for script in ScriptDirectory.from_config(config).walk_revisions()
    }


def test_all_forms_are_read_when_a_revision_has_several_before_it(tmp_path: Path) -> None:
    """What comes before is nothing, a string, or several."""
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "a.py").write_text('revision = "a"\ndown_revision = None\n')
    (tmp_path / "b.py").write_text('revision = "b"\ndown_revision = "a"\ndepends_on = ("x", "y")\n')

    assert revisions_in(tmp_path) == [Revision("a", ()), Revision("b", ("a", "x", "y"))]
