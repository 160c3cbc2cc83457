"""The child process that reads hostile formats: ``python -m falaj.services.knowledge.parsing FORMAT``.

Bytes on stdin; one JSON object on stdout: the document, or why it cannot be read. It limits its own memory and
processor time before it reads the first byte, so the worst file costs one child.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from dataclasses import asdict

from falaj.services.knowledge.parsing.document import ParsedDocument, Unreadable


def main(argv: list[str]) -> int:
    """Parse stdin as the format named and print the outcome. Returns the exit status."""
    format_, memory_bytes_max, cpu_seconds_max = argv[0], int(argv[1]), int(argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes_max, memory_bytes_max))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds_max, cpu_seconds_max + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write but the answer, which goes to a pipe
    os.nice(10)  # reading a library of PDFs must not slow down answers
    logging.disable(logging.CRITICAL)  # parsers log every oddity of a file; the outcome says what matters
    outcome = _parse(format_, sys.stdin.buffer.read())
    sys.stdout.buffer.write(json.dumps(outcome).encode())
    return 0


def _parse(format_: str, content: bytes) -> dict[str, object]:
    try:
        document = _parser(format_, content)
    except Unreadable as error:
        return {"reason": error.reason, "message": error.message, "hint": error.hint}
    except MemoryError:
        return {"reason": "TooLarge", "message": "reading the document needs more memory than allowed", "hint": ""}
    return asdict(document)


def _parser(format_: str, content: bytes) -> ParsedDocument:
    # Imported here, because each costs memory that the other format does not need.
    if format_ == "pdf":
        from falaj.services.knowledge.parsing.pdf import parse_pdf  # noqa: PLC0415

        return parse_pdf(content)
    from falaj.services.knowledge.parsing.html import parse_html  # noqa: PLC0415

    return parse_html(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
