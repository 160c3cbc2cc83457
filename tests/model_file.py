"""The small chat model of the tests, pulled as a region pulls it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from falaj.errors import Conflict
from falaj.services.models.catalogue import effective, entry
from falaj.services.models.pull import Puller
from falaj.services.models.transfer import Progress

SMALL_MODEL = "qwen2.5-coder-0.5b-instruct"
HUB_URL = "https://huggingface.co"


def models_dir() -> Path:
    """Where tests keep model files: ``FALAJ_MODELS_DIR``, or ``.cache/models`` of the checkout."""
    given = os.environ.get("FALAJ_MODELS_DIR")
    return Path(given) if given else Path(__file__).parent.parent / ".cache" / "models"


def pull_small_model() -> Path:
    """The checked file; another test run that is pulling it is waited for."""
    puller = Puller(models_dir(), hub_url=HUB_URL)
    deadline = time.monotonic() + 280
    while True:
        try:
            return puller.pull(effective(entry(SMALL_MODEL)), Progress())
        except Conflict:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
