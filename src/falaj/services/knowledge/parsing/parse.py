"""Which parser a file gets, and where it runs: text here, formats that can be hostile in a limited child process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from falaj.errors import Transient
from falaj.services.knowledge.parsing.document import Format, Heading, ParsedDocument, Unreadable
from falaj.services.knowledge.parsing.text import parse_markdown, parse_text

#: Endings of names, in lower case. Objects with any other are ``UnsupportedType``.
FORMATS: Mapping[str, Format] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child process may use for one document."""

    memory_bytes_max: int = 1 << 30
    cpu_seconds_max: int = 240
    seconds_max: float = 300.0


def format_of(name: str) -> Format:
    """The format that a file's name promises.

    Raises:
        Unreadable: ``UnsupportedType``.
    """
    ending = PurePosixPath(name).suffix.lower()
    if ending not in FORMATS:
        raise Unreadable(
            "UnsupportedType",
            f"files ending in {ending!r} are not read"
            if ending
            else "the file's name has no ending that tells its type",
            hint=f"read are: {', '.join(FORMATS)}",
        )
    return FORMATS[ending]


async def parse(name: str, content: bytes, limits: Limits = Limits()) -> ParsedDocument:
    """The document in a file.

    Raises:
        Unreadable: it cannot be read; the reason says why.
        Transient: the child process could not be started.
    """
    match format_of(name):
        case "markdown":
            return parse_markdown(content)
        case "text":
            return parse_text(content)
        case format_:
            return await _parse_in_child(format_, content, limits)


async def _parse_in_child(format_: Format, content: bytes, limits: Limits) -> ParsedDocument:
    arguments = (format_, str(limits.memory_bytes_max), str(limits.cpu_seconds_max))
    # Nothing of the parent's environment: the child needs no secrets, and a parser exploit should find none.
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "falaj.services.knowledge.parsing",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd="/",
        )
    except OSError as error:
        raise Transient(f"the parser cannot be started: {error}", where="services/knowledge/parsing") from error
    try:
        output, diagnostics = await asyncio.wait_for(child.communicate(content), limits.seconds_max)
    except TimeoutError as error:
        raise Unreadable("TimedOut", f"reading the document took longer than {limits.seconds_max:.0f} s") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return _outcome(format_, child.returncode or 0, output, diagnostics)


def _outcome(format_: Format, status: int, output: bytes, diagnostics: bytes) -> ParsedDocument:
    if status == -24 or (status == -9 and not output):  # SIGXCPU; SIGKILL one second later
        raise Unreadable("TimedOut", "reading the document took more processor time than allowed")
    if status != 0:
        last_line = diagnostics.decode(errors="replace").strip().rpartition("\n")[2][:200]
        if "MemoryError" in last_line:
            raise Unreadable("TooLarge", "reading the document needs more memory than allowed")
        raise Unreadable("Corrupt", f"the {format_.upper()} parser failed: {last_line or f'exit status {status}'}")
    fields = json.loads(output)
    if "reason" in fields:
        raise Unreadable(fields["reason"], fields["message"], hint=fields["hint"])
    fields["headings"] = tuple(Heading(**heading) for heading in fields["headings"])
    return ParsedDocument(**fields)
