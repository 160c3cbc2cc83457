"""HTML: the main content as Markdown, without what surrounds it."""

from __future__ import annotations

import pytest

from falaj.services.knowledge.parsing.document import Unreadable
from falaj.services.knowledge.parsing.html import parse_html

PAGE = """<!doctype html><html lang="fr-FR"><head><title>Partage de  l'eau</title></head><body>
<nav><a href="/">Accueil</a> <a href="/contact">Nous contacter</a></nav>
<main><h1>Le canal</h1><p>Le canal dessert quarante-deux fermes, et chaque ferme reçoit l'eau trois heures.</p>
<h2>Réparations</h2><p>Le canal est nettoyé en mars. Voir <a href="x">le livre</a>.</p>
<ul><li>une pelle</li><li>deux ouvriers</li></ul>
<table><tr><th>Mois</th><th>Jours</th></tr><tr><td>mars</td><td>2</td></tr></table></main>
<script>alert("non")</script><footer>Tous droits réservés</footer></body></html>"""


def test_main_content_with_headings() -> None:
    document = parse_html(PAGE.encode())
    assert document.title == "Partage de l'eau"
    assert document.language == "fr"
    assert [(heading.level, heading.text) for heading in document.headings] == [(1, "Le canal"), (2, "Réparations")]
    for wanted in ("quarante-deux fermes", "le livre", "deux ouvriers", "| mars | 2 |"):
        assert wanted in document.text
    for unwanted in ("Nous contacter", "alert", "Tous droits"):
        assert unwanted not in document.text


def test_arabic_in_its_old_encoding() -> None:
    page = (
        '<html dir="rtl"><head><meta charset="windows-1256"><title>الفلج</title></head><body><h1>الفلج</h1>'
        "<p>يخدم الفلج اثنتين وأربعين مزرعة في القرية.</p></body></html>"
    )
    document = parse_html(page.encode("cp1256"))
    assert document.title == "الفلج"
    assert "اثنتين وأربعين مزرعة" in document.text


def test_a_page_of_one_line_counts_too() -> None:
    assert "shown once" in parse_html(b"<html><body><h1>Keys</h1><p>A key is shown once.</p></body></html>").text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Empty"),
        (b"\x00\x01\x02\x03", "Corrupt"),
        (b"<html><head><title>T</title></head><body><script>draw()</script></body></html>", "NoText"),
    ],
)
def test_pages_that_cannot_be_read(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse_html(content)
    assert caught.value.reason == reason
