"""The ``falaj`` command: finds the subcommand, and turns whatever went wrong into words and an exit code.

Subcommands are imported when they are called, so ``falaj --help`` and completion answer at once.

Exit codes: 0 done · 1 error · 2 wrong as written · 3 not found · 4 denied · 5 conflict · 6 limit passed ·
7 may succeed later (nothing answers, a wait timed out) · 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import click

from falaj.cli.options import region_options
from falaj.cli.text import plain
from falaj.errors import FalajError, Invalid, nearest

#: Each command's module, its attribute there, and the line that `falaj --help` shows for it.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("local", "up", "Start the region of this machine, and make it first if there is none."),
    "down": ("local", "down", "Stop the region of this machine; its data stay."),
    "logs": ("local", "logs", "Show the logs of this machine's processes."),
    "status": ("status", "status", "Show whether the region is ready, its sites and engines."),
    "apply": ("apply", "apply", "Declare resources from files; all of them or none."),
    "get": ("resources", "get", "List resources, or show one."),
    "describe": ("resources", "describe", "Tell everything about one resource."),
    "delete": ("resources", "delete", "Ask for the deletion of resources."),
    "wait": ("waiting", "wait", "Wait until resources are ready, or gone."),
    "events": ("events", "events", "Show what happened to resources."),
    "models": ("models", "models", "See the model catalogue; pull models."),
    "objects": ("objects", "objects", "Put, get and list the objects of buckets."),
    "ask": ("ask", "ask", "Ask an agent; it answers from its documents and cites them."),
    "keys": ("keys", "keys", "Create, list and revoke API keys."),
    "settings": ("about", "settings", "Show the settings in force, and where each came from."),
    "completion": ("completion", "completion", "Print the completion script of a shell."),
    "version": ("about", "version", "Print the version."),
}

_EXIT_CODES = {"Invalid": 2, "NotFound": 3, "Denied": 4, "Conflict": 5, "LimitExceeded": 6, "Transient": 7}
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table: the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"falaj.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that ``args`` begins with; a wrong name is answered with the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise Invalid(f"there is no command {args[0]!r}", hint=nearest(args[0], COMMANDS) or "see `falaj --help`")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands with their lines from the table; nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@region_options
def falaj(**options: Any) -> None:
    """Run a region of models, data and agents on your own machines.

    Start one with `falaj up`; declare what it should hold with `falaj apply -f FILE`; ask with `falaj ask AGENT "…"`.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    sys.excepthook = _unexpected
    use_utf8()
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in (given[: given.index("--")] if "--" in given else given)
    try:
        code = falaj.main(given, prog_name="falaj", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        print_error(_usage(error), as_json=as_json)
        return error.exit_code
    except FalajError as error:
        if debugging():
            raise
        print_error(error, as_json=as_json)
        return _EXIT_CODES.get(error.code, 1)
    return code if isinstance(code, int) else 0


def print_error(error: FalajError, *, as_json: bool) -> None:
    """Say what is wrong, where and what to do: on stderr, or with ``--json`` as the one document on stdout."""
    if as_json:
        print(json.dumps({"error": error.as_dict()}, ensure_ascii=False, indent=2), flush=True)
        return
    coloured = not os.environ.get("NO_COLOR")  # click itself leaves colours out where stderr is not a terminal
    for label, text in (("error:", error.message), ("where:", error.where), ("to do:", error.hint)):
        if text:
            click.echo(f"{click.style(label, bold=True) if coloured else label} {plain(text)}", err=True)


def debugging() -> bool:
    """Whether ``FALAJ_DEBUG`` asks for tracebacks."""
    return os.environ.get("FALAJ_DEBUG", "") not in {"", "0"}


def use_utf8() -> None:
    """Make stdout and stderr UTF-8 whatever the locale says; what UTF-8 cannot hold is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _usage(error: click.ClickException) -> FalajError:
    """A mistake in how the command was written, in the shape of every other error."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "falaj"
    return Invalid(error.format_message().rstrip("."), where=command, hint=f"see `{command} --help`")


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python calls for an error that nobody handled: a sentence for people, the trace when it was asked for."""
    if issubclass(kind, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    if debugging():
        sys.__excepthook__(kind, error, trace)
        return
    print(
        f"error: falaj itself failed: {kind.__name__}: {error}\n"
        "to do: run it again with FALAJ_DEBUG=1 and report what it prints",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
