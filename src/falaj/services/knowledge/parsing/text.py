"""Markdown and plain text: the text is the file itself, decoded, so spans point into what its author wrote."""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE

from falaj.services.knowledge.parsing.document import Heading, ParsedDocument, Unreadable, checked

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_FRONT_MATTER_FIELD = re.compile(r"^(title|lang|language):[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|\Z)")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_ATX_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_SETEXT_UNDERLINE = re.compile(r"^ {0,3}(=+|-+)[ \t]*$")
_NOT_PARAGRAPH = re.compile(r"^ {0,3}(?:[-*+>|]|\d+[.)])|^ {4}|^\t|^\s*$")
_INLINE_MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[*`]{1,3}|(?<!\w)_{1,3}(?=\w)|(?<=\w)_{1,3}(?!\w)")
#: Control characters that no text holds; their presence means that the bytes are something else.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_ARABIC = re.compile("[\u0621-\u064a]")


def decode(content: bytes) -> str:
    """The text of a file, by its byte order mark, as UTF-8, or as the Windows code page that fits.

    Windows-1256 (Arabic) and 1252 (Western) share most byte values. Arabic prose in 1256 is mostly letters above 0x7F;
    Western prose has few, so the share of such bytes tells them apart.

    Raises:
        Unreadable: ``NotText``: it is not text in any of these.
    """
    try:
        if content.startswith(BOM_UTF8):
            text = content.decode("utf-8-sig")
        elif content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            text = content.decode("utf-16")
        else:
            text = _decode_without_mark(content)
    except UnicodeDecodeError as error:
        raise Unreadable("NotText", f"the file is not text: {error.reason} at byte {error.start}") from error
    control = _CONTROL.search(text)
    if control is not None:
        raise Unreadable(
            "NotText",
            f"the file is not text: control character U+{ord(control.group()):04X} at character {control.start()}",
            hint="check that the file's name ends in what it really is",
        )
    return text


def _decode_without_mark(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        high = sum(byte >= 0x80 for byte in content)
        letters = sum(byte >= 0x80 or chr(byte).isalpha() for byte in content)
        return content.decode("cp1256" if high > 0.4 * letters else "cp1252")


def parse_text(content: bytes) -> ParsedDocument:
    """Plain text; its first line is its title when it is short and stands alone.

    Raises:
        Unreadable: not text, or none.
    """
    text = decode(content)
    first, _, rest = text.lstrip().partition("\n")
    stands_alone = rest.startswith(("\n", "\r\n")) and len(first) <= 120
    return checked(ParsedDocument(text, first.strip() if stands_alone else "", (), prose=True))


def parse_markdown(content: bytes) -> ParsedDocument:
    """Markdown, with YAML front matter skipped; ``title`` and ``lang`` are read from it.

    Raises:
        Unreadable: not text, or none.
    """
    return checked(markdown_document(decode(content)))


def markdown_document(text: str, *, title: str = "") -> ParsedDocument:
    """The structure of Markdown that is already decoded; ``title`` counts when the front matter has none."""
    front_matter = _FRONT_MATTER.match(text)
    body_start = front_matter.end() if front_matter else 0
    fields = dict(_FRONT_MATTER_FIELD.findall(front_matter.group(1))) if front_matter else {}
    headings = tuple(find_headings(text, body_start))
    declared = fields.get("title", "").strip("\"'") or title
    first = min(headings, key=lambda heading: (heading.level, heading.start), default=None)
    language = (fields.get("lang") or fields.get("language") or "").strip("\"'").lower()[:2]
    return ParsedDocument(
        text, declared or (first.text if first else ""), headings, body_start, language=language or None
    )


def find_headings(text: str, start: int = 0) -> list[Heading]:
    """The headings of Markdown (``# one``, or underlined) from ``start`` on, outside fenced code."""
    headings: list[Heading] = []
    fence = ""
    previous: tuple[int, str] | None = None  # the line before, when it may be the text of an underlined heading
    for match in _LINE.finditer(text, start):
        line = match.group().rstrip("\r\n")
        opened = _FENCE.match(line)
        if fence:
            if opened and opened.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        atx, underline = _ATX_HEADING.match(line), _SETEXT_UNDERLINE.match(line)
        if opened:
            fence = opened.group(1)
        elif atx:
            headings.append(Heading(len(atx.group(1)), plain(atx.group(2) or ""), match.start(), match.end()))
        elif underline and previous:
            level = 1 if underline.group(1).startswith("=") else 2
            headings.append(Heading(level, plain(previous[1]), previous[0], match.end()))
        is_paragraph = not (opened or atx or underline or _NOT_PARAGRAPH.match(line))
        previous = (match.start(), line) if is_paragraph else None
    return headings


def plain(markdown: str) -> str:
    """A line of Markdown as readers see it: links by their text, no emphasis or code marks."""
    return _INLINE_MARKUP.sub(lambda match: match.group(1) or "", markdown).strip()
