"""The small parts of the stack: accounts, ports, its file, and whose process is whose."""

from __future__ import annotations

import os
import py_compile
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from headrace.errors import ConfigurationError
from headrace.stack import ownership, stackfile
from headrace.stack.account import account_for
from headrace.stack.bytecode import bytecode_environment
from headrace.stack.ports import free_port, is_free, keep_ports
from headrace.stack.stackfile import Whereabouts

WHEREABOUTS = Whereabouts(api_url="http://a", redis_url="redis://r", postgres_url="postgresql://p", mail_url="http://m")


def test_ports_stay_the_same_when_they_are_free(tmp_path: Path) -> None:
    """A stack has the same URLs after a restart."""
    first = keep_ports(tmp_path / "ports.json", ("api", "redis"))

    second = keep_ports(tmp_path / "ports.json", ("api", "redis"))

    assert first == second
    assert len(set(first.values())) == 2


def test_port_changes_when_somebody_took_it(tmp_path: Path) -> None:
    """A port on which somebody else listens is given up, and the new one is remembered."""
    first = keep_ports(tmp_path / "ports.json", ("api", "redis"))
    with socket.create_server(("127.0.0.1", first["api"])):
        second = keep_ports(tmp_path / "ports.json", ("api", "redis"))

    third = keep_ports(tmp_path / "ports.json", ("api", "redis"))

    assert second["api"] != first["api"]
    assert second["redis"] == first["redis"]
    assert third == second


def test_port_is_not_free_when_somebody_listens() -> None:
    """A port in use is not free."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = is_free(server.getsockname()[1])

    assert not taken


def test_stack_file_is_private_when_it_is_written(tmp_path: Path) -> None:
    """It holds a password: only its owner may read it; and reading gives back what was written."""
    stackfile.write(tmp_path, WHEREABOUTS)
    stackfile.write(tmp_path, WHEREABOUTS)

    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600
    assert stackfile.read(tmp_path) == WHEREABOUTS


def test_directory_is_refused_when_another_stack_holds_it(tmp_path: Path) -> None:
    """The second `up` on one directory says who holds it, and touches nothing."""
    with ExitStack() as stack:
        directory = stack.enter_context(ownership.held(tmp_path / "new"))
        with pytest.raises(ConfigurationError, match=rf"already \(process {os.getpid()}\)"):
            stack.enter_context(ownership.held(directory))

    with ownership.held(tmp_path / "new") as again:
        assert again == directory


def test_leftovers_end_when_they_belong_to_the_directory(tmp_path: Path) -> None:
    """What an earlier stack on this directory left is ended; another directory's processes, and our own, are not."""
    ours, theirs = (sleeper(tmp_path / name) for name in ("ours", "theirs"))
    try:
        ownership.end_leftovers(tmp_path / "ours")

        assert not psutil.pid_exists(ours.pid)
        assert theirs.poll() is None
    finally:
        ours.wait()
        theirs.kill()
        theirs.wait()


def sleeper(directory: Path) -> subprocess.Popen[bytes]:
    """Start a process that belongs to a directory."""
    directory.mkdir()
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    return subprocess.Popen(command, env={ownership.VARIABLE: str(directory)})  # noqa: S603 - our own interpreter


@pytest.mark.parametrize("note", ["1\n/somewhere\n", "999999999\n/somewhere\n"])
def test_note_of_a_dead_postmaster_is_removed_when_another_has_its_process_id(tmp_path: Path, note: str) -> None:
    """PostgreSQL would refuse to start for a process that is not a server at all."""
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "postmaster.pid").write_text(note)

    ownership.end_leftovers(tmp_path)

    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


def test_bytecode_goes_to_the_cache_when_it_may_not_lie_beside_the_packages(tmp_path: Path) -> None:
    """Only where nothing is compiled and nothing may be: there, and not beside the packages, Python is to write."""
    module = tmp_path / "module.py"
    ruled_out = {"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    written = bytecode_environment({}, tmp_path, module=module)
    kept_away = bytecode_environment(ruled_out, tmp_path, module=module)
    chosen = bytecode_environment({**ruled_out, "PYTHONPYCACHEPREFIX": "/elsewhere"}, tmp_path, module=module)
    (tmp_path / "file").touch()
    homeless = bytecode_environment({**ruled_out, "XDG_CACHE_HOME": str(tmp_path / "file")}, tmp_path, module=module)
    module.touch()
    py_compile.compile(str(module))
    compiled = bytecode_environment(ruled_out, tmp_path, module=module)

    cache = str(tmp_path / "cache" / "headrace" / "bytecode")
    assert kept_away == {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
    assert homeless["PYTHONPYCACHEPREFIX"] == str(tmp_path / "bytecode")
    assert written == chosen == compiled == {}


def test_account_may_pass_closed_directories_only_when_it_must(tmp_path: Path) -> None:
    """Root needs another account, which may pass through closed directories where there are any; a user needs none."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)

    closed, opened = (
        account_for(private / "postgres", Path("/usr/bin")),
        account_for(Path("/postgres"), Path("/usr/bin")),
    )

    reaches = (closed and closed.reach, opened and opened.reach)
    assert reaches == ((True, False) if os.geteuid() == 0 else (None, None))
    assert closed is None or closed.uid != 0
