"""Waits until resources are ready or gone, and shows how far they are.

On a terminal every resource has a live line: a bar where its status counts something (bytes of a model, documents of a
knowledge base, replicas of an endpoint), its condition otherwise. Elsewhere a line is written when something changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from falaj.cli.completion import RESOURCE
from falaj.cli.options import DURATION
from falaj.cli.output import Output
from falaj.cli.session import Reference, Session, with_session
from falaj.cli.text import duration, plain, size
from falaj.errors import NotFound, Terminal, Transient

READY, DELETED = "Ready", "deleted"
WAIT_SECONDS = 300.0
_LOOK_SECONDS_MIN, _LOOK_SECONDS_MAX = 0.2, 1.0
_SINGLE_LOOKS_MAX = 16
"""More resources than this are looked at by listing their kinds, a page at a time."""
_LINES_MAX = 24
_SAID_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of something is done."""

    done: int
    total: int
    unit: str

    def __str__(self) -> str:
        if self.unit == "bytes":
            return f"{size(self.done)} of {size(self.total)}"
        return f"{self.done} of {self.total} {self.unit}"


def amount(resource: Mapping[str, Any]) -> Amount | None:
    """What the status of a resource counts, when its kind counts something and there is something to count."""
    spec, status = resource["spec"], resource["status"]
    match resource["kind"]:
        case "Model":
            counted = Amount(status.get("bytes_done", 0), status.get("bytes_total", 0), "bytes")
        case "KnowledgeBase":
            done = status.get("documents_ready", 0) + status.get("documents_failed", 0)
            counted = Amount(done, status.get("documents", 0), "documents")
        case "Endpoint":
            ready = sum(replica["ready"] for replica in status.get("replicas", ()))
            counted = Amount(ready, spec.get("replicas", 1), "replicas")
        case _:
            return None
    return counted if counted.total else None


@dataclass(frozen=True, slots=True)
class Seen:
    """A resource as the last look showed it; ``resource`` is None when it is not there."""

    reference: Reference
    resource: Mapping[str, Any] | None

    def condition(self, kind: str = READY) -> Mapping[str, Any]:
        """The condition of that type; empty when it was not reported for the spec as it is now."""
        if self.resource is None:
            return {}
        status = self.resource["status"]
        if status.get("observedGeneration", 0) < self.resource["metadata"].get("generation", 0):
            return {}
        return next((c for c in status.get("conditions", ()) if c["type"].lower() == kind.lower()), {})

    def reached(self, goal: str) -> bool:
        """Whether the resource is gone, or has the condition that ``goal`` names."""
        return self.resource is None if goal == DELETED else self.condition(goal).get("status") == "True"

    def as_dict(self, goal: str) -> dict[str, Any]:
        """The row of the JSON document."""
        condition = {} if goal == DELETED else self.condition(goal)
        return {
            "kind": self.reference.kind.name,
            "project": self.reference.project,
            "name": self.reference.name,
            "reached": self.reached(goal),
            "reason": condition.get("reason", ""),
            "message": condition.get("message", ""),
        }

    @property
    def state(self) -> str:
        """What there is to say about it, for people."""
        if self.resource is None:
            return "gone"
        if self.resource["metadata"].get("deletionRequestedAt"):
            return "deleting"
        conditions = self.resource["status"].get("conditions", ())
        condition: Mapping[str, Any] = next((c for c in conditions if c["type"] == READY), {})
        said = ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
        return said or "not looked at yet"


def look(session: Session, references: Sequence[Reference]) -> list[Seen]:
    """The resources as they are now, in the order given."""
    if len(references) <= _SINGLE_LOOKS_MAX:
        return [Seen(reference, _one(session, reference)) for reference in references]
    found: dict[Reference, Mapping[str, Any]] = {}
    for kind, project in {(reference.kind, reference.project) for reference in references}:
        for item in session.list(kind, project=project):
            found[Reference(kind, project, item["metadata"]["name"])] = item
    return [Seen(reference, found.get(reference)) for reference in references]


def _one(session: Session, reference: Reference) -> Mapping[str, Any] | None:
    try:
        resource: Mapping[str, Any] = session.client.get(reference.path)
    except NotFound:
        return None
    return resource


def wait_for(
    session: Session, references: Sequence[Reference], *, goal: str = READY, seconds_max: float = WAIT_SECONDS
) -> list[Seen]:
    """Look until every resource reached the goal.

    A region that does not answer for a while is waited for, like everything else.

    Raises:
        NotFound: a resource that should become ready is not there. Terminal: it failed and will not be tried again.
        Transient: the time is over; the message lists what is missing and why.
    """
    started = time.monotonic()
    pause, seen, trouble = _LOOK_SECONDS_MIN, [], None
    with Display(session.out, references, goal) as display:
        while True:
            try:
                seen = look(session, references)
                trouble = None
            except Transient as error:
                trouble = error
            if trouble is None:
                display.show(seen)
                missing = [item for item in seen if not item.reached(goal)]
                if not missing:
                    return seen
                if goal != DELETED:
                    _refuse_hopeless(missing)
            if time.monotonic() - started + pause > seconds_max:
                raise trouble or _too_late(missing, goal, seconds_max)
            time.sleep(pause)
            pause = min(pause * 1.3, _LOOK_SECONDS_MAX)


