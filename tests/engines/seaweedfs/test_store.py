"""What the store's client says when nobody answers; the rest is in the conformance suite and in test_seaweedfs.py."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from falaj.engines.seaweedfs.process import Admin, Endpoint, Ports
from falaj.engines.seaweedfs.store import SeaweedStore
from falaj.errors import Invalid, Transient
from tests.postgres import free_port


@pytest.fixture
async def away(tmp_path: Path) -> AsyncIterator[SeaweedStore]:
    """A store where nobody listens."""
    ports = Ports(*(free_port() for _ in Ports.__slots__))
    store = SeaweedStore(Endpoint("127.0.0.1", ports, Admin("key", "secret"), tmp_path))
    yield store
    await store.close()


async def test_a_store_that_is_away_is_transient_and_says_so_soon(away: SeaweedStore) -> None:
    started_at = time.monotonic()
    for call in (away.put("a.b", "k", b""), away.get("a.b", "k"), away.observe_object("a.b", "k"),
                 away.create_bucket("a.b"), away.observe_buckets()):  # fmt: skip
        with pytest.raises(Transient):
            await call
    assert time.monotonic() - started_at < 30


async def test_a_proxy_in_the_environment_is_not_asked(
    away: SeaweedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    store = SeaweedStore(away._endpoint)
    with pytest.raises(Transient) as caught:
        await store.put("a.b", "k", b"")
    assert "proxy" not in repr(caught.value.__cause__).lower()
    await store.close()


async def test_malformed_keys_are_refused_before_anything_is_sent(away: SeaweedStore) -> None:
    for pair in (
        ("short", "s" * 20),
        ("A" * 20, "with space and more"),
        ("A" * 20, 'quote"' * 5),
        ("A" * 129, "s" * 20),
    ):
        with pytest.raises(Invalid):
            await away.grant("project", *pair)


def test_credentials_are_what_a_client_needs(tmp_path: Path) -> None:
    ports = Ports(*(free_port() for _ in Ports.__slots__))
    for host, shown in (
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("10.1.2.3", "10.1.2.3"),
    ):
        store = SeaweedStore(Endpoint(host, ports, Admin("key", "secret"), tmp_path))
        credentials = store.credentials("a", "b")
        assert credentials.endpoint_url == f"http://{shown}:{ports.s3}"
        assert (credentials.access_key, credentials.secret_key) == ("a", "b")
