"""How fast a region converges: buckets declared at once until all are ready, then a resync that changes nothing.

    python benchmarks/reconcile.py [--buckets 1000] [--repeat 3] [--json]

Runs against the region on this machine (``make run`` leaves one), found by the usual settings (``FALAJ_HOME``,
``FALAJ_PORT``). Buckets are declared and deleted over the REST wire, in a project of their own. The resync is asked for
in the region's database, as the reconciler's clock would: every bucket becomes due at the same moment. Time ends when
the database says that all are ready, or that none is due or held any more. Everything made is removed again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3
from rich.console import Console
from rich.table import Table

from falaj.engines import registry
from falaj.region.database import Database
from falaj.region.kinds import PROJECT, SITE
from falaj.region.resource import API_VERSION, Key, KindTable
from falaj.region.store import Store
from falaj.services.storage.kinds import BUCKET
from falaj.settings import Settings, load

PROJECT_NAME = "benchmark-reconcile"
SECONDS_MAX = 300.0
TARGETS = {"declared_to_ready_seconds": 60.0, "noop_resync_seconds": 3.0}


class Region:
    """The REST wire, as far as this benchmark needs it."""

    def __init__(self, settings: Settings) -> None:
        self._url = f"{settings.url}/falaj/v1"
        key = (settings.secrets_dir / "admin.key").read_text().strip()
        self._pool = urllib3.PoolManager(
            maxsize=8, headers={"Authorization": f"Bearer {key}"}, timeout=60.0, retries=False
        )

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        """One call; an answer that is not 2xx or 404 ends the benchmark."""
        reply = self._pool.request(method, self._url + path, body=body)
        if reply.status >= 300 and reply.status != 404:
            raise SystemExit(f"{method} {path}: {reply.status} {reply.data[:500].decode(errors='replace')}")
        return json.loads(reply.data) if reply.data else None

    def declare(self, buckets: list[str]) -> None:
        """The project and its buckets, in one batch."""
        manifests = [_manifest("Project", PROJECT_NAME), *(_manifest("Bucket", name, PROJECT_NAME) for name in buckets)]
        self.call("POST", "/apply", "\n---\n".join(json.dumps(manifest) for manifest in manifests).encode())

    def delete(self, buckets: list[str]) -> None:
        """The buckets, then the project: it goes when it is empty."""
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: self.call("DELETE", f"/projects/{PROJECT_NAME}/buckets/{name}"), buckets))
        self.call("DELETE", f"/projects/{PROJECT_NAME}")


def _manifest(kind: str, name: str, project: str = "") -> dict[str, Any]:
    metadata = {"name": name, "project": project} if project else {"name": name}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": {}}


async def _until(reached: Callable[[], Awaitable[bool]], what: str) -> float:
    started = time.monotonic()
    while not await reached():
        if time.monotonic() - started > SECONDS_MAX:
            raise SystemExit(f"not {what} within {SECONDS_MAX:.0f} s")
        await asyncio.sleep(0.05)
    return time.monotonic() - started


async def measure(region: Region, database: Database, count: int) -> dict[str, float]:
    """One round: declare, converge, resync, delete."""
    store = Store(database, KindTable([SITE, PROJECT, BUCKET]))
    names = [f"b{number:05}" for number in range(count)]
    keys = [Key("Bucket", PROJECT_NAME, name) for name in names]

    async def one(statement: Any) -> dict[str, Any]:
        (row,) = await database.fetch(statement, PROJECT_NAME)
        return row

    async def ready() -> bool:
        row = await one("SELECT count(*) AS n FROM resource WHERE project = %s AND ready")
        return bool(row["n"] == count)

    async def settled() -> bool:
        row = await one(
            "SELECT count(*) AS n FROM resource r LEFT JOIN lease l USING (kind, project, name)"
            " WHERE r.project = %s AND (r.reconcile_at <= clock_timestamp() OR l.token IS NOT NULL)"
        )
        return bool(row["n"] == 0)

    async def gone() -> bool:
        row = await one("SELECT count(*) AS n FROM resource WHERE %s IN (project, name)")
        return bool(row["n"] == 0)

    async def statuses() -> str:
        row = await one(
            "SELECT md5(string_agg(status::text, '' ORDER BY name)) AS sum FROM resource WHERE project = %s"
        )
        return str(row["sum"])

    try:
        started = time.monotonic()
        await asyncio.to_thread(region.declare, names)
        admitted = time.monotonic() - started
        converged = admitted + await _until(ready, "ready")
        await _until(settled, "settled")
        before = await statuses()
        started = time.monotonic()
        await store.touch(*keys)
        await _until(settled, "settled again")
        resynced = time.monotonic() - started
        if await statuses() != before:
            raise SystemExit("the resync changed a status, so it was not a no-op; is an engine unwell?")
    finally:
        started = time.monotonic()
        await asyncio.to_thread(region.delete, names)
        await _until(gone, "gone")
    deleted = time.monotonic() - started
    return {
        "admission_seconds": admitted,
        "declared_to_ready_seconds": converged,
        "noop_resync_seconds": resynced,
        "deletion_seconds": deleted,
    }


async def run(settings: Settings, count: int, repeat: int) -> list[dict[str, float]]:
    """Every round, one after another."""
    conninfo = registry.load("postgres")(settings.site_dir, settings.secrets_dir)
    async with Database(conninfo, connections_max=2, application="falaj-benchmark") as database:
        return [await measure(Region(settings), database, count) for _ in range(repeat)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buckets", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    arguments = parser.parse_args()
    rounds = asyncio.run(run(load(), arguments.buckets, arguments.repeat))
    worst = {name: max(measured[name] for measured in rounds) for name in rounds[0]}
    report = {"buckets": arguments.buckets, "rounds": rounds, "worst": worst, "machine": platform.platform()}
    if not arguments.json:
        table = Table("measure", *(f"round {n}" for n in range(1, len(rounds) + 1)), "target")
        for name in worst:
            target = f"≤ {TARGETS[name]:.0f} s" if name in TARGETS else ""
            table.add_row(name.removesuffix("_seconds"), *(f"{measured[name]:.2f} s" for measured in rounds), target)
        Console(stderr=True).print(table)
    print(json.dumps(report))
    missed = arguments.buckets >= 1000 and any(worst[name] > target for name, target in TARGETS.items())
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
