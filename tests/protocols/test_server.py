"""One port: keys before bodies, the right wire's errors, ids, counts, and 500 with an id for a defect."""

import asyncio

import pytest

from falaj.errors import FalajError, Terminal, Transient
from falaj.protocols.http import Call
from falaj.protocols.rest.translate import failure
from falaj.protocols.server import Server, Wire
from falaj.region.database import Database
from falaj.telemetry import Metrics, request_id
from falaj.trust.identity import Keys
from tests.protocols.conftest import Wires
from tests.protocols.serving import exchange, served

PATHS = [
    "/falaj/v1/status",
    "/falaj/v1/buckets",
    "/v1/models",
    "/v1/chat/completions",
    "/metrics",
    "/openapi.json",
    "/x",
]


@pytest.mark.parametrize("path", PATHS)
async def test_every_call_needs_a_key(wires: Wires, path: str) -> None:
    for headers in ({"authorization": ""}, {"authorization": "Basic abc"}, {"authorization": "Bearer "}):
        answer = await wires.call("GET", path, key="", headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_wrong_and_a_revoked_key_are_refused_at_once(wires: Wires) -> None:
    wrong = wires.claims_key[:-4] + "aaaa"
    assert (await wires.call("GET", "/v1/models", key=wrong)).status == 401
    assert (await wires.call("GET", "/v1/models", key=wires.claims_key)).status == 200
    identifier = wires.claims_key.split("_")[1]
    assert (await wires.call("DELETE", f"/falaj/v1/keys/{identifier}")).status == 204
    answer = await wires.call("GET", "/v1/models", key=wires.claims_key)
    assert answer.status == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "revoked" in answer.json()["error"]["message"]


async def test_the_key_is_looked_at_before_the_body(wires: Wires) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"
    assert (await exchange(wires.port, head, seconds_max=5)).status == 401


async def test_health_needs_no_key(wires: Wires) -> None:
    answer = await wires.call("GET", "/healthz", key="")
    assert (answer.status, answer.json()) == (200, {"alive": True})
    assert (await wires.call("GET", "/readyz", key="")).status == 503  # there is no object store
    assert (await wires.call("GET", "/healthz/../metrics", key="")).status == 401


async def test_each_wire_has_errors_of_its_own_shape(wires: Wires) -> None:
    assert set((await wires.call("GET", "/falaj/v1/x")).json()["error"]) == {"code", "message", "where", "hint"}
    fields = (await wires.call("GET", "/v1/x")).json()["error"]
    assert set(fields) == {"message", "type", "param", "code", "request_id"}
    assert (await wires.call("GET", "/nothing")).json()["error"]["code"] == "NotFound"


async def test_the_request_id_is_taken_over_when_it_is_harmless(wires: Wires) -> None:
    answer = await wires.call("GET", "/healthz", headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    answer = await wires.call("GET", "/healthz", headers={"x-request-id": "a b"})
    assert len(answer.headers["x-request-id"]) == 32


async def test_the_host_header_and_origin_change_nothing(wires: Wires) -> None:
    answer = await wires.call("GET", "/healthz", headers={"host": "evil.example", "origin": "https://evil.example"})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_calls_are_counted_by_template_and_status(wires: Wires) -> None:
    await wires.call("GET", "/falaj/v1/projects/claims/buckets/nothing")
    await wires.call("GET", "/falaj/v1/sites")
    text = (await wires.call("GET", "/metrics")).body.decode()
    template = "/falaj/v1/projects/{project}/buckets/{name}"
    assert f'falaj_requests_total{{route="{template}",status="404",wire="rest"}} 1.0' in text
    assert 'falaj_resources{kind="Project",ready="false"} 3.0' in text
    assert 'falaj_request_seconds_count{route="/falaj/v1/sites",wire="rest"} 1.0' in text
    assert "nothing" not in text


async def own_server(database: Database, handle) -> tuple[Server, str, Metrics]:
    keys, metrics = Keys(database, b"k" * 32), Metrics()
    _, key = await keys.create("tester")
    return Server(keys, metrics, [Wire("test", "/", handle, failure)]), key, metrics


async def asked(port: int, key: str):
    head = f"GET /a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n"
    return await exchange(port, head.encode())


async def test_a_defect_is_a_500_that_names_the_request_and_not_the_cause(database: Database) -> None:
    async def broken(call: Call) -> None:
        raise KeyError("internal detail")

    server, key, metrics = await own_server(database, broken)
    async with served(server) as port:
        answer = await asked(port, key)
    assert answer.status == 500
    assert answer.headers["x-request-id"] in answer.json()["error"]["hint"]
    assert b"internal detail" not in answer.body
    assert b'status="500"' in metrics.render()


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [(Transient("away", retry_after_seconds=7), 503, "7"), (Terminal("never"), 500, None)],
)
async def test_errors_become_statuses(database: Database, error: FalajError, status: int, header: str | None) -> None:
    async def fail(call: Call) -> None:
        raise error

    server, key, _ = await own_server(database, fail)
    async with served(server) as port:
        answer = await asked(port, key)
    assert answer.status == status
    assert answer.headers.get("retry-after") == header


async def test_an_error_after_the_answer_began_closes_the_connection(database: Database) -> None:
    async def half(call: Call) -> None:
        await call._start(200, b"text/plain", [(b"content-length", b"100")])
        await call.send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise Transient("away")

    server, key, _ = await own_server(database, half)
    async with served(server) as port:
        with pytest.raises(asyncio.IncompleteReadError):
            await asked(port, key)


async def test_the_request_id_is_known_to_whatever_serves_the_request(database: Database) -> None:
    seen = []

    async def note(call: Call) -> None:
        seen.append(request_id.get())
        await call.answer_nothing()

    server, key, _ = await own_server(database, note)
    async with served(server) as port:
        answer = await asked(port, key)
    assert seen == [answer.headers["x-request-id"]]
    assert request_id.get() == ""


async def test_nothing_but_http_is_spoken(database: Database) -> None:
    async def never(call: Call) -> None:
        raise AssertionError

    server, key, _ = await own_server(database, never)
    async with served(server) as port:
        upgrade = "upgrade: websocket\r\nconnection: upgrade\r\n"
        head = f"GET /a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n{upgrade}\r\n"
        # It is served as plain HTTP (and fails as this handler does), never as a WebSocket.
        assert (await exchange(port, head.encode())).status == 500
