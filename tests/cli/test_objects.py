from __future__ import annotations

import os
from pathlib import Path

import pytest

from falaj.cli.objects import KEY_BYTES_MAX, check_key, content_type, uploads
from falaj.errors import Invalid, NotFound
from tests.cli.scripted import answer, scripted
from tests.cli.terminal import environment, run

KINDS = answer(200, {"items": [{"name": "Bucket", "plural": "buckets", "scope": "project", "short": []}]})


def test_keys_are_paths_inside_the_folder(tmp_path: Path) -> None:
    for name in ("en/a.md", "ar/دليل.md", ".git/config", "en/.DS_Store", "b c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = uploads([str(tmp_path), str(tmp_path / "en" / "a.md")], "p/")
    assert [upload.key for upload in found] == ["p/a.md", "p/ar/دليل.md", "p/b c.txt", "p/en/a.md"]
    assert {upload.size_bytes for upload in found} == {1}


def test_two_files_do_not_become_one_object(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.md").touch()
    with pytest.raises(Invalid, match=r"same\.md"):
        uploads([str(tmp_path / "a"), str(tmp_path / "b")], "")


def test_nothing_to_put(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        uploads([str(tmp_path / "nothing")], "")
    with pytest.raises(NotFound):
        uploads([str(tmp_path)], "")


@pytest.mark.parametrize("key", ["", ".", "..", "a/../b", "a/.", "x" * (KEY_BYTES_MAX + 1), "a\0", "\udcff"])
def test_wrong_keys(key: str) -> None:
    with pytest.raises(Invalid):
        check_key(key, where="x")


def test_a_prefix_cannot_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(Invalid):
        uploads([str(tmp_path / "a")], "../")


def test_media_types_do_not_depend_on_the_machine() -> None:
    assert [content_type(Path(name)) for name in ("a.md", "A.PDF", "a.html", "a", "a.unknown")] == [
        "text/markdown",
        "application/pdf",
        "text/html",
        "application/octet-stream",
        "application/octet-stream",
    ]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    env = environment(tmp_path, FALAJ_API_KEY="k", FALAJ_PROJECT="p")
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"
    target = tmp_path / "out"
    target.mkdir()
    with scripted(KINDS, cut) as server:
        told = run("objects", "get", "a/b.md", "-b", "d", "-o", str(target), "--url", server.url, env=env)
    assert told.returncode == 7
    assert os.listdir(target) == []
    with scripted(KINDS, answer(200, b"whole"), KINDS, answer(200, b"whole")) as server:
        arguments = ["objects", "get", "a/b.md", "-b", "d", "-o", str(target), "--url", server.url]
        assert run(*arguments, env=env).returncode == 0
        assert (target / "b.md").read_bytes() == b"whole"
        assert run(*arguments, env=env).returncode == 5, "an existing file is not replaced"
        assert run(*arguments, "--force", env=env).returncode == 0
    with scripted(KINDS, answer(200, b"\x00\xff")) as server:
        told = run("objects", "get", "a/b.md", "-b", "d", "-o", "-", "--url", server.url, env=env)
    assert told.stdout == b"\x00\xff"
