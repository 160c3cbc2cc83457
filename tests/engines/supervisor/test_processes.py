"""Declarations, records and ports in files; the supervisor has no part in this."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.engines.interface import Probe, ProcessSpec
from falaj.engines.supervisor.processes import (
    PORTS,
    FileProcesses,
    StateRecord,
    decode_spec,
    digest,
    encode_spec,
    write_record,
)
from falaj.errors import Conflict, Invalid, NotFound
from tests.postgres import free_port
from tests.sites import Site, sleeper, until

words = st.text(max_size=20)


@given(
    st.builds(
        ProcessSpec,
        name=words,
        argv=st.lists(words, min_size=1, max_size=5).map(tuple),
        environment=st.dictionaries(words, words, max_size=3),
        directory=st.none() | words,
        account=st.none() | words,
        probe=st.none() | st.builds(Probe, port=st.integers(1, 65535), path=st.none() | words),
        ports=st.lists(st.integers(1, 65535), max_size=3).map(tuple),
        order=st.integers(0, 100),
    )
)
def test_a_declaration_is_read_as_it_was_written(spec: ProcessSpec) -> None:
    assert decode_spec(encode_spec(spec)) == spec
    assert digest(encode_spec(spec)) != digest(encode_spec(replace(spec, order=spec.order + 1)))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"name": "a"}', b'{"name":"a","argv":[],"what":1}'])
def test_what_is_no_declaration_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_spec(content)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "A", "a" * 121, "-a", "a\n"])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    processes = FileProcesses(tmp_path)
    for call in (processes.observe, processes.delete):
        with pytest.raises(Invalid):
            call(name)
    with pytest.raises(Invalid):
        processes.create(sleeper(name))


def test_files_are_whole_and_private(tmp_path: Path) -> None:
    FileProcesses(tmp_path).create(sleeper("a"))
    (path,) = (tmp_path / "processes").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def record(spec: ProcessSpec, pid: int, start_ticks: int) -> StateRecord:
    return StateRecord(
        spec.name, "ready", pid, start_ticks, None, 0, "", 1.0, digest(encode_spec(spec)), "TERM", 1.0, 50
    )


def test_a_record_of_a_dead_process_is_never_shown_as_ready(site: Site) -> None:
    spec = sleeper("a")
    site.processes.create(spec)
    write_record(site.files.state / "a.json", record(spec, os.getpid(), 1))
    state = site.processes.observe("a")
    assert state is not None
    assert (state.ready, state.phase, state.pid) == (False, "backoff", None)


def test_what_runs_from_an_earlier_declaration_is_not_ready(running_site: Site) -> None:
    running_site.run(sleeper("a"))
    running_site.kill_keeper()
    running_site.kill_supervisor()
    running_site.processes.create(sleeper("a", environment={"NEW": "1"}))
    state = running_site.processes.observe("a")
    assert state is not None
    assert not state.ready


def test_a_damaged_record_is_as_good_as_none(site: Site) -> None:
    site.processes.create(sleeper("a"))
    (site.files.state / "a.json").write_text("{")
    state = site.processes.observe("a")
    assert state is not None
    assert state.phase == "starting"


# --- ports ---


def test_a_port_stays_with_its_purpose(tmp_path: Path) -> None:
    processes = FileProcesses(tmp_path)
    port = processes.allocate_port("a")
    assert port in PORTS
    assert processes.allocate_port("a") == port
    assert FileProcesses(tmp_path).port("a") == port
    assert processes.allocate_port("b") != port
    with pytest.raises(NotFound):
        processes.port("c")


def test_a_port_that_a_foreign_process_took_is_given_up_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    processes = FileProcesses(tmp_path)
    port = processes.allocate_port("a")
    with socket.create_server(("127.0.0.1", port)), caplog.at_level(logging.WARNING):
        assert processes.allocate_port("a") != port
    assert str(port) in caplog.text
    assert str(os.getpid()) in caplog.text


def test_a_port_that_our_own_process_listens_on_stays(running_site: Site) -> None:
    port = running_site.processes.allocate_port("web")
    argv = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    running_site.run(ProcessSpec("web", argv, probe=Probe(port, "/")))
    assert running_site.processes.allocate_port("web") == port
    assert running_site.processes.allocate_port("web", port) == port


def test_a_preferred_port_that_is_taken_names_who_has_it(tmp_path: Path) -> None:
    processes = FileProcesses(tmp_path)
    port = free_port()
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as foreign:
        until(lambda: not _free(port))
        with pytest.raises(Conflict, match=rf"port {port} is taken by process {foreign.pid} .*http\.server"):
            processes.allocate_port("gateway", port)
        foreign.terminate()
    assert processes.allocate_port("gateway", port) == port


def test_one_port_is_not_given_to_two_purposes(tmp_path: Path) -> None:
    processes = FileProcesses(tmp_path)
    port = free_port()
    processes.allocate_port("gateway", port)
    with pytest.raises(Conflict, match="gateway"):
        processes.allocate_port("s3", port)


def test_ports_asked_for_by_many_at_once_are_different(tmp_path: Path) -> None:
    with get_context("spawn").Pool(4) as pool:
        ports = pool.map(FileProcesses(tmp_path).allocate_port, [f"purpose-{number}" for number in range(12)])
    assert len(set(ports)) == 12
    assert sorted(json.loads((tmp_path / "ports.json").read_text()).values()) == sorted(ports)


def _free(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) != 0
