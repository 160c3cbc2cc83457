"""What is searchable follows what is in the bucket: new, changed, removed, broken, and an index that was lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from falaj.region.resource import Key, Resource
from falaj.services.knowledge.ingestion import text_key
from falaj.services.storage.objects import INDEX_BUCKET, TEXTS_BUCKET
from tests.services.knowledge.conftest import Library
from tests.services.reconciling import Check, reconciling, set_status, until, until_gone

DATA = Path(__file__).parents[2] / "data"
WATER = "# Water\n\nThe channel serves forty-two farms.\n\n## Turns\n\nA turn lasts seven days.\n"


def settled(documents: int, failed: int = 0) -> Check:
    def check(resource: Resource) -> bool:
        status = resource.status
        counts = (status.documents, status.documents_ready, status.documents_failed)
        return bool(status.ready) and counts == (documents, documents - failed, failed)

    return check


def because(reason: str) -> Check:
    return lambda resource: (condition := resource.status.condition()) is not None and condition.reason == reason


async def test_documents_come_change_and_go(library: Library) -> None:
    await library.put("en/water.md", WATER)
    await library.put("ar/ماء.md", "# الماء\n\nيخدم الفلج اثنتين وأربعين مزرعة.\n")
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        done = await until(library.store, library.key, settled(2))
        assert done.status.chunks == 3
        (hit,) = await library.index.search_text(library.index_name, "forty two farms", limit=1, language="en")
        assert (hit.document, hit.heading) == ("docs/en/water.md", "Water")

        await library.put("en/water.md", f"{WATER}\n## Repairs\n\nIn March.\n")
        await library.store.touch(library.key)
        await until(library.store, library.key, lambda resource: resource.status.chunks == 4)
        (hit,) = await library.index.search_text(library.index_name, "march", limit=1)
        assert hit.heading == "Water › Repairs"

        await library.objects.delete(f"{library.project}.docs", "en/water.md")
        await library.store.touch(library.key)
        await until(library.store, library.key, settled(1))
        assert await library.index.observe(library.index_name) == 1
        assert await library.objects.observe_object(TEXTS_BUCKET, text_key(library.key, "docs/en/water.md")) is None


async def test_broken_documents_fail_with_a_reason_and_the_others_go_on(library: Library) -> None:
    good = ["water-en.pdf", "water-ar.pdf"]
    broken = {
        "corrupt.pdf": "Corrupt", "encrypted.pdf": "Encrypted", "empty.pdf": "Empty", "scan.pdf": "NoText",
        "picture.png": "UnsupportedType", "binary.md": "NotText", "blank.txt": "Empty", "huge.txt": "TooLarge",
    }  # fmt: skip
    contents = {
        "picture.png": b"\x89PNG",
        "binary.md": bytes(range(64)),
        "blank.txt": b"\n",
        "huge.txt": b"x" * 200_001,
    }
    for name in [*good, *broken]:
        await library.put(name, contents[name] if name in contents else (DATA / name).read_bytes())
    await library.declare(document_bytes_max=200_000)
    async with reconciling(library.database, library.store, library.controller):
        done = await until(library.store, library.key, settled(10, failed=8))
        assert done.status.condition().reason == "IndexedWithFailures"
        assert await library.documents() == {
            **dict.fromkeys(good, ("ready", "")),
            **{name: ("failed", reason) for name, reason in broken.items()},
        }
        failures = [event for event in await library.store.events(key=library.key) if event.reason == "DocumentFailed"]
        assert len(failures) == 8
        await library.store.touch(library.key)
        await library.put("encrypted.pdf", (DATA / "water-fr.pdf").read_bytes())
        await library.store.touch(library.key)
        await until(library.store, library.key, settled(10, failed=7))
    again = [event for event in await library.store.events(key=library.key) if event.reason == "DocumentFailed"]
    assert sum(event.count for event in again) == 8, "what failed for good is not read again until it changes"


async def test_a_document_that_breaks_is_no_longer_answered_from(library: Library) -> None:
    await library.put("water.md", WATER)
    await library.put("other.md", "# Other\n\nSand.\n")
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, settled(2))
        await library.put("water.md", bytes(100))
        await library.store.touch(library.key)
        await until(library.store, library.key, settled(2, failed=1))
    hits = await library.index.search_text(library.index_name, "forty two farms", limit=5)
    assert {hit.document for hit in hits} <= {"docs/other.md"}


async def test_spans_index_the_extracted_text(library: Library) -> None:
    for name in ("water-ar.pdf", "water-fr.pdf"):
        await library.put(name, (DATA / name).read_bytes())
    await library.put("water.md", WATER)
    await library.put(
        "page.html", "<html lang=en><body><h1>Keys</h1><p>A key is shown once, to its owner.</p></body></html>"
    )
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, settled(4))
    texts = {}
    for hit in await library.index.search_vector(library.index_name, [0.05] * 384, limit=100):
        if hit.document not in texts:
            texts[hit.document] = (
                await library.objects.get(TEXTS_BUCKET, text_key(library.key, hit.document))
            ).decode()
        assert texts[hit.document][hit.start : hit.end] == hit.text
    assert len(texts) == 4
    assert texts["docs/water.md"] == WATER


@pytest.mark.parametrize("damage", ["deleted", "corrupt", "incomplete"])
async def test_a_lost_index_is_made_again_without_embedding_again(library: Library, damage: str) -> None:
    await library.put("water.md", WATER)
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        before = await until(library.store, library.key, settled(1))
        await set_status(library.database, Key("Endpoint", "system", "e5"), task="embeddings", replicas=[])
        if damage == "deleted":
            await library.index.delete(library.index_name)
        elif damage == "incomplete":
            await library.index.replace_document(library.index_name, "docs/water.md", [])
        else:
            async for item in library.objects.list(INDEX_BUCKET, f"{library.index_name}.lance/_versions/"):
                await library.objects.put(INDEX_BUCKET, item.key, b"garbage")
        await library.store.touch(library.key)
        since = before.status.condition().since
        await until(library.store, library.key, lambda r: settled(1)(r) and r.status.condition().since > since)
    assert await library.index.observe(library.index_name) == 2
    assert "IndexRebuilt" in [event.reason for event in await library.store.events(key=library.key)]


async def test_another_recipe_reads_everything_again(library: Library) -> None:
    await library.put("long.md", "# Long\n\n" + "One sentence about water. " * 40)
    await library.declare(chunk_characters_max=700)
    async with reconciling(library.database, library.store, library.controller):
        before = await until(library.store, library.key, settled(1))
        await library.declare(chunk_characters_max=200)
        after = await until(
            library.store, library.key, lambda r: settled(1)(r) and r.status.chunks > before.status.chunks
        )
    assert await library.index.observe(library.index_name) == after.status.chunks


async def test_deleting_leaves_nothing(library: Library) -> None:
    await library.put("water.md", WATER)
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, settled(1))
        await library.admission.delete(library.admin, library.key)
        await until_gone(library.store, library.key)
    assert await library.index.observe(library.index_name) is None
    assert [item async for item in library.objects.list(TEXTS_BUCKET, f"{library.project}/kb/")] == []
    for table in ("document", "passage_vector"):
        assert await library.database.fetch(f"SELECT 1 FROM {table} WHERE project = %s", library.project) == []  # type: ignore[arg-type]
    assert await library.objects.get(f"{library.project}.docs", "water.md") == WATER.encode()


async def test_what_it_waits_for_is_said(library: Library) -> None:
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, because("NoDocuments"))
        await set_status(library.database, Key("Endpoint", "system", "e5"), conditions=[])
        await library.store.touch(library.key)
        waiting = await until(library.store, library.key, because("Transient"))
        assert "system/e5 is not ready" in waiting.status.condition().message
        await library.admission.apply(
            library.admin,
            [{"apiVersion": "falaj/v1", "kind": "KnowledgeBase", "metadata": {"project": library.project, "name": "kb"},
              "spec": {"sources": [{"bucket": "nowhere"}]}}],
        )  # fmt: skip
        await set_status(library.database, Key("Endpoint", "system", "e5"), task="embeddings")
        waiting = await until(
            library.store, library.key, lambda r: "nowhere" in (((c := r.status.condition()) and c.message) or "")
        )
        assert waiting.status.condition().reason == "Transient"


async def test_prefixes_and_several_sources(library: Library) -> None:
    await library.objects.create_bucket(f"{library.project}.more")
    await library.put("in/a.md", "# A\n\nwater\n")
    await library.put("out/b.md", "# B\n\nsand\n")
    await library.objects.put(f"{library.project}.docs", "in/", b"")
    await library.objects.put(f"{library.project}.more", "a.md", b"# C\n\nstone\n")
    sources = [{"bucket": "docs", "prefix": "in/"}, {"bucket": "more"}]
    await library.admission.apply(
        library.admin,
        [{"apiVersion": "falaj/v1", "kind": "KnowledgeBase", "metadata": {"project": library.project, "name": "kb"},
          "spec": {"sources": sources}}],
    )  # fmt: skip
    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, settled(2))
    hits = await library.index.search_vector(library.index_name, [0.05] * 384, limit=10)
    assert {hit.document for hit in hits} == {"docs/in/a.md", "more/a.md"}
