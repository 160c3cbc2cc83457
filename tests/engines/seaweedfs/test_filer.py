"""What the filer's client says when nobody answers, and the token it shows; the rest is tested against the real one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest

from falaj.engines.seaweedfs.filer import RULES, TOKEN_SECONDS, Filer, _token
from falaj.engines.seaweedfs.process import Admin, Endpoint, Ports
from falaj.errors import Transient
from tests.postgres import free_port


def test_a_filer_that_is_away_is_transient(tmp_path: Path) -> None:
    ports = Ports(*(free_port() for _ in Ports.__slots__))
    filer = Filer(Endpoint("127.0.0.1", ports, Admin("key", "secret"), tmp_path))
    for call in (
        filer.configure,
        lambda: list(filer.buckets()),
        lambda: filer.identity("a"),
        lambda: filer.put_identity("a", "k", "s", []),
        lambda: filer.delete_identity("a"),
    ):
        with pytest.raises(Transient, match="filer does not answer") as caught:
            call()
        assert str(ports.filer) in caught.value.where


def test_the_token_is_signed_and_ends() -> None:
    header, claims, signature = _token("key").split(".")

    def decoded(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    assert json.loads(decoded(header)) == {"alg": "HS256", "typ": "JWT"}
    assert 0 < json.loads(decoded(claims))["exp"] - time.time() <= TOKEN_SECONDS
    assert decoded(signature) == hmac.new(b"key", f"{header}.{claims}".encode(), hashlib.sha256).digest()


def test_keys_are_derived_apart() -> None:
    admin = Admin("key", "secret")
    assert admin.derived("a") != admin.derived("b")
    assert Admin("key", "other").derived("a") != admin.derived("a")


def test_the_rule_asks_for_fsync_under_every_bucket() -> None:
    (rule,) = RULES["locations"]
    assert rule["locationPrefix"] == "/buckets/"
    assert rule["fsync"] is True
