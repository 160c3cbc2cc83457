"""Replicas as processes: names, ports, and the key that workers ask for."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from falaj.engines.replicas import WorkerReplicas, replica_key, worker_threads
from falaj.engines.supervisor.processes import FileProcesses
from falaj.errors import Terminal


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "replica.key"
    key = replica_key(path)
    assert replica_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["replica.key"]


def test_processes_that_make_the_key_at_once_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "replica.key"
    code = (
        f"import pathlib; from falaj.engines import replicas; print(replicas.replica_key(pathlib.Path({str(path)!r})))"
    )
    racing = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(4)]
    keys = {process.communicate(timeout=60)[0] for process in racing}
    assert len(keys) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["replica.key"]


def test_a_cut_off_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replica.key"
    path.write_text("short")
    with pytest.raises(Terminal, match="shorter than 16"):
        replica_key(path)


def test_threads_are_bounded_by_the_processors() -> None:
    available = len(os.sched_getaffinity(0))
    assert worker_threads(None) == available
    assert worker_threads(1) == 1
    assert worker_threads(1000) == available


def test_engines_see_only_their_own_replicas(tmp_path: Path) -> None:
    processes = FileProcesses(tmp_path)
    chat, embeddings = (WorkerReplicas(processes, engine, tmp_path / "key") for engine in ("llamacpp", "e5"))
    chat.declare("system.qwen.0", ["--model", "x"])
    embeddings.declare("system.e5.0", [])
    assert (chat.list(), embeddings.list()) == (["system.qwen.0"], ["system.e5.0"])
    chat.delete("system.qwen.0")
    chat.delete("system.qwen.0")
    assert (chat.list(), embeddings.list()) == ([], ["system.e5.0"])


def test_the_key_is_not_in_the_declaration(tmp_path: Path) -> None:
    key = replica_key(tmp_path / "key")
    WorkerReplicas(FileProcesses(tmp_path), "e5", tmp_path / "key").declare("system.e5.0", [])
    assert all(key not in path.read_text() for path in (tmp_path / "processes").iterdir())
