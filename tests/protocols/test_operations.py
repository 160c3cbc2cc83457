"""What operators' tools ask."""

import asyncio

from tests.protocols.conftest import Wires


async def test_alive_says_nothing_but_that(wires: Wires) -> None:
    assert (await wires.call("GET", "/healthz", key="")).json() == {"alive": True}


async def test_not_ready_says_what_is_missing(wires: Wires) -> None:
    answer = await wires.call("GET", "/readyz", key="")
    assert answer.status == 503
    checks = {check["name"]: check for check in answer.json()["checks"]}
    assert checks["postgres"]["ready"]
    assert not checks["objects"]["ready"]
    assert checks["control"]["message"] == "not declared"
    assert not answer.json()["ready"]


async def test_metrics_are_text_for_prometheus(wires: Wires) -> None:
    answer = await wires.call("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"falaj_snapshot_age_seconds" in answer.body
    assert b"falaj_reconciles_total" not in answer.body  # no control process has written any


async def test_control_s_metrics_are_served_with_the_gateway_s(wires: Wires) -> None:
    path = wires.site.settings.site_dir / "metrics" / "control.prom"
    await asyncio.to_thread(path.parent.mkdir, parents=True)
    await asyncio.to_thread(path.write_text, 'falaj_reconciles_total{kind="Bucket",outcome="ok"} 5.0\n')
    assert b'falaj_reconciles_total{kind="Bucket",outcome="ok"} 5.0' in (await wires.call("GET", "/metrics")).body


async def test_they_are_read_and_not_written(wires: Wires) -> None:
    answer = await wires.call("POST", "/healthz", key="")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET"
