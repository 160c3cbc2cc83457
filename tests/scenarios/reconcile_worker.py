"""A process that reconciles buckets, for the scenarios of several processes on one database.

Each step leaves a row in the table ``witness`` (when it began, when it ended), and the fencing token in the status.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from falaj.region.database import Database
from falaj.region.reconciler import Reconciler, Result, Work
from falaj.region.resource import Resource
from falaj.region.store import Store
from tests.conftest import KINDS


class Witnessed:
    """Works on a bucket for a few milliseconds, again and again."""

    kind = "Bucket"
    resync_seconds = 0.2

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    async def reconcile(self, resource: Resource, work: Work) -> Result:
        """Begin, take some time, end."""
        (row,) = await self._database.fetch(
            "INSERT INTO witness (name, holder, token) VALUES (%s, %s, %s) RETURNING id",
            resource.metadata.name, self._holder, work.token,
        )  # fmt: skip
        await asyncio.sleep(0.03)
        await self._database.execute("UPDATE witness SET ended = clock_timestamp() WHERE id = %s", row["id"])
        resource.status.s3_bucket = str(work.token)
        resource.status.set_condition("True", "Fine", self._holder)
        return Result()


async def main(url: str, holder: str, lease_seconds: float) -> None:
    """Reconcile until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Database(url, connections_max=6) as database:
        reconciler = Reconciler(
            database,
            Store(database, KINDS),
            [Witnessed(database, holder)],
            concurrency=6,
            holder=holder,
            lease_seconds=lease_seconds,
            poll_seconds=0.3,
        )
        await reconciler.run(stop)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
