"""Logs are one JSON object a line without secrets; metrics render for Prometheus and pass from process to process."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from falaj import telemetry
from falaj.telemetry import JsonFormatter, Metrics, ReconcileMetrics, hide, new_request_id, read_metrics, redact

KEY = "flj_a1b2c3_Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA"


def line(message: str = "hello", **fields: object) -> dict[str, object]:
    record = logging.LogRecord("falaj.test", logging.INFO, __file__, 1, message, (), None)
    vars(record).update(fields)
    return orjson.loads(JsonFormatter().format(record))


def test_a_line_is_json_with_time_level_logger_and_message() -> None:
    shown = line("سلام\nدنيا", port=7440)
    assert shown["message"] == "سلام\nدنيا"
    assert shown["level"] == "info"
    assert shown["logger"] == "falaj.test"
    assert shown["port"] == 7440
    assert str(shown["time"]).endswith("+00:00")


def test_the_request_id_is_on_the_line_only_while_a_request_is_served() -> None:
    token = telemetry.request_id.set("r-1")
    assert line()["request_id"] == "r-1"
    telemetry.request_id.reset(token)
    assert "request_id" not in line()


@pytest.mark.parametrize(
    "text", [f"key {KEY} was used", f"Authorization: Bearer {KEY}", "bearer abcdefghijklmnop", f"['{KEY}']"]
)
def test_keys_and_tokens_are_taken_out_of_text(text: str) -> None:
    shown = redact(text)
    assert "Zm9v" not in shown
    assert "abcdefghijklmnop" not in shown
    assert "***" in shown


def test_a_key_keeps_its_public_id_so_that_an_operator_can_find_it() -> None:
    assert redact(KEY) == "flj_a1b2c3_***"


def test_secrets_are_taken_out_of_fields_at_every_depth_and_of_tracebacks() -> None:
    hide("pg-password-31337")
    shown = json.dumps(line(postgres_password="x", nested={"headers": [{"secret_key": "y", "n": "pg-password-31337"}]}))
    assert '"postgres_password": "***"' in shown
    assert '"secret_key": "***"' in shown
    assert "31337" not in shown
    with pytest.raises(ValueError, match="connect") as raised:
        int(f"connect failed with pg-password-31337 and {KEY}")
    error = raised.value
    record = logging.LogRecord(
        "falaj.test", logging.ERROR, __file__, 1, "failed", (), (ValueError, error, error.__traceback__)
    )
    text = JsonFormatter().format(record)
    assert "ValueError" in text
    assert "31337" not in text
    assert "Zm9v" not in text


def test_a_huge_message_is_cut() -> None:
    assert len(str(line("x" * 10_000_000)["message"])) <= telemetry.LINE_CHARACTERS_MAX + 1


def test_what_json_does_not_know_is_still_written() -> None:
    assert "PosixPath" not in str(line(path=Path("/srv"), wrong=object())["path"])
    assert "object object" in str(line(wrong=object())["wrong"])


def test_a_process_logs_json_on_standard_error_and_nothing_on_standard_output() -> None:
    code = (
        "import logging; from falaj.telemetry import configure_logging; configure_logging('info');"
        "log = logging.getLogger; log('a').info('one'); log('a').debug('two'); log('botocore').info('three')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == ""
    lines = [json.loads(text) for text in done.stderr.splitlines()]
    assert [shown["message"] for shown in lines] == ["one"]


def test_only_harmless_request_ids_are_taken_from_clients() -> None:
    assert new_request_id("abc-123") == "abc-123"
    for offered in ("", "a\r\nset-cookie: x", "x" * 65, "é", '{"a":1}'):
        assert new_request_id(offered) != offered
    assert new_request_id() != new_request_id()


def test_metrics_render_and_read_gauges_at_the_time_of_the_scrape() -> None:
    metrics = Metrics()
    now = {"value": 1.0}
    metrics.gauges("falaj_resources", "Resources.", ("kind",), lambda: [(("Bucket",), now["value"])])
    metrics.requests.labels("rest", "/falaj/v1/status", "200").inc()
    assert b'falaj_resources{kind="Bucket"} 1.0' in metrics.render()
    now["value"] = 2.0
    text = metrics.render()
    assert b'falaj_resources{kind="Bucket"} 2.0' in text
    assert b'falaj_requests_total{route="/falaj/v1/status",status="200",wire="rest"} 1.0' in text
    assert b"process_resident_memory_bytes" in text


def test_reconcile_metrics_pass_through_a_file_and_die_with_their_writer(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "control.prom"
    assert read_metrics(path) == b""
    metrics = ReconcileMetrics()
    with metrics.step("Bucket"):
        pass
    with pytest.raises(KeyError), metrics.step("Bucket"):
        raise KeyError
    metrics.write(path)
    text = read_metrics(path)
    assert b'falaj_reconciles_total{kind="Bucket",outcome="ok"} 1.0' in text
    assert b'falaj_reconciles_total{kind="Bucket",outcome="KeyError"} 1.0' in text
    assert b"process_" not in text  # the reader adds its own process metrics; two of one name are not allowed
    old = time.time() - 120
    os.utime(path, (old, old))
    assert read_metrics(path) == b""
