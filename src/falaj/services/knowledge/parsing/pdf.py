"""PDF: the text of each page, in reading order. Runs in a child process only, because PDFs can be hostile.

Arabic in PDFs is stored as presentation forms between bidi marks; NFKC turns the forms back into letters
(docs/decisions/0006-knowledge.md has the measurement).
"""

from __future__ import annotations

import re
import unicodedata
from io import BytesIO

from pypdf import PageObject, PdfReader
from pypdf.errors import FileNotDecryptedError, PyPdfError

from falaj.services.knowledge.normalise import strip_invisible
from falaj.services.knowledge.parsing.document import (
    TEXT_CHARACTERS_MAX,
    Heading,
    ParsedDocument,
    Unreadable,
    checked,
)

PAGES_MAX = 2_000

#: A line that ends a sentence or a label, so that the next one does not continue it.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_ENDS = re.compile(r"[.:;!?\u061f\u06d4\u061b\u2026»”)\]]$")
_ARABIC = re.compile("[\u0620-\u064a\u066e-\u06d3\ufb50-\ufdfb\ufe70-\ufefc]")
_STARTS_ITEM = re.compile(r"^(?:[-*\u2022\u25cf\u25e6\u2013]|\d+[.)])\s")
#: What pypdf lets through besides its own errors when a file's structure lies about itself.
_CORRUPT = (PyPdfError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, RecursionError)


def parse_pdf(content: bytes) -> ParsedDocument:
    """The text of a PDF; each page is headed by its number.

    Raises:
        Unreadable: ``Empty``, ``Encrypted``, ``Corrupt``, ``TooManyPages``, or ``NoText`` for scans.
    """
    if not content.strip():
        raise Unreadable("Empty", "the file is empty")
    try:
        title, pages = _pages(PdfReader(BytesIO(content)))
    except Unreadable:
        raise
    except FileNotDecryptedError as error:
        raise _encrypted() from error
    except _CORRUPT as error:
        raise Unreadable("Corrupt", f"the PDF is damaged: {error or type(error).__name__}") from error
    if not any(pages):
        raise Unreadable(
            "NoText",
            f"none of the PDF's {len(pages)} pages holds text",
            hint="a scan must go through text recognition first",
        )
    return _joined(pages, title)


def _pages(reader: PdfReader) -> tuple[str, list[str]]:
    """The title and the text of each page."""
    # Many PDFs are encrypted with an empty password, which only forbids printing; those open.
    if reader.is_encrypted and not reader.decrypt(""):
        raise _encrypted()
    if len(reader.pages) > PAGES_MAX:
        raise Unreadable(
            "TooManyPages",
            f"the PDF has {len(reader.pages):,} pages; at most {PAGES_MAX:,} are read",
            hint="split it into several files",
        )
    title = reader.metadata.title if reader.metadata else None
    return clean(title or ""), [clean(page_text(page)) for page in reader.pages]


def page_text(page: PageObject) -> str:
    """The text of a page in reading order, line by line.

    PDFs hold what is drawn, from left to right. pypdf turns each Arabic run round, but leaves the runs of a line in the
    order of drawing, so a number in the middle of an Arabic line swaps what stands around it; here they are put right
    to left.
    """
    lines: list[list[tuple[float, str]]] = []
    heights: list[float] = []

    def collect(run: str, page_matrix: list[float], run_matrix: list[float], *_: object) -> None:
        if not run.strip():
            return
        height = run_matrix[5] * page_matrix[3] + page_matrix[5]
        if not heights or abs(heights[-1] - height) > 1.0:
            heights.append(height)
            lines.append([])
        lines[-1].append((run_matrix[4] * page_matrix[0] + page_matrix[4], run.strip("\r\n")))

    text = page.extract_text(visitor_text=collect)
    return "\n".join(map(_right_to_left, lines)) if _ARABIC.search(text) else text


def _right_to_left(runs: list[tuple[float, str]]) -> str:
    """A line's runs in reading order; runs of Latin text or digits that touch stay left to right among themselves."""
    if not any(_ARABIC.search(run) for _, run in runs):
        return "".join(run for _, run in runs)
    ordered: list[str] = []
    latin: list[str] = []
    for _, run in sorted(runs, key=lambda placed: -placed[0]):
        if _ARABIC.search(run):
            ordered += [*reversed(latin), run]
            latin = []
        else:
            latin.append(run)
    return "".join([*ordered, *reversed(latin)])


def _encrypted() -> Unreadable:
    return Unreadable("Encrypted", "the PDF needs a password", hint="store a copy without one")


def _joined(pages: list[str], title: str) -> ParsedDocument:
    """The pages one after another, an empty line between them."""
    parts: list[str] = []
    headings: list[Heading] = []
    position = 0
    for number, page in enumerate(pages, start=1):
        if page and position <= TEXT_CHARACTERS_MAX:
            headings.append(Heading(1, f"p. {number}", position, position))
            parts.append(page)
            position += len(page) + 2
    return checked(ParsedDocument("\n\n".join(parts), title, tuple(headings), prose=True))


def clean(text: str) -> str:
    """A page's text in ordinary letters, its lines joined to paragraphs.

    A line is continued by the next unless it ends a sentence or is much shorter than the page's lines, as headings are.
    """
    # A damaged font table yields half characters (lone surrogates), which nothing could store.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    letters = _CONTROL.sub(" ", strip_invisible(unicodedata.normalize("NFKC", whole)))
    lines = [" ".join(line.split()) for line in letters.splitlines()]
    full = 0.6 * max(map(len, lines), default=0)
    paragraphs: list[str] = []
    continues = False
    for line in lines:
        if continues and line and not _STARTS_ITEM.match(line):
            paragraphs[-1] += f" {line}"
        else:
            paragraphs.append(line)
        continues = len(line) >= full and not _ENDS.search(line)
    return "\n".join(paragraphs).strip()
