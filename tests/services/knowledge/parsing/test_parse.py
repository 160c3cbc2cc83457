"""Which parser a file gets, and that the worst file costs one child process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from falaj.services.knowledge.parsing.document import ParsedDocument, Unreadable
from falaj.services.knowledge.parsing.parse import FORMATS, Limits, format_of, parse
from falaj.services.knowledge.parsing.pdf import parse_pdf

DATA = Path(__file__).parents[3] / "data"


DEFAULT = Limits()


def pdf_with(content: bytes) -> bytes:
    """A PDF of one page whose content stream inflates to ``content``."""
    packed = zlib.compress(content, 9)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R"
        b" /Resources << /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed),
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, text)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return body + b"xref\n0 5\n0000000000 65535 f \n%strailer << /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(body),
    )


async def reason_of(name: str, content: bytes, limits: Limits = DEFAULT) -> str:
    with pytest.raises(Unreadable) as caught:
        await parse(name, content, limits)
    return caught.value.reason


def children() -> set[int]:
    """The pids of this process's children."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def command_of(pid: int) -> bytes:
    """The command line of a process that may just have ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("name", ["a.md", "A.MD", "dir/b.Markdown", "c.txt", "d.html", "e.HTM", "f.pdf"])
def test_types_that_are_read(name: str) -> None:
    assert format_of(name) in set(FORMATS.values())


@pytest.mark.parametrize("name", ["a.docx", "noending", "b.pdf.exe", ".md"])
def test_types_that_are_not(name: str) -> None:
    with pytest.raises(Unreadable) as caught:
        format_of(name)
    assert caught.value.reason == "UnsupportedType"
    assert ".pdf" in caught.value.hint


async def test_a_child_says_the_same_as_the_parser() -> None:
    content = (DATA / "water-ar.pdf").read_bytes()
    document = await parse("water-ar.pdf", content)
    assert isinstance(document, ParsedDocument)
    assert document == parse_pdf(content)
    html = await parse("x.html", "<html><body><h1>عنوان</h1><p>نص قصير هنا.</p></body></html>".encode())
    assert "نص قصير هنا." in html.text


async def test_reasons_cross_the_process() -> None:
    assert await reason_of("encrypted.pdf", (DATA / "encrypted.pdf").read_bytes()) == "Encrypted"
    assert await reason_of("empty.pdf", b"") == "Empty"
    assert await reason_of("x.html", b"\x00") == "Corrupt"


async def test_a_file_that_inflates_without_end_is_refused_and_costs_one_child() -> None:
    before = children()
    bomb = pdf_with(bytes(500 << 20))
    assert len(bomb) < 1 << 20
    assert await reason_of("bomb.pdf", bomb, Limits(memory_bytes_max=400 << 20)) in {"TooLarge", "Corrupt"}
    assert children() == before


async def test_a_file_that_takes_for_ever_is_ended() -> None:
    before = children()
    endless = pdf_with(b"BT /F 9 Tf " + b"(a) Tj 1 0 0 1 0 0 Tm " * 2_000_000 + b"ET")
    began = time.monotonic()
    assert await reason_of("endless.pdf", endless, Limits(seconds_max=2)) == "TimedOut"
    assert time.monotonic() - began < 10
    assert await reason_of("endless.pdf", endless, Limits(cpu_seconds_max=1)) == "TimedOut"
    assert children() == before


async def test_whoever_stops_waiting_leaves_no_child() -> None:
    before = children()
    endless = pdf_with(b"BT /F 9 Tf " + b"(a) Tj 1 0 0 1 0 0 Tm " * 2_000_000 + b"ET")
    task = asyncio.create_task(parse("endless.pdf", endless))
    async with asyncio.timeout(20):
        while not children() > before:
            await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == before


async def test_the_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that a parser exploit would find: asked of a real child, through its own ``/proc``."""
    monkeypatch.setenv("FALAJ_SECRET_OF_TEST", "visible")
    before = children()
    endless = pdf_with(b"BT /F 9 Tf " + b"(a) Tj 1 0 0 1 0 0 Tm " * 2_000_000 + b"ET")
    task = asyncio.create_task(parse("endless.pdf", endless))
    child = 0
    async with asyncio.timeout(20):
        while not child:  # until it has become Python with its own command line
            await asyncio.sleep(0.02)
            started = [pid for pid in children() - before if b"knowledge.parsing" in command_of(pid)]
            child = next(iter(started), 0)
    environment = Path(f"/proc/{child}/environ").read_bytes()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b"PATH=" in environment
    assert b"visible" not in environment


def test_the_child_is_small() -> None:
    """Reading a PDF must not import what reading a PDF does not need."""
    script = (
        "import sys, falaj.services.knowledge.parsing.__main__ as child\n"
        "child.main(['pdf', str(1 << 30), '60']); print()\n"
        "print([name for name in ('lancedb', 'pyarrow', 'boto3', 'trafilatura') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=(DATA / "scan.pdf").read_bytes(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.decode().splitlines()[-1] == "[]"
