"""PDF: text in reading order, also from right to left, and a reason for what cannot be read."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfWriter

from falaj.services.knowledge.normalise import terms
from falaj.services.knowledge.parsing import pdf
from falaj.services.knowledge.parsing.document import Unreadable
from falaj.services.knowledge.parsing.pdf import clean, parse_pdf

DATA = Path(__file__).parents[3] / "data"

SENTENCES = {
    "water-en.pdf": "The channel is cleaned twice a year, in March and in October. Every farm sends one worker for two "
    "days, or pays nine dirhams for each day.",
    "water-fr.pdf": "L'agriculteur qui manque un tour peut en demander la moitié le vendredi suivant.",
    "water-ar.pdf": "ينظف الفلج مرتين في السنة، في مارس وأكتوبر. "
    "ترسل كل مزرعة عاملا واحدا مدة يومين، أو تدفع ٩ دراهم عن كل يوم.",
    "water-ar-libreoffice.pdf": "ترسل كل مزرعة عاملا واحدا مدة يومين، أو تدفع ٩ دراهم عن كل يوم.",
    "printing-forbidden.pdf": "A farmer who misses a turn may ask for half of it on the next Friday.",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences_are_whole(name: str) -> None:
    document = parse_pdf((DATA / name).read_bytes())
    assert SENTENCES[name] in document.text
    assert document.title
    assert document.prose


@pytest.mark.parametrize("name", ["water-en.pdf", "water-fr.pdf", "water-ar.pdf"])
def test_each_page_has_its_number_and_its_place(name: str) -> None:
    document = parse_pdf((DATA / name).read_bytes())
    first, second = document.headings
    assert (first.text, second.text) == ("p. 1", "p. 2")
    assert document.text[second.start :].startswith(("Repairs", "Réparations", "الإصلاحات"))


def test_arabic_comes_as_letters_in_reading_order() -> None:
    document = parse_pdf((DATA / "water-ar.pdf").read_bytes())
    assert not any("\ufb50" <= character <= "\ufeff" for character in document.text)
    assert terms("يخدم الفلج اثنتين وأربعين مزرعة") in terms(document.text)


def test_an_empty_page_is_passed_over_and_the_numbers_stay() -> None:
    document = parse_pdf((DATA / "water-ar-libreoffice.pdf").read_bytes())
    assert [heading.text for heading in document.headings] == ["p. 2"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("empty.pdf", "Empty"), ("encrypted.pdf", "Encrypted"), ("corrupt.pdf", "Corrupt"), ("scan.pdf", "NoText")],
)
def test_pdfs_that_cannot_be_read(name: str, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse_pdf((DATA / name).read_bytes())
    assert caught.value.reason == reason


@pytest.mark.parametrize("content", [b"not a pdf", b"%PDF-1.7\n", b"%PDF-1.7\n" + bytes(2000)])
def test_what_is_no_pdf_is_corrupt(content: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        parse_pdf(content)
    assert caught.value.reason == "Corrupt"


def test_too_many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "PAGES_MAX", 2)
    writer = PdfWriter()
    for _ in range(3):
        writer.add_blank_page(100, 100)
    content = BytesIO()
    writer.write(content)
    with pytest.raises(Unreadable) as caught:
        parse_pdf(content.getvalue())
    assert caught.value.reason == "TooManyPages"
    assert "3 pages" in caught.value.message


def test_lines_become_paragraphs() -> None:
    page = (
        "Title here\nA line that goes on and on until the end\nof the sentence, which is here.\n- one item\n- another\n"
    )
    assert clean(page) == (
        "Title here\nA line that goes on and on until the end of the sentence, which is here.\n- one item\n- another"
    )


def test_half_characters_of_damaged_fonts_are_replaced() -> None:
    assert clean("a\ud835b \ud83d\ude00\x00").encode() == "a\ufffdb 😀".encode()
