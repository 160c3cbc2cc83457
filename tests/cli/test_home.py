"""The folder of a region: private secrets, one worker at a time, and what its processes see of the settings."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from falaj.cli import home
from falaj.errors import Denied, Invalid
from falaj.settings import Settings, load


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load(home=tmp_path / "home")


def test_secrets_are_private_kept_and_of_the_right_form(settings: Settings) -> None:
    home.make(settings)
    files = {path.name: path for path in settings.secrets_dir.iterdir()}
    assert set(files) == {"admin.key", "key-hash.key", "postgres.password", "s3-admin.json"}
    assert settings.secrets_dir.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files.values())
    assert re.fullmatch(r"flj_[a-z2-7]{12}_[a-z2-7]{52}\n", files["admin.key"].read_text())
    before = {name: path.read_bytes() for name, path in files.items()}
    home.make(settings)
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_a_secret_that_is_missing_is_made_and_the_others_stay(settings: Settings) -> None:
    home.make(settings)
    kept = (settings.secrets_dir / "admin.key").read_bytes()
    (settings.secrets_dir / "s3-admin.json").unlink()
    home.make(settings)
    assert (settings.secrets_dir / "s3-admin.json").exists()
    assert (settings.secrets_dir / "admin.key").read_bytes() == kept


def test_a_file_in_the_place_of_the_folder_is_told(settings: Settings) -> None:
    settings.home.write_text("not a folder")
    with pytest.raises(Invalid, match="is not a folder") as caught:
        home.make(settings)
    assert "--home" in caught.value.hint


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Root may write anywhere but where nothing can be written."""
    with pytest.raises(Denied, match="cannot be written") as caught:
        home.make(load(home=Path("/proc/falaj-home")))
    assert "--home" in caught.value.hint


def test_only_one_works_at_a_time_and_the_other_says_that_it_waits(settings: Settings) -> None:
    settings.home.mkdir()
    code = (
        "import sys, time; from pathlib import Path; from falaj.cli import home; from falaj.settings import load\n"
        f"with home.locked(load(home=Path({str(settings.home)!r})), lambda: None):\n"
        "    print('locked', flush=True); sys.stdin.readline()\n"
    )
    waited = threading.Event()
    got = threading.Event()

    def second() -> None:
        with home.locked(settings, waited.set):
            got.set()

    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == b"locked\n"
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(5)
        assert not got.is_set()
        first.stdin.write(b"\n")
        first.stdin.close()
        assert got.wait(5)
        thread.join()


def test_processes_see_every_setting_with_absolute_paths(settings: Settings, tmp_path: Path) -> None:
    changed = settings.model_copy(update={"models_dir": Path("models"), "port": 8000})
    environment = home.environment(changed)
    assert environment["FALAJ_MODELS_DIR"] == str(tmp_path / "models")
    assert environment["FALAJ_PORT"] == "8000"
    assert "FALAJ_MODEL_FILES_DIR" not in environment
    assert set(environment) <= {f"FALAJ_{name.upper()}" for name in Settings.model_fields}


def test_nobody_answering_is_no_readiness(settings: Settings) -> None:
    assert home.readiness(settings.model_copy(update={"port": 1})) is None
