"""Settings come from flags, the environment and files, in that order; a wrong one is named."""

from pathlib import Path

import pytest

from falaj.errors import Invalid
from falaj.settings import Settings, load


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the person's who runs the tests, and a current folder of our own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FALAJ_{name.upper()}", raising=False)
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FALAJ_HOME", str(tmp_path / "home"))


def test_defaults_listen_on_loopback_alone() -> None:
    settings = load()
    assert (settings.host, settings.port, settings.s3_port) == ("127.0.0.1", 7440, 7441)
    assert settings.url == "http://127.0.0.1:7440"


def test_the_first_source_that_says_it_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "home" / "falaj.toml").write_text("port = 1\nregion = 'home'\nsite = 'home'\njurisdiction = 'FR'\n")
    assert (load().port, load().jurisdiction) == (1, "FR")
    (tmp_path / "here" / "falaj.toml").write_text("port = 2\nregion = 'here'\nsite = 'here'\n")
    monkeypatch.setenv("FALAJ_PORT", "3")
    monkeypatch.setenv("FALAJ_REGION", "environment")
    settings = load(port=4, region=None)
    assert (settings.port, settings.region, settings.site, settings.jurisdiction) == (4, "environment", "here", "FR")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 5", "did you mean 'port'"),
        ("port = 'many'", "port"),
        ("port = 70000", "port"),
        ("jurisdiction = 'uae'", "jurisdiction"),
        ("port = ", "not TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "here" / "falaj.toml").write_text(text)
    with pytest.raises(Invalid) as refused:
        load()
    assert says in str(refused.value)


def test_folders_follow_home(tmp_path: Path) -> None:
    settings = load(home=tmp_path / "other", site="b")
    assert settings.site_dir == tmp_path / "other" / "sites" / "b"
    assert settings.secrets_dir == tmp_path / "other" / "secrets"
    assert settings.models_path == tmp_path / "other" / "models"
    assert load(models_dir=tmp_path).models_path == tmp_path


def test_a_home_that_is_relative_becomes_absolute(tmp_path: Path) -> None:
    assert load(home=Path("state")).home == tmp_path / "here" / "state"


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:7440"), ("::", "http://127.0.0.1:7440"), ("::1", "http://[::1]:7440")],
)
def test_the_url_is_one_that_this_machine_reaches(host: str, url: str) -> None:
    assert load(host=host).url == url
