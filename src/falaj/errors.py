"""The errors that Falaj raises, and nothing else.

::

    FalajError
    ├── Invalid         the request is wrong as written; sending it again changes nothing
    ├── Denied          the caller may not do this
    ├── NotFound        the thing named does not exist (or the caller may not know that it does)
    ├── Conflict        it is right as written, but clashes with what exists
    ├── LimitExceeded   a size, time, depth, count or spend limit was passed
    ├── Transient       it may work later; ``retry_after_seconds`` says when to try
    └── Terminal        it will never work until something outside changes

Each carries three sentences: *what* is wrong (``message``), *where* (``where``) and *what to do* (``hint``).
An engine's own errors are translated into these once, in the engine's module, with the cause chained.
Each protocol maps this tree to its wire in one table.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FalajError(Exception):
    """The root of every error that Falaj raises on purpose.

    Args:
        message: what is wrong, as one sentence a person understands.
        where: the file, field, resource or engine it is wrong in; empty when the message already says it.
        hint: what to do about it; empty only when there is nothing to do.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    @property
    def code(self) -> str:
        """The name of the class: the stable word that scripts and clients compare."""
        return type(self).__name__

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.message}{hint}"

    def as_dict(self) -> dict[str, str]:
        """The error as JSON-ready fields: code, message, where, hint."""
        return {"code": self.code, "message": self.message, "where": self.where, "hint": self.hint}


class Invalid(FalajError):
    """The request is wrong as written."""


class Denied(FalajError):
    """The caller may not do this."""


class NotFound(FalajError):
    """The thing named does not exist, or the caller may not know that it does."""


class Conflict(FalajError):
    """The request clashes with what exists: a duplicate, a stale generation, something still in use."""


class LimitExceeded(FalajError):
    """A size, time, depth, count or spend limit was passed; the message names the limit and its value."""


class Transient(FalajError):
    """The operation may succeed later.

    Args:
        retry_after_seconds: how long to wait before trying again.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "", retry_after_seconds: float = 1.0) -> None:
        super().__init__(message, where=where, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class Terminal(FalajError):
    """The operation will never succeed until something outside changes; it is not retried."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that offers the known names closest to ``name``: ``did you mean 'bucket'?``, or the whole list when short.

    Returns the empty string when nothing is close and the list is too long to print.
    """
    names = sorted(set(known))
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return f"known: {', '.join(names)}" if names and len(names) <= 12 else ""
