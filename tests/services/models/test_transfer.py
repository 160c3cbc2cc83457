from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from falaj.errors import LimitExceeded, Transient
from falaj.services.models.transfer import Progress, Transfer, disk_errors


def test_room_counts_what_is_there_already(tmp_path: Path) -> None:
    transfer = Transfer(tmp_path / "a.part", None, Progress())
    free = shutil.disk_usage(tmp_path).free
    transfer.require_room(1000)
    with pytest.raises(LimitExceeded, match=r"has \d+ bytes free; the model needs \d+") as caught:
        transfer.require_room(free + 1000)
    assert "models_dir" in caught.value.hint


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_limit(tmp_path: Path, number: int) -> None:
    with pytest.raises(LimitExceeded, match="became full"), disk_errors(tmp_path):
        raise OSError(number, "no room")


def test_other_errors_of_the_system_name_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(Transient) as caught, disk_errors(tmp_path):
        missing.read_bytes()
    assert caught.value.where == str(missing)
