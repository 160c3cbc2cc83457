"""How fast a region starts and how much memory it needs while idle.

    python benchmarks/up.py [--repeat 3] [--idle-seconds 20] [--json]

Makes a region in a temporary folder on free ports: once cold (`falaj up` makes the database), then warm after
`falaj down` as often as asked. Each time is that of the whole command, until it ends with the region ready. Memory is
read when the region had nothing to do for a while and has no model. RSS counts pages that processes share once for
each; PSS shares them out, so its sum is what the machine gives.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

UP_SECONDS_MAX = 15.0
IDLE_RSS_MB_MAX = 800.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def falaj(home: Path, ports: tuple[int, int], *arguments: str) -> float:
    """Run the command; seconds that it took."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FALAJ_")},
        "FALAJ_HOME": str(home),
        "FALAJ_PORT": str(ports[0]),
        "FALAJ_S3_PORT": str(ports[1]),
    }
    started_at = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "falaj.cli.main", *arguments],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=300,
    )
    return time.perf_counter() - started_at


def memory(site_dir: Path) -> list[dict[str, Any]]:
    """Resident memory of each process of the site, its children included, in MB."""
    state = site_dir / "state"
    pids = {path.stem: int(path.read_text()) for path in state.glob("*.lock")}
    for path in state.glob("*.json"):
        pid = json.loads(path.read_text())["pid"]
        if pid:
            pids[path.stem] = pid
    rows = []
    for name, pid in sorted(pids.items()):
        process = psutil.Process(pid)
        # Keeper, supervisor and what they started are parents of one another; only engines' own children count.
        family = [process] if name in {"keeper", "supervisor"} else [process, *process.children(recursive=True)]
        infos = [member.memory_full_info() for member in family]
        rows.append(
            {
                "process": name,
                "processes": len(family),
                "rss_mb": round(sum(info.rss for info in infos) / 1e6, 1),
                "pss_mb": round(sum(info.pss for info in infos) / 1e6, 1),
            }
        )
    return rows


def measure(repeat: int, idle_seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="falaj-benchmark-") as folder:
        home = Path(folder) / "home"
        ports = free_port(), free_port()
        try:
            cold = falaj(home, ports, "up")
            warm, again, down = [], [], []
            for _ in range(repeat):
                down.append(falaj(home, ports, "down"))
                warm.append(falaj(home, ports, "up"))
                again.append(falaj(home, ports, "up"))
            time.sleep(idle_seconds)
            rows = memory(home / "sites" / "local-a")
        finally:
            falaj(home, ports, "down")
    return {
        "machine": f"{os.cpu_count()} CPUs, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.platform()}",
        "load_average": round(os.getloadavg()[0], 1),
        "cold_up_seconds": round(cold, 2),
        "warm_up_seconds": [round(seconds, 2) for seconds in warm],
        "up_again_seconds": [round(seconds, 2) for seconds in again],
        "down_seconds": [round(seconds, 2) for seconds in down],
        "idle": rows,
        "idle_rss_mb": round(sum(row["rss_mb"] for row in rows), 1),
        "idle_pss_mb": round(sum(row["pss_mb"] for row in rows), 1),
    }


def show(result: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{result['machine']}; load average {result['load_average']}")
    times = Table("command", "median s", "all", "target")
    for name, target in (("warm_up", f"≤ {UP_SECONDS_MAX:g}"), ("up_again", ""), ("down", "")):
        values = result[f"{name}_seconds"]
        times.add_row(name.replace("_", " "), f"{statistics.median(values):.2f}", ", ".join(map(str, values)), target)
    times.add_row("cold up", f"{result['cold_up_seconds']:.2f}", "", "")
    console.print(times)
    table = Table("idle process", "processes", "RSS MB", "PSS MB")
    for row in result["idle"]:
        table.add_row(row["process"], str(row["processes"]), str(row["rss_mb"]), str(row["pss_mb"]))
    table.add_row("all", "", f"{result['idle_rss_mb']} (≤ {IDLE_RSS_MB_MAX:g})", str(result["idle_pss_mb"]))
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    result = measure(options.repeat, options.idle_seconds)
    if options.as_json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    met = statistics.median(result["warm_up_seconds"]) <= UP_SECONDS_MAX and result["idle_rss_mb"] <= IDLE_RSS_MB_MAX
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
