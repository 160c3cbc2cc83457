"""What a process tells its operators: structured logs on standard error and metrics for Prometheus, without secrets.

One log line is one JSON object: ``time`` (UTC), ``level``, ``logger``, ``message``, ``request_id`` while a request is
served, the fields given as ``extra``, and ``error`` with the traceback. Keys of Falaj, bearer tokens, fields that are
named like secrets, and every value given to ``hide`` are replaced before the line is written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, time
from typing import Any, Final
from uuid import uuid4

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

#: The id of the request that this task serves; empty outside of one.
request_id: ContextVar[str] = ContextVar("request_id", default="")

LINE_CHARACTERS_MAX: Final = 16_384
#: Latencies from a cached answer (1 ms) to a long generation on a processor (2 min), in seconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SECRET_NAME = re.compile(r"(?i)authorization|password|secret|credential|api_?key|private")
_SECRET_TEXT = re.compile(r"(flj_[0-9A-Za-z]+_)[0-9A-Za-z_-]+|(?i:(bearer\s+))[\w.~+/=-]{8,}")
_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_hidden: set[str] = set()

#: Reads gauges when Prometheus asks: pairs of label values and a number.
GaugeReader = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


def hide(*values: str) -> None:
    """Never write these values to a log again. Shorter ones than 8 characters are left: they would hide plain words."""
    _hidden.update(value for value in values if len(value) >= 8)


def redact(text: str) -> str:
    """``text`` with every secret that is known, or looks like one, replaced by ``***``."""
    text = _SECRET_TEXT.sub(lambda match: f"{match[1] or match[2]}***", text)
    for value in _hidden:
        if value in text:
            text = text.replace(value, "***")
    return text


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, redacted and at most ``LINE_CHARACTERS_MAX`` long in each field."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _bounded(record.getMessage()),
        }
        if current := request_id.get():
            line["request_id"] = current
        for name, value in vars(record).items():
            if name not in _STANDARD_FIELDS:
                line[name] = "***" if _SECRET_NAME.search(name) else _plain(value)
        if record.exc_info:
            line["error"] = _bounded(self.formatException(record.exc_info), tail=True)
        return orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS, default=_bounded).decode()


def _bounded(value: object, *, tail: bool = False) -> str:
    text = redact(str(value))
    if len(text) <= LINE_CHARACTERS_MAX:
        return text
    return "…" + text[-LINE_CHARACTERS_MAX:] if tail else text[:LINE_CHARACTERS_MAX] + "…"


def _plain(value: object) -> object:
    """The value as JSON, with secrets taken out at every depth."""
    if isinstance(value, Mapping):
        items = list(value.items())[:64]
        return {str(key): "***" if _SECRET_NAME.search(str(key)) else _plain(item) for key, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:64]]
    return value if isinstance(value, bool | int | float) or value is None else _bounded(value)


def configure_logging(level: str) -> None:
    """Send every log line of this process to standard error as JSON, from ``level`` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer", "asyncio", "uvicorn", "aiohttp.access", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def new_request_id(offered: str = "") -> str:
    """The id that the client offered, when it is harmless, or a new one."""
    return offered if _REQUEST_ID.fullmatch(offered) else uuid4().hex


class Metrics:
    """The metrics of one process, in a registry of their own; names and labels are bounded by what is declared."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "falaj_requests", "Requests answered.", ("wire", "route", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "falaj_request_seconds",
            "From the head of a request to the end of its answer.",
            ("wire", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.requests_in_progress = Gauge(
            "falaj_requests_in_progress", "Requests being answered.", registry=self.registry
        )
        self.first_byte_seconds = Histogram(
            "falaj_first_byte_seconds",
            "From the head of a streamed request to the first byte of its stream.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "falaj_tokens",
            "Tokens read (input) and written (output) by models.",
            ("model", "type"),
            registry=self.registry,
        )

    def gauges(self, name: str, help_text: str, labels: tuple[str, ...], read: GaugeReader) -> None:
        """Expose gauges whose values are read when Prometheus asks, so that they are never stale."""
        self.registry.register(_ReadGauges(name, help_text, labels, read))

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


class ReconcileMetrics:
    """What ``control`` counts; it has no wire, so it leaves the text in a file that ``gateway`` serves too."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._steps = Counter(
            "falaj_reconciles", "Steps of controllers, by outcome.", ("kind", "outcome"), registry=self.registry
        )
        self._seconds = Histogram(
            "falaj_reconcile_seconds", "Duration of a step.", ("kind",), buckets=_SECONDS, registry=self.registry
        )

    @contextmanager
    def step(self, kind: str) -> Iterator[None]:
        """Count and time one step of a controller; its outcome is ``ok`` or the name of the error that left it."""
        start = perf_counter()
        outcome = "ok"
        try:
            yield
        except BaseException as error:  # counted whatever it is, and passed on
            outcome = type(error).__name__
            raise
        finally:
            self._steps.labels(kind, outcome).inc()
            self._seconds.labels(kind).observe(perf_counter() - start)

    def write(self, path: Path) -> None:
        """Leave the metrics in ``path``, in one motion.

        Raises:
            OSError: the folder cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(generate_latest(self.registry))
        os.replace(partial, path)


def read_metrics(path: Path, *, age_seconds_max: float = 60.0) -> bytes:
    """Metrics that another process left in a file; empty when there are none or that process stopped writing them."""
    try:
        if time() - path.stat().st_mtime > age_seconds_max:
            return b""
        return path.read_bytes()
    except FileNotFoundError:
        return b""


class _ReadGauges(Collector):
    def __init__(self, name: str, help_text: str, labels: tuple[str, ...], read: GaugeReader) -> None:
        self._family = (name, help_text, labels)
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        name, help_text, labels = self._family
        family = GaugeMetricFamily(name, help_text, labels=labels)
        for values, number in self._read():
            family.add_metric(values, number)
        return [family]
