"""``falaj logs`` and what ``down`` asks; a real region goes up and down in tests/scenarios/test_up_down.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sites import Region


@pytest.fixture
def region() -> Region:
    """A region's folder with two logs and nothing that runs."""
    made = Region()
    logs = made.home / "sites" / "local-a" / "logs"
    logs.mkdir(parents=True)
    (logs.parent / "processes").mkdir()
    (logs / "gateway.log").write_text("".join(f"line {number}\n" for number in range(300)))
    (logs / "postgres.log").write_text("ready\n")
    return made


def test_logs_shows_the_last_lines_of_one_or_of_all(region: Region) -> None:
    assert region.falaj("logs", "gateway", "-n", "2") == "line 298\nline 299\n"
    assert region.falaj("logs", "gateway").count("\n") == 100
    assert region.falaj("logs", "-n", "1").splitlines() == ["gateway   line 299", "postgres  ready"]


def test_logs_in_json_has_a_line_for_each(region: Region) -> None:
    lines = region.falaj("logs", "-n", "1", "--json").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"process": "gateway", "line": "line 299"},
        {"process": "postgres", "line": "ready"},
    ]


def test_logs_follows(region: Region) -> None:
    log = region.home / "sites" / "local-a" / "logs" / "gateway.log"
    with region.popen("logs", "gateway", "-f", "-n", "1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "line 299\n"
        with log.open("a") as writer:
            writer.write("and more\n")
        assert process.stdout.readline() == "and more\n"
        process.terminate()


def test_a_wrong_name_offers_the_nearest(region: Region) -> None:
    assert "did you mean 'gateway'" in region.falaj("logs", "gatway", code=3)


def test_where_there_is_no_region_logs_says_so_and_down_is_done(tmp_path: Path) -> None:
    region = Region()
    assert "falaj up" in region.falaj("logs", code=3)
    assert "nothing runs" in region.falaj("down")
    assert json.loads(region.falaj("down", "--json")) == {"stopped": False, "deleted": False}
    assert not region.home.exists()


def test_deleting_data_wants_a_word_where_nobody_can_be_asked(region: Region) -> None:
    assert "--yes" in region.falaj("down", "--delete-data", code=2)
    assert (region.home / "sites" / "local-a" / "logs" / "gateway.log").exists()


@pytest.mark.parametrize("option", [["--port", "0"], ["--site", "UPPER"], ["--jurisdiction", "nowhere"]])
def test_a_wrong_setting_is_told_before_anything_is_made(option: list[str]) -> None:
    region = Region()
    assert option[0] in region.falaj("up", *option, code=2)
    assert not region.home.exists()


def test_help_does_not_import_what_it_does_not_need() -> None:
    code = "import sys, falaj.cli.local; print([m for m in ('boto3', 'psycopg', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"
