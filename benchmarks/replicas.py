"""How fast and how large one replica is: start, memory, tokens a second, vectors a second.

    python benchmarks/replicas.py [--model FILE.gguf] [--threads 2] [--json]

Starts the real workers, by themselves, on loopback ports, and ends them. Without ``--model`` only the embedder is
measured. Beside the wall-clock stands the processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from falaj.engines.replicas import replica_key

WORDS = (
    "region",
    "site",
    "data",
    "model",
    "agent",
    "answer",
    "citation",
    "document",
    "residency",
    "bank",
    "law",
    "water",
)
PROMPT_WORDS, ANSWER_TOKENS = 380, 48
PASSAGES, PASSAGE_WORDS = 32, 100
START_SECONDS_MAX = 120.0


class Worker:
    """A replica's process and its wire."""

    def __init__(self, engine: str, folder: Path, arguments: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        key_file = folder / "replica.key"
        self._key = replica_key(key_file)
        command = ["--port", str(self.port), "--key-file", str(key_file), *arguments]
        begun = time.perf_counter()
        with (folder / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"falaj.engines.{engine}.worker", *command], stdout=log, stderr=log
            )
        while not self._healthy():
            if self.process.poll() is not None or time.perf_counter() - begun > START_SECONDS_MAX:
                self.process.kill()
                raise SystemExit((folder / "worker.log").read_text()[-2000:])
            time.sleep(0.02)
        self.start_seconds = time.perf_counter() - begun

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def post(self, path: str, body: dict[str, Any]) -> tuple[Any, float, float]:
        """The answer, with the wall-clock and processor seconds that it took."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        processor, wall = self.processor_seconds(), time.perf_counter()
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {self._key}"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer, time.perf_counter() - wall, self.processor_seconds() - processor

    def processor_seconds(self) -> float:
        """Processor time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        """Memory that the process holds, files that it maps included."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def running(engine: str, arguments: Sequence[str]) -> Iterator[Worker]:
    """A worker for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="falaj-benchmark-") as folder:
        worker = Worker(engine, Path(folder), arguments)
        try:
            yield worker
        finally:
            worker.process.kill()
            worker.process.wait()


def embedder(threads: int) -> dict[str, float]:
    """Measure the e5 worker."""
    with running("e5", ["--alias", "e5", "--threads", str(threads)]) as worker:
        idle = worker.resident_mb()
        texts = [" ".join(random.choices(WORDS, k=PASSAGE_WORDS)) for _ in range(PASSAGES)]
        answer, wall, processor = worker.post("/v1/embeddings", {"input": texts, "input_type": "passage"})
        _, query_wall, _ = worker.post("/v1/embeddings", {"input": "who owns the water?", "input_type": "query"})
        return {
            "e5_start_seconds": worker.start_seconds,
            "e5_idle_mb": idle,
            "e5_used_mb": worker.resident_mb(),
            "e5_passages_per_second": PASSAGES / wall,
            "e5_passage_tokens": answer["usage"]["prompt_tokens"] / PASSAGES,
            "e5_processor_ms_per_token": processor / answer["usage"]["prompt_tokens"] * 1000,
            "e5_query_ms": query_wall * 1000,
        }


def chat(model: Path, threads: int) -> dict[str, float]:
    """Measure the llama.cpp worker with one model."""
    sizes = ["--context-tokens", "2048", "--concurrency", "2", "--threads", str(threads)]
    with running("llamacpp", ["--model", str(model), "--alias", "m", *sizes]) as worker:
        loaded = worker.resident_mb()
        prompt = " ".join(random.choices(WORDS, k=PROMPT_WORDS))
        body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "ignore_eos": True}
        read, _, read_processor = worker.post("/v1/chat/completions", {**body, "max_tokens": 1})
        written, _, _ = worker.post("/v1/chat/completions", {**body, "max_tokens": ANSWER_TOKENS})
        tokens = read["timings"]["prompt_n"]
        return {
            "chat_start_seconds": worker.start_seconds,
            "chat_loaded_mb": loaded,
            "chat_prompt_tokens": tokens,
            "chat_prompt_tokens_per_second": read["timings"]["prompt_per_second"],
            "chat_prompt_processor_ms_per_token": read_processor / tokens * 1000,
            "chat_decode_tokens_per_second": written["timings"]["predicted_per_second"],
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random.seed(1)
    results = embedder(options.threads)
    if options.model is not None:
        results |= chat(options.model, options.threads)
    results = {name: round(value, 2) for name, value in results.items()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} when it ended"
    if options.json:
        print(json.dumps({"machine": machine, "threads": options.threads, **results}))
        return
    print(f"{machine}; {options.threads} threads")
    for name, value in results.items():
        print(f"{name:36} {value:10.2f}")


if __name__ == "__main__":
    main()