def _refuse_hopeless(missing: Iterable[Seen]) -> None:
    """End the wait for what will not come by itself."""
    for item in missing:
        condition = item.condition()
        if condition.get("reason") == Terminal.__name__:
            raise Terminal(
                condition.get("message") or "it failed for good",
                where=str(item.reference),
                hint="change what is wrong, or delete it and declare it again",
            )
        if item.resource is None:
            raise NotFound(
                f"there is no {item.reference}",
                hint=f"declare it first, or see `falaj get {item.reference.kind.plural}`",
            )


def _too_late(missing: Sequence[Seen], goal: str, seconds_max: float) -> Transient:
    listed = "; ".join(f"{item.reference} ({item.state})" for item in missing[:5])
    more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
    first = missing[0].reference
    return Transient(
        f"{len(missing)} not {goal if goal == DELETED else goal.lower()} after {duration(seconds_max)}: {listed}{more}",
        where="wait",
        hint=f"wait longer with --timeout, or see `falaj describe {first}`",
    )


class Display:
    """The live lines on stderr."""

    def __init__(self, out: Output, references: Sequence[Reference], goal: str) -> None:
        self._out = out
        self._goal = goal
        self._many = len(references) > _LINES_MAX
        self._progress: Progress | None = None
        self._tasks: dict[Reference, TaskID] = {}
        self._said: dict[Reference, tuple[str, float]] = {}

    def __enter__(self) -> Display:
        if self._out.notes.is_terminal:
            self._progress = self._out.progress(
                SpinnerColumn(finished_text="✓"),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[state]}", markup=False),
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, seen: Sequence[Seen]) -> None:
        """Bring the lines up to what was seen."""
        if self._progress is None:
            self._say(seen)
        elif self._many:
            self._draw_sum(self._progress, seen)
        else:
            for item in seen:
                self._draw(self._progress, item)

    def _draw(self, progress: Progress, item: Seen) -> None:
        counted = amount(item.resource) if item.resource is not None else None
        reached = item.reached(self._goal)
        if item.reference not in self._tasks:
            self._tasks[item.reference] = progress.add_task(str(item.reference), total=None, state="")
        total, done = (counted.total, float(counted.done)) if counted else (None, 0.0)
        if reached:
            total = total or 1
            done = total
        elif total is not None and done >= total:
            done = total - 1e-3  # everything is counted, but the condition does not hold yet
        progress.update(self._tasks[item.reference], total=total, completed=done, state=plain(_line(item, counted)))

    def _draw_sum(self, progress: Progress, seen: Sequence[Seen]) -> None:
        reached = sum(item.reached(self._goal) for item in seen)
        first = seen[0].reference
        if first not in self._tasks:
            self._tasks[first] = progress.add_task(f"{len(seen)} resources", total=len(seen), state="")
        progress.update(self._tasks[first], completed=reached, state=f"{reached} {self._goal.lower()}")

    def _say(self, seen: Sequence[Seen]) -> None:
        if self._many:
            reached = sum(item.reached(self._goal) for item in seen)
            self._say_once(seen[0].reference, f"{reached} of {len(seen)} {self._goal.lower()}")
            return
        for item in seen:
            counted = amount(item.resource) if item.resource is not None else None
            line = f"{item.reference}: {_line(item, counted)}"
            self._say_once(item.reference, line, at_once=item.reached(self._goal))

    def _say_once(self, reference: Reference, line: str, *, at_once: bool = False) -> None:
        before, said_at = self._said.get(reference, ("", float("-inf")))
        now = time.monotonic()
        if line != before and (at_once or now - said_at >= _SAID_AGAIN_SECONDS):
            self._said[reference] = (line, now)
            self._out.note(line)


def _line(item: Seen, counted: Amount | None) -> str:
    """How far it is, in a line; what the condition counts itself is not said twice."""
    return item.state if counted is None or str(counted) in item.state else f"{counted}, {item.state}"


def report(
    session: Session, seen: Sequence[Seen], *, goal: str, seconds: float, more: Mapping[str, Any] | None = None
) -> None:
    """Print what was waited for."""
    if session.out.as_json:
        rows = [item.as_dict(goal) for item in seen]
        session.out.document({**(more or {}), "items": rows, "seconds": round(seconds, 3)})
        return
    for item in seen:
        session.out.text(f"{item.reference} {goal.lower()}")


def timed(action: Callable[[], list[Seen]]) -> tuple[list[Seen], float]:
    """What ``action`` returned, and how many seconds it took."""
    started = time.monotonic()
    return action(), time.monotonic() - started


@click.command()
@click.argument("resources", nargs=-1, required=True, type=RESOURCE)
@click.option("--for", "goal", default=READY, show_default=True, help="A condition's type, or `deleted`.")
@click.option("--timeout", type=DURATION, default="5m", show_default=True, help="How long to wait: 90s, 5m, 1h.")
@with_session
def wait(session: Session, resources: tuple[str, ...], goal: str, timeout: float) -> None:
    """Wait until resources are ready, or gone.

    RESOURCES are written kind/name or kind/project/name. Exit code 7 when the time is over.
    """
    goal = DELETED if goal.lower() == DELETED else goal
    references: list[Reference] = []
    for text in resources:
        try:
            references.append(session.reference(text))
        except NotFound:
            if goal != DELETED:
                raise
    seen, seconds = timed(lambda: wait_for(session, references, goal=goal, seconds_max=timeout))
    report(session, seen, goal=goal, seconds=seconds)
