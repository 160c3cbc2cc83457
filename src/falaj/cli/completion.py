"""``falaj completion``: the completion script of a shell, and the words that only the region knows."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from falaj.cli.options import region_options
from falaj.cli.session import Session, session_of
from falaj.errors import FalajError, Invalid

SHELLS = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions/falaj.fish"}


def names(session: Session, word: str, incomplete: str) -> list[str]:
    """The names of a kind's resources that begin so; none when the region cannot be asked: completion never fails."""
    try:
        kind = session.kind(word)
        items = session.list(kind, project=session.project if kind.of_project else None)
        found = {item["metadata"]["name"] for item in items}
    except FalajError:
        return []
    return sorted(name for name in found if name.startswith(incomplete))


def resource_words(session: Session, incomplete: str) -> list[str]:
    """``kind/`` while no slash was written, then ``kind/name``; with a project in it when it was written so."""
    word, slash, rest = incomplete.partition("/")
    if not slash:
        try:
            return sorted(
                f"{kind.name.lower()}/" for kind in session.kinds.values() if kind.name.lower().startswith(word)
            )
        except FalajError:
            return []
    project, slash, begun = rest.partition("/")
    if slash:
        session.project = project
        return [f"{word}/{project}/{name}" for name in names(session, word, begun)]
    return [f"{word}/{name}" for name in names(session, word, rest)]


class ResourceName(click.ParamType[str]):
    """``kind/name`` or ``kind/project/name``; completed by asking the region."""

    name = "kind/name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Kinds while no slash was written, then the names of that kind."""
        return [CompletionItem(word) for word in resource_words(session_of(dict(ctx.params), ctx), incomplete)]


class AgentName(click.ParamType[str]):
    """The name of an agent; completed by asking the region."""

    name = "agent"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The agents whose names begin so."""
        return [CompletionItem(name) for name in names(session_of(dict(ctx.params), ctx), "agents", incomplete)]


RESOURCE = ResourceName()
AGENT = AgentName()


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@region_options
def completion(shell: str, **_: object) -> None:
    """Print the completion script of a shell.

    \b
    bash: falaj completion bash >> ~/.bashrc
    zsh:  falaj completion zsh >> ~/.zshrc
    fish: falaj completion fish > ~/.config/fish/completions/falaj.fish
    """
    script = get_completion_class(shell)
    if script is None:
        raise Invalid(f"there is no completion for {shell!r}", hint=f"one of: {', '.join(SHELLS)}")
    root = click.get_current_context().find_root().command
    click.echo(script(root, {}, "falaj", "_FALAJ_COMPLETE").source())
