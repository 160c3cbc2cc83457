"""docs/guides/cli.md against the command: what it shows exists, and what exists is shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from falaj.cli.main import COMMANDS, falaj

GUIDE = (Path(__file__).parents[2] / "docs/guides/cli.md").read_text()
SHARED = {"--home", "--url", "--key-file", "--project", "--json", "--help"}
#: Their options are told by `--help` alone, as the guide says.
LOCAL = {"falaj up", "falaj down", "falaj logs"}


def command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words begin with, and the rest of them."""
    found: click.Command = falaj
    while isinstance(found, click.Group) and words:
        inner = found.get_command(click.Context(found), words[0])
        assert inner is not None, f"there is no command {words[0]!r}"
        found, words = inner, words[1:]
    return found, words


def leaves() -> Iterator[str]:
    for name in COMMANDS:
        found, _ = command([name])
        if isinstance(found, click.Group):
            yield from (f"falaj {name} {inner}" for inner in found.commands)
        else:
            yield f"falaj {name}"


def sections() -> dict[str, str]:
    parts = re.split(r"^### (.+)$", GUIDE, flags=re.MULTILINE)
    found = zip(parts[1::2], parts[2::2], strict=True)
    return {title: re.split(r"^## ", text, flags=re.MULTILINE)[0] for title, text in found}


@pytest.mark.parametrize("name", list(leaves()))
def test_every_command_has_a_section_with_an_example_and_its_options(name: str) -> None:
    section = sections()[name]
    assert re.search(rf"^{name}\b", section, re.MULTILINE), f"no example of {name}"
    found, _ = command(name.split()[1:])
    if name in LOCAL:
        return
    for parameter in found.params:
        names = {*parameter.opts, *parameter.secondary_opts}
        if isinstance(parameter, click.Option) and not names & SHARED:
            assert any(f"{option}" in section for option in names), f"{name} does not tell about {names}"


def test_every_section_is_a_command() -> None:
    assert set(sections()) == set(leaves())


@pytest.mark.parametrize("line", re.findall(r"^falaj .+$", GUIDE, re.MULTILINE))
def test_every_example_is_a_command_that_can_be_run(line: str) -> None:
    found, arguments = command(shlex.split(line, comments=True)[1:])
    with found.make_context(line, arguments):
        pass
