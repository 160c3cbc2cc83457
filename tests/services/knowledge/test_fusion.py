"""The ranking that is made of meaning and words, in the question's language and across."""

from __future__ import annotations

from falaj.engines.interface import Hit
from falaj.services.knowledge.fusion import Found, fuse


def hit(document: str, score: float, language: str = "en") -> Hit:
    return Hit(document, language, "", 0, 10, "text", score)


def test_both_kinds_of_evidence_count() -> None:
    dense = [hit("a", 0.84), hit("b", 0.83), hit("c", 0.80)]
    ranked = fuse("en", {"en": Found(dense, [hit("b", 9.0), hit("a", 1.0)])}, 10)
    assert [one.hit.document for one in ranked] == ["b", "a", "c"]
    assert (ranked[0].dense, ranked[0].lexical) == (0.83, 9.0)
    assert ranked[2].lexical == 0.0


def test_what_only_words_found_is_there_with_a_bound_for_its_cosine() -> None:
    ranked = fuse("en", {"en": Found([hit("a", 0.80), hit("b", 0.78)], [hit("c", 5.0)])}, 10)
    (found,) = [one for one in ranked if one.hit.document == "c"]
    assert (found.dense, found.lexical) == (0.78, 5.0)


def test_the_own_language_comes_first_when_both_hold_the_answer() -> None:
    found = {
        "ar": Found([hit("ar/page", 0.87, "ar")], [hit("ar/page", 8.0, "ar")]),
        "en": Found([hit("en/page", 0.81, "en")], []),
    }
    assert [one.hit.document for one in fuse("ar", found, 2)] == ["ar/page", "en/page"]


def test_another_language_wins_when_the_own_one_does_not_hold_the_answer() -> None:
    found = {
        "ar": Found([hit("ar/other", 0.77, "ar")], [hit("ar/other", 2.0, "ar")]),
        "en": Found([hit("en/page", 0.83, "en")], []),
    }
    assert fuse("ar", found, 1)[0].hit.document == "en/page"


def test_a_question_in_a_language_that_the_knowledge_base_does_not_have() -> None:
    ranked = fuse("ar", {"en": Found([hit("a", 0.82), hit("b", 0.79)], [hit("b", 0.4)])}, 1)
    assert [one.hit.document for one in ranked] == ["a"]


def test_limit_and_nothing() -> None:
    assert fuse("en", {"en": Found([], [])}, 3) == []
    many = [hit(f"d{number:02}", 0.8) for number in range(20)]
    assert [one.hit.document for one in fuse("en", {"en": Found(many, [])}, 3)] == ["d00", "d01", "d02"]
