"""The hub source against a real HTTP server that breaks off, lies and redirects."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from falaj.errors import FalajError, Invalid, LimitExceeded, NotFound, Transient
from falaj.services.models import hub as hub_source
from falaj.services.models.kinds import HubSource
from falaj.services.models.transfer import Progress, Transfer
from tests.postgres import free_port
from tests.services.models.sources import CONTENT, HUB_PATH, Hub


def fetch(hub: Hub, tmp_path: Path, *, size_bytes: int | None = len(CONTENT)) -> Transfer:
    transfer = Transfer(tmp_path / "tiny.part", size_bytes, Progress())
    hub_source.fetch(hub.url + HUB_PATH, transfer)
    return transfer


def test_the_address_names_repository_revision_and_file() -> None:
    source = HubSource(repository="Qwen/Model-GGUF", file="folder/model.gguf", revision="abc")
    assert (
        hub_source.address("https://hub.example/", source)
        == "https://hub.example/Qwen/Model-GGUF/resolve/abc/folder/model.gguf"
    )


def test_the_file_comes_whole(hub: Hub, tmp_path: Path) -> None:
    transfer = fetch(hub, tmp_path)
    assert transfer.part.read_bytes() == CONTENT
    assert transfer.progress.bytes_done == transfer.progress.bytes_total == len(CONTENT)


def test_a_redirect_is_followed_with_the_range(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny.part").write_bytes(CONTENT[:1000])
    hub.redirects = 2
    assert fetch(hub, tmp_path).part.read_bytes() == CONTENT
    assert hub.asked == ["bytes=1000-"]


def test_a_connection_that_is_cut_is_continued_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [1_200_000, 700_000]
    assert fetch(hub, tmp_path).part.read_bytes() == CONTENT
    assert hub.asked[0] is None
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in hub.asked[1:] if asked]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1]


def test_a_hub_without_ranges_is_read_from_the_start(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny.part").write_bytes(CONTENT[:1000])
    hub.ranges = False
    assert fetch(hub, tmp_path).part.read_bytes() == CONTENT


def test_a_hub_that_continues_at_another_byte_is_not_believed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny.part").write_bytes(CONTENT[:1000])
    hub.shift = 5
    assert fetch(hub, tmp_path).part.read_bytes() == CONTENT
    assert hub.asked == ["bytes=1000-", None]


def test_what_is_longer_than_the_hubs_file_is_thrown_away(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "tiny.part").write_bytes(CONTENT + b"more")
    assert fetch(hub, tmp_path, size_bytes=None).part.read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_another_size_is_refused_before_anything_is_read(hub: Hub, tmp_path: Path, announced: int) -> None:
    hub.announced = announced
    with pytest.raises(Invalid, match=f"has {announced} bytes; the model has {len(CONTENT)}"):
        fetch(hub, tmp_path)
    assert not (tmp_path / "tiny.part").exists()


def test_a_hub_that_promises_more_than_it_sends_is_given_up(hub: Hub, tmp_path: Path) -> None:
    hub.announced = len(CONTENT) + 1000
    hub.cuts = [len(CONTENT)]
    with pytest.raises(Transient, match=f"after {len(CONTENT)} bytes"):
        fetch(hub, tmp_path, size_bytes=None)


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [(404, NotFound, "404"), (401, NotFound, "not for everybody"), (503, Transient, "503"), (500, Transient, "500")],
)
def test_refusals_say_the_status(hub: Hub, tmp_path: Path, status: int, error: type[FalajError], says: str) -> None:
    hub.status = status
    with pytest.raises(error, match=says):
        fetch(hub, tmp_path)


def test_nobody_there_is_transient_and_quick(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(Transient, match="refused"):
        fetch(Hub(url=f"http://127.0.0.1:{free_port()}"), tmp_path)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("url", ["ftp://hub", "hub.example", "file:///etc"])
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not an address"):
        fetch(Hub(url=url), tmp_path)


def test_a_file_larger_than_the_disk_is_refused_before_it_is_read(hub: Hub, tmp_path: Path) -> None:
    hub.announced = 1 << 39
    with pytest.raises(LimitExceeded, match="bytes free; the model needs"):
        fetch(hub, tmp_path, size_bytes=None)


def test_it_stops_when_asked_to(hub: Hub, tmp_path: Path) -> None:
    transfer = Transfer(tmp_path / "tiny.part", len(CONTENT), Progress())
    transfer.progress.stop.set()
    with pytest.raises(Transient, match="stopped"):
        hub_source.fetch(hub.url + HUB_PATH, transfer)
