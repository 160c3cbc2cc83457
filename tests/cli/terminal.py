"""Runs the `falaj` command as a person does on a terminal, and as a script does."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

from falaj.cli.main import main

FALAJ = [sys.executable, "-m", "falaj.cli.main"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without its FALAJ_… variables, with ``home`` as the region's folder."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("FALAJ_")}
    return {**kept, "FALAJ_HOME": str(home), "NO_COLOR": "", **more}


def run(
    *arguments: str, env: Mapping[str, str], stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The command in this process, with pipes on all sides: what importing it costs is paid once."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    before = (sys.stdin, sys.excepthook)
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with (
            patch.dict(os.environ, env, clear=True),
            contextlib.chdir(cwd or "."),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            code = main(arguments)
    finally:
        sys.stdin, sys.excepthook = before
    outputs = []
    for stream in (stdout, stderr):
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        outputs.append(stream.buffer.getvalue())
    return subprocess.CompletedProcess(arguments, code, *outputs)


def run_process(
    *arguments: str, env: Mapping[str, str], stdin: bytes = b"", seconds_max: float = 60, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The command as a process, with pipes on all sides."""
    return subprocess.run(
        [*FALAJ, *arguments], env=dict(env), input=stdin, capture_output=True, timeout=seconds_max, check=False, cwd=cwd
    )


def on_terminal(*arguments: str, env: Mapping[str, str], seconds_max: float = 60) -> tuple[int, str]:
    """The command on a pseudo terminal: its exit code and everything that was shown."""
    master, slave = pty.openpty()
    process = subprocess.Popen([*FALAJ, *arguments], env=dict(env), stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    deadline = time.monotonic() + seconds_max
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    piece = os.read(master, 65536)
                except OSError:  # Linux says EIO when the other end is closed
                    break
                shown += piece
        return process.wait(timeout=max(deadline - time.monotonic(), 1)), shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(master)
