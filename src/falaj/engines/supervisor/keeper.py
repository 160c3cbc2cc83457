"""The keeper of a site (``python -m falaj.engines.supervisor.keeper --site-dir DIR``) restarts a dead supervisor.

It knows nothing else, so it has next to nothing to fail at; the supervisor restarts the keeper in turn. It leaves
once the site was asked to stop and the supervisor has.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from falaj.engines.supervisor import control

LOOK_SECONDS = 0.3
#: A supervisor that ends at once is not started again more often than this.
RESTART_SECONDS_MIN = 1.0


def keep(site: control.SiteFiles) -> None:
    """Look after the supervisor until the site was asked to stop."""
    started_at = float("-inf")
    while True:
        if not control.is_locked(site.supervisor_lock):
            if site.stop_file.exists():
                return
            now = time.monotonic()
            if now - started_at >= RESTART_SECONDS_MIN:
                started_at = now
                # A machine out of memory or disk for the moment: try again at the next look.
                with suppress(OSError):
                    control.spawn("falaj.engines.supervisor", site)
        _reap()
        time.sleep(LOOK_SECONDS)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def main() -> None:
    """Keep the supervisor of the site that ``--site-dir`` names."""
    if len(sys.argv) != 3 or sys.argv[1] != "--site-dir":
        sys.exit("usage: python -m falaj.engines.supervisor.keeper --site-dir DIR")
    site = control.SiteFiles(Path(sys.argv[2]).absolute())
    site.make()
    lock = control.take_lock(site.keeper_lock)
    if lock is None:
        return
    os.chdir(site.site_dir)
    # A terminal that closes and a machine that shuts down concern the supervisor; the keeper leaves after it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: site.stop_file.touch())
    keep(site)


if __name__ == "__main__":
    main()
