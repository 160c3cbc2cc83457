"""How well the handbook agent answers: right document cited, unanswerable refused, right fact said, seconds taken.

    python benchmarks/answers.py [--split test] [--languages en,ar,fr] [--limit N] [--output answers.jsonl]

Asks a running region (``make run`` leaves one) every question of ``benchmarks/data/handbook-questions.jsonl``, one
after another. With ``--output`` each result is kept as it comes, and a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from falaj.cli.client import Client
from falaj.settings import load

QUESTIONS = Path(__file__).parent / "data" / "handbook-questions.jsonl"
ANSWER_SECONDS_MAX = 300.0


def questions(split: str, languages: Iterable[str], limit: int | None) -> list[dict[str, Any]]:
    """The rows of the split, language by language; ``limit`` takes so many of each language, spread evenly."""
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    chosen: list[dict[str, Any]] = []
    for language in languages:
        own = [row for row in rows if row["language"] == language and split in ("all", row["split"])]
        step = max(1, len(own) // limit) if limit else 1
        chosen += own[::step][:limit]
    return chosen


def ask(client: Client, row: dict[str, Any]) -> dict[str, Any]:
    """Put one question and judge the answer by what the row expects."""
    path = "/falaj/v1/projects/handbook/agents/handbook/ask"
    reply = client.post(path, {"question": row["question"]}, seconds_max=ANSWER_SECONDS_MAX)
    documents = [PurePosixPath(citation["document"]).name for citation in reply["citations"]]
    said = reply["answer"].casefold()
    return {
        "id": row["id"],
        "language": row["language"],
        "answerable": row["document"] is not None,
        "refused": reply["refused"],
        "cited_right": row["document"] in documents,
        "said_right": any(part.casefold() in said for part in row["answer_contains"]),
        "seconds": reply["seconds"],
        "tokens": reply["usage"]["total_tokens"],
        "documents": documents,
        "answer": reply["answer"],
    }


def share(results: list[dict[str, Any]], name: str) -> float:
    """The share of results in which ``name`` is true."""
    return round(statistics.mean(float(result[name]) for result in results), 3) if results else 0.0


def summary(results: list[dict[str, Any]]) -> dict[str, dict[str, float | int]]:
    """Figures for each language and for all together."""
    table: dict[str, dict[str, float | int]] = {}
    for language in [*dict.fromkeys(result["language"] for result in results), "all"]:
        own = [result for result in results if language in ("all", result["language"])]
        answerable = [result for result in own if result["answerable"]]
        unanswerable = [result for result in own if not result["answerable"]]
        seconds = sorted(result["seconds"] for result in own)
        table[language] = {
            "answerable": len(answerable),
            "cited_right": share(answerable, "cited_right"),
            "said_right": share(answerable, "said_right"),
            "refused_wrongly": share(answerable, "refused"),
            "unanswerable": len(unanswerable),
            "refused": share(unanswerable, "refused"),
            "seconds_p50": round(statistics.median(seconds), 1),
            "seconds_max": round(seconds[-1], 1),
        }
    return table


def show(table: dict[str, dict[str, float | int]]) -> None:
    """The figures as a table on standard error, a language a column."""
    shown = Table("", *table)
    for name in next(iter(table.values())):
        shown.add_row(name.replace("_", " "), *(str(figures[name]) for figures in table.values()))
    Console(stderr=True).print(shown)


def main() -> int:
    """Run the benchmark; JSON on standard output, progress and a table on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=["dev", "test", "all"], default="test")
    parser.add_argument("--languages", default="en,ar,fr")
    parser.add_argument("--limit", type=int, help="at most so many questions a language")
    parser.add_argument("--output", type=Path, help="keep every result here, one JSON line each")
    options = parser.parse_args()
    settings = load()
    client = Client(settings.url, (settings.secrets_dir / "admin.key").read_text().strip())
    done: dict[str, dict[str, Any]] = {}
    if options.output and options.output.is_file():
        done = {row["id"]: row for row in map(json.loads, options.output.read_text().splitlines())}
    rows = questions(options.split, options.languages.split(","), options.limit)
    for row in track(rows, "asking", console=Console(stderr=True)):
        if row["id"] in done:
            continue
        done[row["id"]] = ask(client, row)
        if options.output:
            with options.output.open("a") as file:
                file.write(json.dumps(done[row["id"]], ensure_ascii=False) + "\n")
    results = [done[row["id"]] for row in rows]
    table = summary(results)
    show(table)
    print(json.dumps({"benchmark": "answers", "split": options.split, "figures": table}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
