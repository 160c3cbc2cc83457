"""What every document must have."""

from __future__ import annotations

import pytest

from falaj.errors import Invalid
from falaj.services.knowledge.parsing import document
from falaj.services.knowledge.parsing.document import ParsedDocument, Unreadable, checked


def test_a_document_has_text_of_acceptable_length(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = ParsedDocument("text", "", ())
    assert checked(parsed) is parsed
    with pytest.raises(Unreadable) as caught:
        checked(ParsedDocument("front", "", (), body_start=5))
    assert caught.value.reason == "Empty"
    monkeypatch.setattr(document, "TEXT_CHARACTERS_MAX", 3)
    with pytest.raises(Unreadable) as caught:
        checked(parsed)
    assert caught.value.reason == "TooLarge"
    assert "4 characters" in caught.value.message


def test_unreadable_is_the_callers_fault() -> None:
    assert isinstance(Unreadable("Empty", "no text"), Invalid)
