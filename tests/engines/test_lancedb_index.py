"""LanceDB itself: damage, absence, growth, memory, and what is imported when."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from falaj.engines import lancedb_index
from falaj.engines.interface import Chunk, IndexDamaged, S3Credentials
from falaj.engines.lancedb_index import LanceIndex, storage_options
from falaj.errors import LimitExceeded, Transient
from falaj.services.knowledge.normalise import terms
from tests.postgres import free_port

VECTOR = [1.0, 0.0, 0.0, 0.0]


def piece(document: str, text: str, language: str = "ar") -> Chunk:
    return Chunk(document, language, "", 0, len(text), text, terms(text), VECTOR)


@pytest.fixture
async def index(tmp_path: Path) -> LanceIndex:
    made = LanceIndex(str(tmp_path))
    await made.create("p.kb", 4)
    return made


async def fill(index: LanceIndex) -> None:
    for number in range(100):
        await index.replace_document("p.kb", "big", [piece("big", f"نص {number} " * 20_000)])


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / "p.kb.lance").glob(pattern))


async def test_arabic_words_are_found_under_their_prefixes(index: LanceIndex) -> None:
    await index.replace_document("p.kb", "a", [piece("a", "يعمل الموقعان معًا وبالموقعِ خزّانات")])
    await index.replace_document("p.kb", "b", [piece("b", "السماء صافية اليوم")])
    for asked in ("موقع", "المَوْقِع", "والموقع"):
        hits = await index.search_text("p.kb", terms(asked), limit=2, language="ar")
        assert hits[0].document == "a", asked


@pytest.mark.parametrize("broken", ["data/*", "_versions/*"])
async def test_a_damaged_index_says_so_and_can_be_deleted(index: LanceIndex, tmp_path: Path, broken: str) -> None:
    await index.replace_document("p.kb", "a", [piece("a", "text")])
    for path in files(tmp_path, broken):
        path.write_bytes(b"garbage")
    fresh = LanceIndex(str(tmp_path))
    with pytest.raises(IndexDamaged) as caught:
        await fresh.search_vector("p.kb", VECTOR, limit=3)
    assert "rebuilt" in caught.value.hint
    assert ".rs" not in caught.value.message
    await fresh.delete("p.kb")
    await fresh.create("p.kb", 4)
    await fresh.replace_document("p.kb", "a", [piece("a", "text")])
    assert await fresh.observe("p.kb") == 1


async def test_an_absent_store_is_transient_and_soon(tmp_path: Path) -> None:
    index = LanceIndex("s3://system.index", S3Credentials(f"http://127.0.0.1:{free_port()}", "key", "secret"))
    began = time.monotonic()
    with pytest.raises(Transient):
        await index.observe("p.kb")
    assert time.monotonic() - began < 20
    with pytest.raises(Transient):
        await index.search_vector("p.kb", VECTOR, limit=3)


async def test_a_full_disk_is_a_limit_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, timeout=10, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        index = LanceIndex(str(folder))
        await index.create("p.kb", 4)
        await index.replace_document("p.kb", "good", [piece("good", "كلمة طيبة")])
        with pytest.raises(LimitExceeded):
            await fill(index)
        assert [hit.document for hit in await index.search_text("p.kb", terms("طيبة"), limit=1)] == ["good"]
    finally:
        subprocess.run(["umount", "-l", folder], timeout=10, check=True)


async def test_versions_do_not_pile_up(index: LanceIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        await index.replace_document("p.kb", "a", [piece("a", f"نص رقم {number}")])
    many = len(files(tmp_path, "_versions/*")), len(files(tmp_path, "data/*"))
    assert many[0] > 20
    await index.optimise("p.kb")
    assert len(files(tmp_path, "_versions/*")) >= many[0], "versions of the last minutes stay, for those who read them"
    monkeypatch.setattr(lancedb_index, "_VERSIONS_KEPT", timedelta(microseconds=1))
    await index.optimise("p.kb")
    assert len(files(tmp_path, "_versions/*")) <= 3
    assert len(files(tmp_path, "data/*")) <= 3
    assert await index.observe("p.kb") == 1


def test_nothing_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys; from falaj.engines.lancedb_index import LanceIndex; LanceIndex('/tmp/none');"
        "print([name for name in ('lancedb', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


def test_memory_stays_bounded_over_many_searches(tmp_path: Path) -> None:
    """Measured in a process of its own: searching for long must not cost more than searching once."""
    script = """
import asyncio, sys
from falaj.engines.interface import Chunk
from falaj.engines.lancedb_index import LanceIndex
def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096
async def main():
    index = LanceIndex(sys.argv[1])
    await index.create('p.kb', 384)
    for number in range(30):
        await index.replace_document('p.kb', f'd{number}', [
            Chunk(f'd{number}', 'en', '', i, i + 5, 'words', f'some words {i}', [0.01 * i] * 384)
            for i in range(1, 21)])
    await index.optimise('p.kb')
    async def search(times):
        for _ in range(times):
            await index.search_vector('p.kb', [0.1] * 384, limit=50, language='en')
            await index.search_text('p.kb', 'some words', limit=50, language='en')
    await search(100)
    before = resident()
    await search(400)
    print(resident() - before)
asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=200, check=True
    )
    assert int(run.stdout.split()[-1]) < 24 << 20


def test_storage_options_name_the_region() -> None:
    options = storage_options(S3Credentials("http://127.0.0.1:1", "a", "b"))
    assert options["region"]
    assert options["virtual_hosted_style_request"] == "false"
