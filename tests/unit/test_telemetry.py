"""What logs and metrics may and may not say."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from traghetto.clock import ManualClock, SystemClock
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.telemetry import (
    CAUSES_MAX,
    Metrics,
    causes_of,
    configure_logging,
    log_event,
    log_failure,
)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Put the process-wide configuration back after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    configure_logging(clock=SystemClock())
    root.handlers, root.level = handlers, level


def lines(capsys: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_record_is_one_json_line_with_time_level_and_event(capsys: Any) -> None:
    """Operators' tools read one object per line."""
    configure_logging("info", ManualClock())
    log_event("warn", "backend_down", backend="gpu-1\nforged", reason="refused")
    assert lines(capsys) == [
        {
            "time": "2026-01-01T00:00:00.000Z",
            "level": "warn",
            "event": "backend_down",
            "backend": "gpu-1\nforged",
            "reason": "refused",
        }
    ]


def test_a_field_outside_the_list_is_left_out_and_named(capsys: Any) -> None:
    """A careless keyword cannot put a prompt into the log."""
    log_event("info", "oops", prompt="the secret", model="m")
    [record] = lines(capsys)
    assert record["model"] == "m"
    assert "prompt" in record["field"]
    assert "the secret" not in json.dumps(record)


def test_records_below_the_level_are_not_written(capsys: Any) -> None:
    """The level is a threshold."""
    configure_logging("warn")
    log_event("info", "quiet")
    log_event("debug", "quiet")
    log_event("error", "loud")
    assert [record["event"] for record in lines(capsys)] == ["loud"]


def test_a_failure_shows_its_causes_without_foreign_words(capsys: Any) -> None:
    """Only the package's own exceptions explain themselves; others are a type and a place."""
    try:
        try:
            int("secret prompt")
        except ValueError as error:
            raise EngineFailure(FailureKind.BROKEN, "the answer ended early") from error
    except EngineFailure as failure:
        log_failure("error", code="INFERENCE_FAILED", request_id="r1", error=failure, model="m")
    [record] = lines(capsys)
    assert record["event"] == "request_failed"
    assert (record["code"], record["request_id"], record["model"]) == (
        "INFERENCE_FAILED",
        "r1",
        "m",
    )
    outer, inner = record["causes"]
    assert outer.startswith("EngineFailure: ")
    assert outer.endswith(": the answer ended early")
    assert inner.startswith("ValueError: ")
    assert "test_telemetry.py:" in inner
    assert "secret" not in json.dumps(record)


def test_a_reason_of_a_foreign_exception_is_not_its_explanation() -> None:
    """`UnicodeDecodeError` has a `reason` too, and its arguments hold the bytes."""
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        [cause] = causes_of(error)
    assert cause.startswith("UnicodeDecodeError: ")
    assert "invalid start byte" not in cause


def test_a_chain_of_causes_is_bounded() -> None:
    """Loops and long chains end."""
    first = error = ValueError()
    for _ in range(50):
        error.__cause__ = ValueError()
        error = error.__cause__
    error.__cause__ = first
    assert len(causes_of(first)) == CAUSES_MAX
    one, two = ValueError(), ValueError()
    one.__cause__, two.__cause__ = two, one
    assert len(causes_of(one)) == 2


def test_library_records_lose_their_message(capsys: Any) -> None:
    """Libraries write what they like; only who, where and the kinds of causes are kept."""
    configure_logging("info")
    try:
        int("secret")
    except ValueError:
        logging.getLogger("asyncio").exception("request of %s failed", "secret")
    logging.getLogger("aiohttp").info("not shown")
    [record] = lines(capsys)
    assert record["event"] == "library_message"
    assert record["logger"] == "asyncio"
    assert record["causes"][0].startswith("ValueError: ")
    assert "secret" not in json.dumps(record)


def test_metrics_of_two_servers_are_apart() -> None:
    """A process may hold several servers, as tests do."""
    one, two = Metrics(), Metrics()
    one.request_started()
    one.request_finished("chat", 200, "", 0.1)
    one.backend_attempts.labels("gpu-1", "ok").inc()
    assert b'traghetto_requests_total{code="",endpoint="chat",status="200"} 1.0' in one.exposition()
    assert b'traghetto_request_seconds_count{endpoint="chat"} 1.0' in one.exposition()
    assert b'endpoint="chat"' not in two.exposition()
    assert one.in_flight == 0
