"""Dropping root: only as root can it be tried for real."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from falaj.engines.supervisor import account as accounts
from falaj.errors import Terminal

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@as_root
def test_the_command_runs_as_the_account_and_enters_closed_folders(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    inner = closed / "inner"
    inner.mkdir(parents=True)
    closed.chmod(0o700)
    (inner / "file").write_text("read me")
    argv = accounts.command("nobody", ["/bin/sh", "-c", f"id -un; cat {inner}/file"], [inner])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True, cwd="/")
    assert done.stdout == "nobody\nread me"


@as_root
def test_where_everything_is_open_no_capability_is_kept() -> None:
    argv = accounts.command("nobody", ["/bin/sh", "-c", "grep CapEff /proc/self/status"], [Path("/usr/bin")])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True, cwd="/")
    assert int(done.stdout.split()[1], 16) == 0


@as_root
@pytest.mark.parametrize(("account", "said"), [("no-such-account", "no account"), ("root", "is root as well")])
def test_an_account_that_will_not_do_is_told(account: str, said: str) -> None:
    with pytest.raises(Terminal, match=said) as caught:
        accounts.command(account, ["/bin/true"], [])
    assert caught.value.hint


@as_root
def test_without_setpriv_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Terminal, match="setpriv"):
        accounts.command("nobody", ["/bin/true"], [])


def test_without_an_account_the_command_stays_as_it_is() -> None:
    assert accounts.command(None, ["/bin/true", "x"], []) == ("/bin/true", "x")


def test_a_folder_is_closed_only_to_those_who_may_not_enter(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "own").mkdir(parents=True)
    tmp_path.chmod(0o755)
    folder.chmod(0o700)
    me = pwd.getpwuid(os.geteuid())
    other = pwd.struct_passwd(("other", "x", me.pw_uid + 1, me.pw_gid + 1, "", "/", ""))
    assert accounts.closed_folder(me, [folder / "own"]) != folder
    found = accounts.closed_folder(other, [folder / "own"])
    assert found is not None
    assert found == folder or found in folder.parents
