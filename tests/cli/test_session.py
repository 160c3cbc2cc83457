from __future__ import annotations

from pathlib import Path

import pytest

from falaj.cli.session import KindInfo, Reference, Session
from falaj.errors import Denied, FalajError, Invalid, NotFound
from tests.cli.scripted import answer, scripted

KINDS = {
    "items": [
        {"name": "Project", "plural": "projects", "scope": "region", "short": []},
        {"name": "KnowledgeBase", "plural": "knowledgebases", "scope": "project", "short": ["kb"]},
    ]
}
KB = KindInfo("KnowledgeBase", "knowledgebases", "project", ("kb",))


def item(project: str, name: str) -> dict[str, object]:
    return {"metadata": {"project": project, "name": name}}


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FALAJ_URL", "FALAJ_API_KEY", "FALAJ_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FALAJ_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_the_address_comes_from_the_flag_then_the_environment_then_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Session().url == "http://127.0.0.1:7440"
    monkeypatch.setenv("FALAJ_PORT", "8000")
    assert Session().url == "http://127.0.0.1:8000"
    monkeypatch.setenv("FALAJ_URL", "http://a:1")
    assert Session().url == "http://a:1"
    assert Session(url="http://b:2").url == "http://b:2"


def key_sent(session: Session) -> str:
    return str(session.client._headers.get("Authorization", "")).removeprefix("Bearer ")


def test_the_key_comes_from_the_flag_then_the_environment_then_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert key_sent(Session()) == "", "no region was made here: the call will say so"
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "admin.key").write_text("flj_admin_1\n")
    assert key_sent(Session()) == "flj_admin_1"
    assert key_sent(Session(url="http://localhost:9000")) == "flj_admin_1"
    monkeypatch.setenv("FALAJ_API_KEY", "flj_env_1")
    assert key_sent(Session()) == "flj_env_1"
    (tmp_path / "file").write_text("flj_file_1")
    assert key_sent(Session(key_file=tmp_path / "file")) == "flj_file_1"


def test_the_administrators_key_stays_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "admin.key").write_text("flj_admin_1\n")
    assert key_sent(Session(url="https://region.example")) == ""
    assert key_sent(Session(url="http://127.0.0.1.example:7440")) == ""


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", b"k" * 5000, b"a\nb"])
def test_a_file_that_holds_no_key_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Invalid) as raised:
        _ = Session(key_file=tmp_path / "file").client
    assert "flj_" in raised.value.hint


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        _ = Session(key_file=tmp_path / "nothing").client
    with pytest.raises((Invalid, Denied)):
        _ = Session(key_file=tmp_path).client


@pytest.mark.parametrize("word", ["KnowledgeBase", "knowledgebase", "knowledgebases", "KB", "kb"])
def test_a_kind_has_many_words(word: str) -> None:
    with scripted(answer(200, KINDS)) as server:
        assert Session(url=server.url).kind(word) == KB


def test_a_wrong_kind_offers_the_nearest() -> None:
    with scripted(answer(200, KINDS)) as server, pytest.raises(Invalid) as raised:
        Session(url=server.url).kind("KnowlegeBase")
    assert "'KnowledgeBase'" in raised.value.hint


@pytest.mark.parametrize("text", ["kb", "kb/", "/a", "kb/a/b/c", "", "kb//a", "project/a/b"])
def test_what_names_no_resource_is_refused(text: str) -> None:
    with scripted(answer(200, KINDS)) as server, pytest.raises(Invalid):
        Session(url=server.url).reference(text)


def test_the_project_is_the_only_one_that_has_it() -> None:
    one = answer(200, {"items": [item("a", "x"), item("b", "y")], "next": ""})
    with scripted(answer(200, KINDS), one) as server:
        session = Session(url=server.url)
        assert str(session.reference("kb/x")) == "KnowledgeBase/a/x"
        assert session.reference("kb/x").path == "/falaj/v1/projects/a/knowledgebases/x"
        assert str(session.reference("kb/c/x")) == "KnowledgeBase/c/x"
        with pytest.raises(NotFound):
            session.reference("kb/z")
    two = answer(200, {"items": [item("a", "x"), item("b", "x")], "next": ""})
    with scripted(answer(200, KINDS), two) as server:
        with pytest.raises(Invalid, match="a, b") as raised:
            Session(url=server.url).reference("kb/x")
        assert "-p PROJECT" in raised.value.hint
        assert str(Session(url=server.url, project="b").owner(KB, "x")) == "b"


def test_the_only_project_is_the_one_besides_system() -> None:
    kinds = answer(200, KINDS)

    def projects(*names: str) -> bytes:
        return answer(200, {"items": [{"metadata": {"name": name}} for name in names], "next": ""})

    with scripted(kinds, projects("mine", "system")) as server:
        assert Session(url=server.url).only_project() == "mine"
    for names in (("system",), ("a", "b", "system")):
        with scripted(kinds, projects(*names)) as server, pytest.raises(FalajError):
            Session(url=server.url).only_project()


def test_a_list_is_read_page_by_page() -> None:
    pages = [{"items": [item("a", "x")], "next": "a/x"}, {"items": [item("a", "y")], "next": ""}]
    with scripted(*(answer(200, page) for page in pages)) as server:
        found = list(Session(url=server.url).list(KB, labels=["t=1"]))
        assert [row["metadata"]["name"] for row in found] == ["x", "y"]
        assert server.lines[1] == "GET /falaj/v1/knowledgebases?label=t%3D1&limit=500&after=a%2Fx HTTP/1.1"


def test_a_reference_of_region_scope_has_no_project() -> None:
    reference = Reference(KindInfo("Model", "models", "region"), "", "m")
    assert (str(reference), reference.path) == ("Model/m", "/falaj/v1/models/m")
