"""What the commands have in common: where the region is, how results are printed, and how values are read.

Every option that says which region stands before the command or after it: ``falaj --json status`` is
``falaj status --json``. The nearer one wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
DURATION_SECONDS_MAX = 7 * 86400.0


def region_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command and the group itself take."""
    options = (
        click.option("--home", type=click.Path(path_type=Path), help="Folder of the region's state (FALAJ_HOME)."),
        click.option("--url", metavar="URL", help="Address of the region (FALAJ_URL)."),
        click.option(
            "--key-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File with the API key (FALAJ_API_KEY holds the key itself).",
        ),
        click.option("-p", "--project", metavar="NAME", help="Project (FALAJ_PROJECT)."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    )
    for option in reversed(options):
        function = option(function)
    return function


class Duration(click.ParamType[float]):
    """A length of time in seconds: ``90``, ``90s``, ``5m``, ``1.5h``; Arabic-Indic digits are read too."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; a number stands for itself."""
        if isinstance(value, int | float):
            return float(value)
        match = _DURATION.fullmatch(str(value).strip().lower().replace("٫", "."))
        if match is None:
            self.fail(f"{value!r} is not a length of time; write 90s, 5m or 1h", param, ctx)
        # float() reads the digits of every script, as int() does for the options that are whole numbers.
        seconds = float(match[1]) * _SECONDS[match[2]]
        if seconds > DURATION_SECONDS_MAX:
            self.fail(f"{value!r} is longer than 7 days", param, ctx)
        return seconds


class Label(click.ParamType[str]):
    """A label to select by: ``team=claims``."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself when it is ``key=value``."""
        key, equals, _ = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not key=value", param, ctx)
        return str(value)


DURATION = Duration()
LABEL = Label()
