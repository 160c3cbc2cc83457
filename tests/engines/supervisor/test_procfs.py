"""Pids are not trusted without their start time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

from falaj.engines.supervisor import procfs
from tests.sites import until


def test_a_process_is_known_by_pid_and_start_time() -> None:
    seen = procfs.stat(os.getpid())
    assert seen is not None
    assert procfs.alive(seen.pid, seen.start_ticks)
    assert not procfs.alive(seen.pid, seen.start_ticks + 1)
    assert procfs.open_pidfd(seen.pid, seen.start_ticks + 1) is None


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["/bin/sleep", "600"])
    seen = procfs.stat(process.pid)
    assert seen is not None
    pidfd = procfs.open_pidfd(seen.pid, seen.start_ticks)
    assert pidfd is not None
    assert procfs.send(pidfd, signal.SIGKILL)
    until(lambda: not procfs.alive(seen.pid, seen.start_ticks))
    assert process.wait(5) == -signal.SIGKILL
    assert not procfs.send(pidfd, signal.SIGKILL)
    os.close(pidfd)


def test_a_name_with_brackets_and_spaces_is_read(tmp_path: Path) -> None:
    program = tmp_path / "a) b (c"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as process:
        seen = until(lambda: procfs.stat(process.pid))
        assert seen.session == os.getsid(0)
        process.kill()


def test_a_session_is_found_after_its_leader_died() -> None:
    argv = ["/bin/sh", "-c", "sleep 600 & echo $!"]
    leader = subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE, text=True)
    seen = procfs.stat(leader.pid)
    assert seen is not None
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    leader.wait(5)
    leader.stdout.close()
    assert [member.pid for member in procfs.session_of(leader.pid, seen.start_ticks)] == [child]
    assert procfs.kill(procfs.session_of(leader.pid, seen.start_ticks)) == 1
    until(lambda: not procfs.session_of(leader.pid, seen.start_ticks))


def test_a_session_of_somebody_else_is_left_alone() -> None:
    with subprocess.Popen(["/bin/sleep", "600"], start_new_session=True) as leader:
        seen = procfs.stat(leader.pid)
        assert seen is not None
        assert procfs.session_of(leader.pid, seen.start_ticks)
        assert procfs.session_of(leader.pid, seen.start_ticks - 1) == []
        leader.kill()


def test_holders_of_a_file_are_found(tmp_path: Path) -> None:
    path = tmp_path / "line"
    with path.open("w") as file, subprocess.Popen(["/bin/sleep", "600"], pass_fds=(file.fileno(),)) as process:
        assert [holder.pid for holder in procfs.holders(path)] == [process.pid]
        process.kill()
        process.wait(5)
        assert procfs.holders(path) == []
    assert procfs.holders(tmp_path / "missing") == []


def test_who_listens_is_found_by_the_socket() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as server:
            port = server.getsockname()[1]
            found = procfs.listening(port)
            assert len(found) == 1
            assert found <= (procfs.sockets(os.getpid()) or set())
        assert procfs.listening(port) == set()
    assert procfs.sockets(2**22 - 1) == set()
