"""Markdown and plain text: encodings, front matter, headings; spans point into the file as it was written."""

from __future__ import annotations

import pytest

from falaj.services.knowledge.parsing.document import Unreadable
from falaj.services.knowledge.parsing.text import decode, find_headings, parse_markdown, parse_text, plain

ARABIC = "المنطقة مكان واحد تعمل فيه الخدمات، ولها موقعان."
FRENCH = "La région est à côté ; le déjà vu n'y est pas rare."


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (ARABIC.encode(), ARABIC),
        (ARABIC.encode("utf-8-sig"), ARABIC),
        (ARABIC.encode("utf-16"), ARABIC),
        (b"\xfe\xff" + ARABIC.encode("utf-16-be"), ARABIC),
        (ARABIC.encode("cp1256"), ARABIC),
        (FRENCH.encode("cp1252"), FRENCH),
        (FRENCH.encode(), FRENCH),
    ],
)
def test_decode(content: bytes, text: str) -> None:
    assert decode(content) == text


@pytest.mark.parametrize("content", [bytes(range(256)), b"\x7fELF\x02\x01\x01\x00", b"a\x00b", b"\xff\xfea"])
def test_what_is_not_text_is_refused(content: bytes) -> None:
    with pytest.raises(Unreadable) as caught:
        decode(content)
    assert caught.value.reason == "NotText"


def test_markdown_is_the_file_itself() -> None:
    text = "---\ntitle: 'Keys'\nlang: fr-FR\n---\r\n# Clés\r\n\r\nTexte.\r\n"
    document = parse_markdown(text.encode())
    assert document.text == text
    assert (document.title, document.language) == ("Keys", "fr")
    assert text[document.headings[0].start :].startswith("# Clés")
    assert text[document.headings[0].end :].startswith("\r\nTexte")


def test_headings_of_both_styles_outside_code() -> None:
    text = (
        "# One #\n\n```sh\n# not a heading\n```\n\nTwo\n---\n\n~~~\n## no\n```\n## no\n~~~\n### [Three](x.md) *now*\n"
        "para\n\n---\n\n- item\n---\n#hashtag\n####### seven\n"
    )
    assert [(heading.level, heading.text) for heading in find_headings(text)] == [
        (1, "One"),
        (2, "Two"),
        (3, "Three now"),
    ]


def test_the_title_is_the_highest_heading() -> None:
    assert parse_markdown(b"intro\n\n## B\n\ntext\n\n# A\n").title == "A"
    assert parse_markdown(b"no heading").title == ""


def test_a_text_names_itself_when_its_first_line_stands_alone() -> None:
    assert parse_text(b"Water rules\n\nThe rest.").title == "Water rules"
    assert parse_text(b"Water rules\ngo on here.").title == ""


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_empty(content: bytes) -> None:
    for parse in (parse_text, parse_markdown):
        with pytest.raises(Unreadable) as caught:
            parse(content)
        assert caught.value.reason == "Empty"


def test_plain() -> None:
    assert plain("The **`falaj`** [command](cli.md)") == "The falaj command"
    assert plain("snake_case stays") == "snake_case stays"
