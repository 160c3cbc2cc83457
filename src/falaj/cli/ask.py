"""``falaj ask``: a question to an agent, and its answer with citations.

On a terminal the answer is shown while it is written (OpenAI's wire, on which an agent is the model ``agent/NAME``);
otherwise, and with ``--json``, it is printed whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from falaj.cli.client import segments
from falaj.cli.completion import AGENT
from falaj.cli.options import DURATION
from falaj.cli.output import Output, RunningText
from falaj.cli.session import Session, with_session
from falaj.cli.text import duration
from falaj.errors import Transient

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
    out = session.out
    project = session.owner(session.kind("Agent"), agent)
    if out.results.is_terminal and not out.as_json:
        show_evidence(out, _streamed(session, project, agent, question, seconds_max=timeout))
        return
    with out.notes.status(f"{agent} is reading …"):
        path = segments("projects", project, "agents", agent, "ask")
        answer = session.client.post(path, {"question": question}, seconds_max=timeout)
    if out.as_json:
        out.document({field: answer[field] for field in FIELDS})
    else:
        out.text(answer["answer"].strip())
        show_evidence(out, answer)


def _streamed(session: Session, project: str, agent: str, question: str, *, seconds_max: float) -> dict[str, Any]:
    """Print the answer's text as it comes; returns the rest of the answer."""
    body = {
        "model": f"agent/{agent}",
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer: dict[str, Any] = {}
    spinner = session.out.notes.status(f"{agent} is reading …")
    with spinner, RunningText(session.out) as running:
        headers = {"Falaj-Project": project}
        for event in session.client.events("/v1/chat/completions", body, headers=headers, seconds_max=seconds_max):
            text = "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
            if text:
                spinner.stop()
                running.write(text)
            answer |= event.get("falaj") or {}
            answer["usage"] = event.get("usage") or answer.get("usage") or {}
    if "citations" not in answer:
        raise Transient("the answer ended without its citations", where=agent, hint="ask again")
    return answer


def show_evidence(out: Output, answer: Mapping[str, Any]) -> None:
    """Print what an answer rests on: the numbered citations, and what it cost."""
    if answer["citations"]:
        out.text("")
    for number, citation in enumerate(answer["citations"], start=1):
        place = " › ".join(part for part in (citation["document"], citation["heading"]) if part)
        out.text(f"[{number}] {place}", style="bold")
        out.text(f"    {_short(citation['quote'])}", style="dim")
    usage = answer["usage"]
    tokens = f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens"
    out.text(f"\n{answer['model']} · {answer['site']} · {tokens} · {duration(answer['seconds'])}", style="dim")


def _short(quote: str) -> str:
    """A quote on one line, cut at a word when it is long."""
    line = " ".join(quote.split())
    if len(line) <= _QUOTE_CHARACTERS_MAX:
        return line
    return line[:_QUOTE_CHARACTERS_MAX].rsplit(" ", 1)[0] + " …"
