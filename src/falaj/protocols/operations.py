"""What operators' tools ask of a process: is it alive, is the region ready, how is it doing.

Prometheus needs a key, as every caller but the two health probes does::

    scrape_configs:
      - job_name: falaj
        authorization: {credentials_file: /path/to/a/file/with/the/key}
        static_configs: [{targets: ["127.0.0.1:7440"]}]
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from falaj.errors import FalajError
from falaj.protocols.http import Call, MethodNotAllowed
from falaj.protocols.server import unknown_path

HEALTH, READY, METRICS = "/healthz", "/readyz", "/metrics"
PUBLIC = frozenset({HEALTH, READY})
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold before the region is ready."""

    name: str
    ready: bool
    message: str = ""


class Operations:
    """Serves ``/healthz``, ``/readyz`` and ``/metrics``."""

    def __init__(self, checks: Callable[[], Awaitable[list[Check]]], metrics: Callable[[], bytes]) -> None:
        self._checks = checks
        self._metrics = metrics

    async def handle(self, call: Call) -> None:
        """Serve one call."""
        if call.path not in {HEALTH, READY, METRICS}:
            raise unknown_path(call)
        call.route = call.path
        if call.method != "GET":
            raise MethodNotAllowed(call.method, ["GET"])
        if call.path == HEALTH:
            await call.answer_json(200, {"alive": True})
        elif call.path == METRICS:
            await call.answer(200, self._metrics(), _METRICS_TYPE)
        else:
            checks = await self._checks()
            ready = all(check.ready for check in checks)
            details = [{"name": check.name, "ready": check.ready, "message": check.message} for check in checks]
            await call.answer_json(200 if ready else 503, {"ready": ready, "checks": details})


def error(error: FalajError, request_id: str) -> dict[str, Any]:
    """Errors in the shape of the REST wire."""
    del request_id
    return {"error": error.as_dict()}
