"""Model files from a hub over HTTP, continued where an earlier attempt broke off."""

from __future__ import annotations

import re
import urllib.request
from typing import Final
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from falaj.errors import Invalid, NotFound, Transient
from falaj.services.models.kinds import HubSource
from falaj.services.models.transfer import MODEL_BYTES_MAX, Transfer

#: Attempts in a row that bring no byte. An attempt that brings some starts the count anew.
FRUITLESS_ATTEMPTS_MAX: Final = 3
ATTEMPTS_MAX: Final = 100
CONNECT_TIMEOUT_SECONDS: Final = 10.0
READ_TIMEOUT_SECONDS: Final = 30.0
CHUNK_BYTES: Final = 1 << 20
_CONTENT_RANGE = re.compile(r"^bytes (\d+)-\d+/(\d+|\*)$")


class _Broken(Exception):
    """An attempt broke off in a way that another one may get past."""


def address(hub_url: str, source: HubSource) -> str:
    """Where the hub has the file: ``HUB/REPOSITORY/resolve/REVISION/FILE``."""
    return f"{hub_url.rstrip('/')}/{source.repository}/resolve/{quote(source.revision)}/{quote(source.file)}"


def fetch(url: str, transfer: Transfer) -> None:
    """Bring the part file to its full length.

    Raises:
        Transient: the hub cannot be reached, or breaks off again and again.
        NotFound: the hub does not have the file, or not for everybody.
        Invalid: what the hub has cannot be this file (another size), or its address is not one.
        LimitExceeded: the disk has no room for it.
    """
    pool = _pool(url)
    fruitless = 0
    reason = ""
    for _ in range(ATTEMPTS_MAX):
        before = transfer.bytes_there
        transfer.check()
        try:
            return _attempt(pool, url, transfer)
        except (HTTPError, _Broken) as error:
            reason = _short(error)
        fruitless = 0 if transfer.bytes_there > before else fruitless + 1
        if fruitless == FRUITLESS_ATTEMPTS_MAX:
            break
        transfer.progress.stop.wait(min(4.0, 0.25 * 2**fruitless))
    raise Transient(f"{reason} (after {transfer.bytes_there} bytes)", where=url)


def _pool(url: str) -> urllib3.PoolManager:
    """A client that goes through the proxy of the environment, as other programs here do."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Invalid(f"{url!r} is not an address of a model hub", where="model_hub_url", hint="give https://HOST")
    timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS)
    retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        return urllib3.ProxyManager(proxy, timeout=timeout, retries=retries)
    return urllib3.PoolManager(timeout=timeout, retries=retries)


def _attempt(pool: urllib3.PoolManager, url: str, transfer: Transfer) -> None:
    """One request, from the end of what is there to the end of the file."""
    there = transfer.bytes_there
    if transfer.size_bytes is not None and there == transfer.size_bytes:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    response = pool.request("GET", url, headers=headers, preload_content=False)
    try:
        start, total = _extent(response, there, transfer)
        if size := total or transfer.size_bytes:
            transfer.require_room(size)
        transfer.progress.bytes_total = size or 0
        _copy(response, start, transfer)
    finally:
        response.close()
    if total is not None and transfer.bytes_there < total:
        raise _Broken(f"the hub ended after {transfer.bytes_there} of {total} bytes")


def _extent(response: urllib3.BaseHTTPResponse, there: int, transfer: Transfer) -> tuple[int, int | None]:
    """Where the answer's bytes begin in the file, and the file's size when the hub says it."""
    if response.status == 416:
        transfer.part.unlink(missing_ok=True)
        raise _Broken("the hub has no bytes past what was there; starting again")
    if response.status in {401, 403, 404, 410}:
        raise NotFound(f"the hub answers {response.status}: no such file, or not for everybody")
    if response.status not in {200, 206}:
        raise _Broken(f"the hub answers {response.status}")
    start, total = 0, None
    if response.status == 206:
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != there:
            transfer.part.unlink(missing_ok=True)
            raise _Broken("the hub continues at another byte than asked for; starting again")
        start, total = there, None if match[2] == "*" else int(match[2])
    elif (length := response.headers.get("Content-Length", "")).isdecimal():
        total = int(length)
    if total is not None and total != (transfer.size_bytes or total):
        raise Invalid(f"the hub's file has {total} bytes; the model has {transfer.size_bytes}")
    if total is not None and total > MODEL_BYTES_MAX:
        raise Invalid(f"the hub's file has {total} bytes; at most {MODEL_BYTES_MAX} are taken")
    return start, total


def _copy(response: urllib3.BaseHTTPResponse, start: int, transfer: Transfer) -> None:
    with transfer.part.open("r+b" if start else "wb") as file:
        file.seek(start)
        done = start
        for chunk in response.stream(CHUNK_BYTES, decode_content=False):
            transfer.check()
            done += len(chunk)
            if done > transfer.bytes_max:
                raise Invalid(f"the hub sends more than the {transfer.bytes_max} bytes of the model")
            file.write(chunk)
            transfer.progress.bytes_done = done


def _short(error: Exception) -> str:
    """The client's error without its object addresses and repeated wrapping."""
    reason = getattr(error, "reason", None) or error
    return re.sub(r"<[^>]*>[:,]?\s*", "", str(reason)).strip("()' ")[:300]
