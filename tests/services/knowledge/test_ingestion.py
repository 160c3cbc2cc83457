"""One document: what is written, in which languages, and what happens when something is away."""

from __future__ import annotations

import asyncio

from falaj.region.resource import Key, Resource
from falaj.services.knowledge.ingestion import recipe_of, text_key
from falaj.services.storage.objects import TEXTS_BUCKET
from tests.services.knowledge.conftest import Library
from tests.services.knowledge.test_controller import settled
from tests.services.reconciling import reconciling, set_status, until


async def test_the_language_comes_from_folder_declaration_or_text(library: Library) -> None:
    await library.put("fr/code.md", "# Code\n\n`falaj up --port 7440`\n")
    await library.put("declared.md", "---\nlang: fr\n---\n`falaj up`\n")
    await library.put("plain.md", "What is declared is what will be there, and that is all of it.\n")
    await library.put(
        "mixed.md", "# Mixed\n\nThe word of the day is this.\n\n## بالعربية\n\nكلمة اليوم هي الفلج والماء.\n"
    )
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, settled(4))
    hits = await library.index.search_vector(library.index_name, [0.05] * 384, limit=100)
    assert sorted((hit.document.removeprefix("docs/"), hit.language) for hit in hits) == [
        ("declared.md", "fr"),
        ("fr/code.md", "fr"),
        ("mixed.md", "ar"),
        ("mixed.md", "en"),
        ("plain.md", "en"),
    ]


async def test_vectors_are_computed_once(library: Library) -> None:
    sections = [f"## Part {number}\n\nThis part speaks about the farm number {number}.\n" for number in range(6)]
    await library.put("parts.md", "# Parts\n\n" + "\n".join(sections))
    await library.declare()

    async def vectors() -> set[bytes]:
        rows = await library.database.fetch("SELECT digest FROM passage_vector WHERE project = %s", library.project)
        return {row["digest"] for row in rows}

    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, settled(1))
        before = await vectors()
        changed = [*sections[:3], "## New\n\nA new part about dates.\n", *sections[4:]]
        await library.put("parts.md", "# Parts\n\n" + "\n".join(changed))
        await library.store.touch(library.key)
        async with asyncio.timeout(30):
            while (after := await vectors()) == before or len(after) != 6:
                await asyncio.sleep(0.05)
    assert len(before) == len(after) == 6
    assert len(before & after) == 5


async def test_an_embedder_that_is_away_delays_and_loses_nothing(library: Library) -> None:
    for number in range(4):
        await library.put(f"{number}.md", f"# Page {number}\n\nWords of page {number}.\n")
    await library.declare()
    endpoint = Key("Endpoint", "system", "e5")
    healthy = library.snapshot.find(endpoint)
    assert healthy is not None
    replicas = [replica.model_dump() for replica in healthy.status.replicas]
    gone = [{**replicas[0], "url": "http://127.0.0.1:9"}]
    await set_status(library.database, endpoint, task="embeddings", replicas=gone)

    def charged(resource: Resource) -> bool:
        condition = resource.status.condition()
        return condition is not None and condition.reason == "Transient"

    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, charged)
        states = await library.documents()
        assert ("failed", "Transient") in states.values()
        await set_status(library.database, endpoint, task="embeddings", replicas=replicas)
        await library.store.touch(library.key)
        await until(library.store, library.key, settled(4))
    assert set((await library.documents()).values()) == {("ready", "")}


async def test_the_extracted_text_is_kept_by_the_name_of_the_document(library: Library) -> None:
    text = '# عنوان\r\n\r\nنص "مقتبس" هنا.\r\n'
    await library.put("ملف.md", text)
    await library.declare()
    async with reconciling(library.database, library.store, library.controller):
        await until(library.store, library.key, settled(1))
    key = text_key(library.key, "docs/ملف.md")
    assert key.startswith(f"{library.project}/kb/")
    assert (await library.objects.get(TEXTS_BUCKET, key)).decode() == text


async def test_the_recipe_changes_with_what_shapes_passages(library: Library) -> None:
    await library.declare()
    prints = set()
    for spec in ({}, {"chunk_characters_max": 500}, {"languages": ["ar"]}, {"document_bytes_max": 1000}):
        await library.declare(**spec)
        resource = await library.store.get(library.key)
        prints.add(recipe_of(resource, library.snapshot).fingerprint)
    assert len(prints) == 3, "the size limit shapes no passage"
