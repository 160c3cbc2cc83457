from __future__ import annotations

import json
from pathlib import Path

import pytest

from falaj.cli.about import ENVIRONMENT
from falaj.settings import Settings
from tests.cli.terminal import environment, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path / "home")


def settings(*arguments: str, env: dict[str, str], cwd: Path) -> dict[str, tuple[object, str]]:
    told = run("settings", "--json", *arguments, env=env, cwd=cwd)
    assert told.returncode == 0, told.stderr
    return {row["name"]: (row["value"], row["source"]) for row in json.loads(told.stdout)["items"]}


def test_each_setting_says_where_it_came_from(env: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    (home / "falaj.toml").write_text("port = 1\nregion = 'home'\nsite = 'home-a'\n")
    (here / "falaj.toml").write_text("port = 2\nregion = 'here'\n")
    found = settings(env={**env, "FALAJ_PORT": "3", "falaj_log_level": "debug"}, cwd=here)
    assert found["port"] == (3, "FALAJ_PORT")
    assert found["log_level"] == ("debug", "falaj_log_level")
    assert found["region"] == ("here", str(here / "falaj.toml"))
    assert found["site"] == ("home-a", str(home / "falaj.toml"))
    assert found["host"] == ("127.0.0.1", "default")
    assert found["home"] == (str(home), "FALAJ_HOME")
    assert settings("--home", str(tmp_path), env=env, cwd=here)["home"] == (str(tmp_path), "--home")


def test_a_table_for_people(env: dict[str, str], tmp_path: Path) -> None:
    told = run("settings", env=env, cwd=tmp_path)
    assert "request_bytes_max" in told.stdout.decode()
    assert "default" in told.stdout.decode()


def test_the_version(env: dict[str, str]) -> None:
    assert run("version", env=env).stdout.startswith(b"falaj 0.")
    assert set(json.loads(run("version", "--json", env=env).stdout)) == {"version"}


def test_the_guide_lists_every_setting_with_its_default() -> None:
    guide = (ROOT / "docs/guides/settings.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in guide.splitlines() if line.startswith("| `")}
    fields = Settings.model_fields
    assert set(rows) == {*fields, *ENVIRONMENT}
    for name, field in fields.items():
        if name != "home":
            default = field.get_default(call_default_factory=True, validated_data={})
            shown = "" if default is None else f"`{default}`"
            assert rows[name].split("|")[2].strip() == shown, f"{name}: the default is {default}"
