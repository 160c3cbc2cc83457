"""Every engine of the table exists, none is imported before it is used, and unknown ones are refused."""

import subprocess
import sys

import pytest

from falaj.engines import registry
from falaj.errors import Invalid


@pytest.mark.parametrize("name", registry.ENGINES)
def test_every_engine_of_the_table_exists(name: str) -> None:
    assert callable(registry.load(name))


def test_an_unknown_engine_is_refused_with_the_nearest() -> None:
    with pytest.raises(Invalid, match="seaweedfs"):
        registry.load("seaweed")


def test_a_lazy_engine_is_made_once_and_only_when_it_is_used() -> None:
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    engine = registry.lazily(make)
    assert made == []
    engine.append(1)
    engine.append(2)
    assert made == [[1, 2]]


async def test_closing_a_lazy_engine_that_was_never_used_does_not_make_it() -> None:
    closed: list[str] = []

    class Engine:
        async def close(self) -> None:
            closed.append("closed")

        def ping(self) -> str:
            return "pong"

    engine = registry.lazily(Engine)
    await engine.close()
    assert closed == []
    assert engine.ping() == "pong"
    await engine.close()
    assert closed == ["closed"]


def test_the_registry_imports_no_engine() -> None:
    code = (
        "import sys; import falaj.engines.registry;"
        "print([m for m in ('boto3', 'lancedb', 'pyarrow', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
