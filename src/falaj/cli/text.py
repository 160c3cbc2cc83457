"""Text for people: what may be shown on a terminal, and how sizes and times are written."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

ISOLATE, POP = "\u2068", "\u2069"
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


def plain(text: str) -> str:
    """``text`` without control characters (newline and tab stay) and without bidi controls.

    What others wrote can then neither move the cursor nor reorder what stands beside it.
    """
    return "".join(
        character
        for character in text
        if character in "\n\t" or (unicodedata.category(character) != "Cc" and character not in _BIDI_CONTROLS)
    )


def isolated(text: str) -> str:
    """``text`` with each line that holds right-to-left letters inside a first-strong isolate (Unicode UAX #9)."""
    return "\n".join(
        f"{ISOLATE}{line}{POP}" if any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in line) else line
        for line in text.split("\n")
    )


def size(size_bytes: float) -> str:
    """A number of bytes: ``1.1 GB`` (powers of 1000, as disks and downloads are sold)."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB"):
        size_bytes /= 1000
        if size_bytes < 999.95:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1000:.1f} GB"


def duration(seconds: float) -> str:
    """A length of time: ``4.2 s``, ``5m10s``, ``3h02m``, ``12d``."""
    if seconds < 60:
        return f"{max(seconds, 0):.1f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes}m{int(seconds) % 60:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes < 48 * 60 else f"{minutes // (24 * 60)}d"


def age(moment: str | None, *, now: datetime | None = None) -> str:
    """How long ago an ISO 8601 moment was; the empty string when there is none."""
    if not moment:
        return ""
    since = (now or datetime.now(UTC)) - datetime.fromisoformat(moment)
    return duration(int(since.total_seconds())).replace(".0 s", "s")
