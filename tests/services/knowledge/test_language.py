"""Which language a text, a question or a folder is in."""

from __future__ import annotations

import pytest

from falaj.services.knowledge.language import detect, from_path


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is a region?", "en"),
        ("Which key opens the region, and who may use it?", "en"),
        ("Qu'est-ce qu'une région ?", "fr"),
        ("Combien de copies d'un modèle peut-on avoir ?", "fr"),
        ("ما المنطقة؟", "ar"),
        ("كيف أستخدم الأمر falaj up ؟", "ar"),
        ("يشغّل الأمر `falaj models pull qwen` النموذج", "ar"),
        ("The word فلج means a shared water channel in the Gulf region.", "en"),
    ],
)
def test_detect(text: str, language: str) -> None:
    assert detect(text) == language


def test_a_text_that_does_not_tell_has_the_default() -> None:
    assert detect("42", default="fr") == "fr"
    assert detect("falaj", default="fr") == "fr"
    assert detect("falaj", default="ar") == "ar"
    assert detect("falaj") in {"en", "fr"}  # Latin letters alone are not Arabic
    assert detect("") == "ar"
    assert detect("", ["en"]) == "en"


def test_only_the_languages_asked_for_are_answered() -> None:
    assert detect("ما المنطقة؟", ["en", "fr"]) in {"en", "fr"}
    assert detect("What is a region?", ["ar"]) == "ar"


def test_a_folder_names_the_language() -> None:
    assert from_path("handbook/ar/region.md") == "ar"
    assert from_path("fr/en/page.md") == "en"
    assert from_path("FR/page.md") == "fr"
    assert from_path("arabic/page.md") is None
    assert from_path("ar.md") is None
    assert from_path("ar/page.md", ["en"]) is None
