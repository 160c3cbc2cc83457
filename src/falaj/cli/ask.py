"""``falaj ask``: a question to an agent, and its answer with citations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from falaj.cli.client import segments
from falaj.cli.completion import AGENT
from falaj.cli.options import DURATION
from falaj.cli.output import Output
from falaj.cli.session import Session, with_session
from falaj.cli.text import duration

_QUOTE_CHARACTERS_MAX = 240
#: What a script may rely on; the wire may carry more.
FIELDS = ("answer", "citations", "refused", "model", "site", "usage", "seconds")


@click.command()
@click.argument("agent", type=AGENT)
@click.argument("question")
@click.option("--timeout", type=DURATION, default="5m", show_default=True, help="How long the agent may take.")
@with_session
def ask(session: Session, agent: str, question: str, timeout: float) -> None:
    """Ask an agent; it answers from its documents and cites them, or says that they do not tell."""
    project = session.owner(session.kind("Agent"), agent)
    path = segments("projects", project, "agents", agent, "ask")
    with session.out.notes.status(f"{agent} is reading …"):
        answer = session.client.post(path, {"question": question}, seconds_max=timeout)
    if session.out.as_json:
        session.out.document({field: answer[field] for field in FIELDS})
    else:
        show(session.out, answer)


def show(out: Output, answer: Mapping[str, Any]) -> None:
    """Print an answer for people: the text, the numbered citations, and what it cost."""
    out.text(answer["answer"].strip())
    if answer["citations"]:
        out.text("")
    for number, citation in enumerate(answer["citations"], start=1):
        place = " › ".join(part for part in (citation["document"], citation["heading"]) if part)
        out.text(f"[{number}] {out.shown(place)}", style="bold")
        out.text("    " + out.shown(_short(citation["quote"])), style="dim")
    usage = answer["usage"]
    tokens = f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
    out.text(f"\n{answer['model']} · {answer['site']} · {tokens} · {duration(answer['seconds'])}", style="dim")


def _short(quote: str) -> str:
    """A quote on one line, cut at a word when it is long."""
    line = " ".join(quote.split())
    if len(line) <= _QUOTE_CHARACTERS_MAX:
        return line
    return line[:_QUOTE_CHARACTERS_MAX].rsplit(" ", 1)[0] + " …"
