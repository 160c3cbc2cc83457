from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from falaj.cli.apply import FILES_MAX, declare, read_manifests, with_project
from falaj.cli.session import Session
from falaj.errors import FalajError, Invalid, LimitExceeded, NotFound
from falaj.region.manifest import parse
from tests.cli.scripted import answer, scripted
from tests.cli.test_session import KINDS

ONE = "apiVersion: falaj/v1\nkind: Project\nmetadata: {name: %s}\n"


def names(manifests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [manifest["metadata"]["name"] for _, manifest in manifests]


def test_folders_are_searched_through_in_order(tmp_path: Path) -> None:
    for name, folder in (("b.yaml", "x"), ("a.yml", "x"), ("c.json", "."), (".hidden.yaml", "."), ("d.txt", ".")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(ONE % name[0])
    (tmp_path / "c.json").write_text('{"kind": "Project",\t"metadata": {"name": "c"}}')
    assert names(read_manifests([str(tmp_path)])) == ["c", "a", "b"]


def test_several_sources_and_stdin_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.anything").write_text(ONE % "a" + "---\n" + ONE % "a2")
    read = read_manifests(["-", str(tmp_path / "a.anything")], stdin=io.BytesIO((ONE % "s").encode()))
    assert names(read) == ["s", "a", "a2"]
    assert [where.removeprefix(str(tmp_path) + "/") for where, _ in read] == ["stdin:1", "a.anything:1", "a.anything:5"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no manifest"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe\xff", "UTF-8"),
        (b"- a", "mapping"),
        (b"&a [*a]", "mapping|alias"),
    ],
)
def test_what_is_no_manifest_is_told_with_its_file(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(Invalid, match=words) as raised:
        read_manifests([str(path)])
    assert "wrong.yaml" in raised.value.where


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(NotFound, match=r"nothing\.yaml"):
        read_manifests(["nothing.yaml"])


def test_a_folder_without_manifests(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no manifest"):
        read_manifests([str(tmp_path)])


def test_ten_megabytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"a: " + b"x" * (10 << 20))
    with pytest.raises(LimitExceeded, match="1 MiB"):
        read_manifests([str(path)])
    with pytest.raises(LimitExceeded):
        read_manifests(["-"], stdin=path.open("rb"))


def test_too_many_files(tmp_path: Path) -> None:
    for number in range(FILES_MAX + 1):
        (tmp_path / f"{number}.yaml").touch()
    with pytest.raises(LimitExceeded, match=str(FILES_MAX)):
        read_manifests([str(tmp_path)])


def located(*rows: tuple[str, str, str | None]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (where, {"kind": kind, "metadata": {"name": "n"} | ({"project": project} if project else {})})
        for where, kind, project in rows
    ]


def test_the_project_fills_gaps_and_contradicts_nobody() -> None:
    manifests = located(("f:1", "Project", None), ("f:2", "KnowledgeBase", None), ("f:3", "KnowledgeBase", "p"))
    with scripted(answer(200, KINDS)) as server:
        filled = with_project(Session(url=server.url, project="p"), manifests)
        assert [manifest["metadata"].get("project") for _, manifest in filled] == [None, "p", "p"]
        with pytest.raises(Invalid) as raised:
            with_project(Session(url=server.url, project="q"), manifests)
    assert raised.value.where == "f:3"
    assert with_project(Session(), manifests) == manifests


def test_errors_of_the_region_speak_of_the_persons_files() -> None:
    manifests = located(("a.yaml:1", "Project", None), ("b.yaml:7", "Bucket", "p"))
    error = {"code": "Invalid", "message": "2 were refused: body:2: no", "where": "body:2: spec.sise", "hint": "size?"}
    with scripted(answer(400, {"error": error})) as server, pytest.raises(FalajError) as raised:
        declare(Session(url=server.url), manifests)
    assert raised.value.where == "b.yaml:7: spec.sise"
    assert "b.yaml:7: no" in raised.value.message


def test_what_is_sent_is_what_was_written() -> None:
    text = 'tab\t\x7f"\u2028 \\ مرحبا \U0001f600 # no: comment'
    with scripted(answer(200, {"results": []})) as server:
        declare(Session(url=server.url), [("f", {"spec": {"text": text, "yes": "no", "n": 1.5, "x": None, "t": True}})])
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert [dict(m) for m in parse(body, where="body")] == [
        {"spec": {"text": text, "yes": "no", "n": 1.5, "x": None, "t": True}}
    ]
    assert b"application/yaml" in head
