"""SeaweedFS's filer, as far as Falaj needs it: the rule for all buckets, their list, and the projects' identities.

All by the filer's HTTP with a signed token (RFC 7519, HS256). Small files written there are rows of Postgres, durable
when the answer comes; the running S3 hears of a changed identity within some 20 ms.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote

import urllib3

from falaj.engines.seaweedfs.process import Endpoint
from falaj.errors import Terminal, Transient

#: fsync: an answered PUT is on disk. One collection: all buckets share volumes. One volume is made at a time.
RULES: dict[str, Any] = {
    "locations": [{"locationPrefix": "/buckets/", "fsync": True, "collection": "objects", "volumeGrowthCount": 1}]
}
_RULES_PATH = "/etc/seaweedfs/filer.conf"
_IDENTITIES_PATH = "/etc/iam/identities"
_DIRECTORY = 1 << 31  # Go's os.ModeDir in an entry's Mode

TIMEOUT_SECONDS = 10.0
TOKEN_SECONDS = 60
PAGE_ENTRIES = 2000


class Filer:
    """Calls that block; the caller runs them in a thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._url = f"http://127.0.0.1:{endpoint.ports.filer}"
        self._http = urllib3.PoolManager(
            maxsize=4, retries=False, timeout=urllib3.Timeout(connect=2.0, read=TIMEOUT_SECONDS)
        )

    def configure(self) -> bool:
        """See to it that the rule for all buckets stands; True when it had to be written.

        Raises:
            Transient: the filer is away. Terminal: it does not keep the rule.
        """
        if self._rules_stand():
            return False
        self._request("PUT", _RULES_PATH, json.dumps(RULES).encode())
        if not self._rules_stand():
            raise Terminal("SeaweedFS did not keep the rule that makes objects durable", where=_RULES_PATH)
        return True

    def _rules_stand(self) -> bool:
        content = self._request("GET", _RULES_PATH)
        try:
            return content is not None and json.loads(content) == RULES
        except ValueError:
            return False

    def buckets(self) -> Iterator[str]:
        """The names of all buckets, a page at a time."""
        after = ""
        while True:
            query = f"?limit={PAGE_ENTRIES}&lastFileName={quote(after)}"
            content = self._request("GET", "/buckets/", query=query)
            page: dict[str, Any] = {} if content is None else json.loads(content)
            for entry in page.get("Entries") or []:
                name = entry["FullPath"].rpartition("/")[2]
                if entry["Mode"] & _DIRECTORY and not name.startswith("."):
                    yield name
            after = page.get("LastFileName", "")
            if not page.get("ShouldDisplayLoadMore") or not after:
                return

    def identity(self, name: str) -> dict[str, Any] | None:
        """The stored identity, or None."""
        content = self._request("GET", f"{_IDENTITIES_PATH}/{name}.json")
        return None if content is None else dict(json.loads(content))

    def put_identity(self, name: str, access_key: str, secret_key: str, actions: list[str]) -> bool:
        """Store the identity with these keys and these actions only; True when that changed something.

        Raises:
            Transient: the filer is away.
        """
        wanted = {
            "name": name,
            "credentials": [{"access_key": access_key, "secret_key": secret_key, "status": "Active"}],
            "actions": actions,
        }
        if self.identity(name) == wanted:
            return False
        self._request("PUT", f"{_IDENTITIES_PATH}/{name}.json", json.dumps(wanted).encode())
        return True

    def delete_identity(self, name: str) -> None:
        """Remove the identity; a missing one is no error."""
        self._request("DELETE", f"{_IDENTITIES_PATH}/{name}.json")

    def _request(
        self, method: Literal["GET", "PUT", "DELETE"], path: str, body: bytes | None = None, query: str = ""
    ) -> bytes | None:
        key = self._endpoint.admin.derived("jwt.filer_signing.read" if method == "GET" else "jwt.filer_signing")
        headers = {"Authorization": f"Bearer {_token(key)}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = self._http.request(method, f"{self._url}{quote(path)}{query}", body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise Transient(
                "SeaweedFS's filer does not answer", where=self._url, hint="see `falaj logs seaweedfs`"
            ) from error
        if answer.status == 404:
            return None
        if answer.status >= 300:
            raise Transient(f"SeaweedFS's filer answered {answer.status} to {method} {path}", where=self._url)
        return answer.data


def _token(key: str) -> str:
    def encode(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    header = encode(b'{"alg":"HS256","typ":"JWT"}')
    signed = header + b"." + encode(json.dumps({"exp": int(time.time()) + TOKEN_SECONDS}).encode())
    return (signed + b"." + encode(hmac.new(key.encode(), signed, hashlib.sha256).digest())).decode("ascii")
