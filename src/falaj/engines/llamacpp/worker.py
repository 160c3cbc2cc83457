"""The process of one chat model replica: llama.cpp's own server on a loopback port.

It answers ``/health`` (503 while it loads), ``/metrics`` and the OpenAI wire. A prompt past the context is refused with
400, and the server stops generating when its caller hangs up.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from falaj.engines.replicas import refuse_taken_port, replica_key, share_processor, worker_threads
from falaj.errors import FalajError

#: Tokens computed in one go. Between two batches a hang-up is noticed and other requests advance, so on a processor
#: (tens of tokens a second) a batch must stay small; docs/decisions/0005-models.md has the measurements.
BATCH_TOKENS = 128
#: Memory for prompts that were computed before, shared by all requests of the replica, in MiB.
PROMPT_CACHE_MIB = 512


def parameters(options: argparse.Namespace, key: str) -> Any:
    """llama.cpp's parameters for these options.

    The context is divided evenly over the requests worked on at once, so each has ``--context-tokens``.
    """
    from xllamacpp import CommonParams  # noqa: PLC0415 -- loading the library takes longer than refusing bad options

    p = CommonParams()
    p.model.path = str(options.model)
    p.model_alias = {options.alias}
    p.hostnames, p.port, p.api_keys = ["127.0.0.1"], options.port, [key]
    p.ui, p.endpoint_slots, p.endpoint_metrics = False, False, True
    p.n_parallel = options.concurrency
    p.n_ctx = options.context_tokens * options.concurrency
    p.n_batch = p.n_ubatch = BATCH_TOKENS
    p.n_gpu_layers = 0
    p.ctx_shift = False  # never drop the start of a prompt in silence: refuse it
    p.cache_ram_mib = PROMPT_CACHE_MIB
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = worker_threads(options.threads)
    if options.idle_seconds is not None:
        p.sleep_idle_seconds = options.idle_seconds
    return p


def main() -> None:
    """Serve until told to stop; exit 1 with one sentence when that cannot begin."""
    parser = argparse.ArgumentParser(prog="falaj.engines.llamacpp.worker", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--alias", required=True, help="the model's name in answers")
    parser.add_argument("--context-tokens", type=int, required=True, help="longest prompt plus answer of one request")
    parser.add_argument("--concurrency", type=int, required=True, help="requests worked on at once")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--idle-seconds", type=int, help="unload the weights after so long without a request")
    options = parser.parse_args()
    share_processor()
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.SIG_DFL)  # there is nothing to save, so a stop takes effect at once
    try:
        refuse_taken_port(options.port)
        key = replica_key(options.key_file)
        from xllamacpp import Server  # noqa: PLC0415 -- see parameters()

        server = Server(parameters(options, key))
    except FalajError as error:
        sys.exit(f"falaj: the model replica cannot start: {error}")
    except RuntimeError:
        sys.exit(
            f"falaj: llama.cpp cannot load {options.model}: missing, damaged, of an unknown architecture, or larger "
            f"than the memory; its own words stand above"
        )
    print(f"falaj: {options.alias} answers on {server.listening_address}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
