"""What the command prints, and where: results on stdout; progress and notes on stderr; nothing else on stdout.

With ``--json`` stdout carries exactly one JSON document (lines of JSON where a command follows something). Otherwise
tables and text, coloured only on a terminal that did not ask for ``NO_COLOR``. On a terminal right-to-left text is
wrapped in bidi isolates, so that a table's columns stay where they are; a pipe and JSON get the text as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.table import Table
from rich.text import Text

from falaj.cli.text import ISOLATE, POP, isolated, plain

#: A pipe has no width: what is written to one is never folded or cut.
_PIPE_COLUMNS = 100_000


class Output:
    """Where one run of the command writes.

    Args:
        as_json: print results as JSON.
        stdout, stderr: other streams than the process's own.
    """

    def __init__(self, *, as_json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = stdout
        self._stderr = stderr

    @cached_property
    def results(self) -> Console:
        """Stdout, for people."""
        return _console(self._stdout or sys.stdout)

    @cached_property
    def notes(self) -> Console:
        """Stderr."""
        return _console(self._stderr or sys.stderr)

    def document(self, value: Any) -> None:
        """Print the one JSON document of this run."""
        self.raw(json.dumps(value, ensure_ascii=False, indent=2, default=str))

    def line(self, value: Any) -> None:
        """Print one line of JSON, at once."""
        self.raw(json.dumps(value, ensure_ascii=False, default=str))

    def raw(self, text: str) -> None:
        """Print text to be read by a program or a shell: as it is, without folding."""
        stream = self._stdout or sys.stdout
        stream.write(text + "\n")
        stream.flush()

    def text(self, text: str, *, style: str = "") -> None:
        """Print a result for people, folded to the terminal."""
        self.results.print(Text(self.shown(text), style=style))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print rows under column names; None and the empty string are shown as a dash."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text("-" if cell in (None, "") else self.shown(str(cell))) for cell in row))
        with self.results.capture() as printed:
            self.results.print(table)
        # Cells are padded to their column; what pads the last one is nothing to anybody.
        self.results.file.write("\n".join(line.rstrip() for line in printed.get().split("\n")))

    def note(self, text: str) -> None:
        """Tell the person something that is not a result."""
        self.notes.print(Text(plain(text), style="dim"))

    def progress(self, *columns: ProgressColumn) -> Progress:
        """A live display on stderr that leaves nothing behind; shows nothing where stderr is not a terminal."""
        return Progress(*columns, console=self.notes, transient=True, disable=not self.notes.is_terminal)

    def shown(self, text: str) -> str:
        """Foreign text as it may stand among results: without controls, isolated on a terminal."""
        return isolated(plain(text)) if self.results.is_terminal else plain(text)


class RunningText:
    """Foreign text printed as it comes, each line of it in one bidi isolate on a terminal.

    An isolate is opened where a line begins and closed where it ends: pieces isolated one by one would be put in a row
    from left to right, which turns an Arabic sentence around.
    """

    def __init__(self, out: Output) -> None:
        self._console = out.results
        self._open = False

    def __enter__(self) -> RunningText:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._end_line()

    def write(self, text: str) -> None:
        """Print more of the text."""
        first, *others = plain(text).split("\n")
        self._write(first)
        for line in others:
            self._end_line()
            self._write(line)
        self._console.file.flush()

    def _write(self, text: str) -> None:
        if text and not self._open:
            self._open = True
            self._put(ISOLATE)
        self._console.file.write(text)

    def _end_line(self) -> None:
        if self._open:
            self._put(POP)
        self._open = False
        self._console.file.write("\n")

    def _put(self, control: str) -> None:
        if self._console.is_terminal:
            self._console.file.write(control)


def _console(stream: TextIO) -> Console:
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    return console
