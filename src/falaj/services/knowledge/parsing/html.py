"""HTML: the main content as Markdown, without navigation and boilerplate. Runs in a child process only."""

from __future__ import annotations

from configparser import ConfigParser

import trafilatura
from trafilatura.settings import use_config

from falaj.services.knowledge.parsing.document import ParsedDocument, Unreadable, checked
from falaj.services.knowledge.parsing.text import markdown_document


def _small_pages() -> ConfigParser:
    """Settings under which a page of two paragraphs counts as content too."""
    config = use_config()
    for name in ("MIN_EXTRACTED_SIZE", "MIN_OUTPUT_SIZE"):
        config.set("DEFAULT", name, "1")
    return config


def parse_html(content: bytes) -> ParsedDocument:
    """The main content of a page.

    Raises:
        Unreadable: no HTML, or no text in it.
    """
    if not content.strip():
        raise Unreadable("Empty", "the file is empty")
    tree = trafilatura.load_html(content)
    if tree is None:
        raise Unreadable("Corrupt", "the file cannot be read as HTML")
    title = " ".join("".join(tree.xpath("//title[1]//text()")).split())
    language = (tree.get("lang") or "").lower()[:2] or None
    # Recall is favoured: what is lost here can never be found, while a stray menu entry only ranks low.
    text = trafilatura.extract(
        tree, output_format="markdown", favor_recall=True, include_comments=False, config=_small_pages()
    ) or trafilatura.html2txt(tree)
    if not text or not text.strip():
        raise Unreadable("NoText", "the page holds no text", hint="pages drawn by scripts must be saved after drawing")
    document = markdown_document(text, title=title)
    return checked(
        ParsedDocument(document.text, document.title, document.headings, document.body_start, language=language)
    )
