"""Logs and metrics: what the product says about itself, to operators and to nobody else.

Invariants: a record is given only the fields of `FIELDS`, so a prompt, key or signature cannot slip
into one by a careless keyword; a foreign exception appears as its type and the place where it was
raised, never by its message; one failure of a request writes at most one record.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from traghetto.clock import Clock, SystemClock, iso8601

Level = Literal["debug", "info", "warn", "error"]

METRICS_CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

FIELDS: Final = frozenset(
    {
        "address",
        "backend",
        "causes",
        "code",
        "count",
        "endpoint",
        "logger",
        "model",
        "reason",
        "request_id",
        "seconds",
        "site",
        "status",
        "upstream_model",
        "url",
    }
)
"""The only fields that may be given to a record. None of them ever holds request or answer content.

The log itself adds `time`, `level` and `event`, and `field` if it left a field out.
"""

CAUSES_MAX: Final = 8
"""A chain of causes is cut after so many exceptions."""

_NUMBERS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_PACKAGE_FOLDER: Final = str(Path(__file__).parent.parent) + "/"


class _Log:
    """The sink of the process: one JSON line and one write per record, to standard error.

    `sys.stderr` is looked up for each record, because test runners and supervisors replace it.
    """

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.threshold = logging.INFO

    def write(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        if _NUMBERS[level] < self.threshold:
            return
        record = {"time": iso8601(self.clock.utc_ns()), "level": level, "event": event}
        record.update((name, value) for name, value in fields.items() if name in FIELDS)
        dropped = [name for name in fields if name not in FIELDS]
        if dropped:
            record["field"] = f"not in the allow-list: {', '.join(dropped)}"
        line = msgspec.json.encode(record, enc_hook=str).decode() + "\n"
        # A closed or broken stderr must not fail the request that is being logged.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line)
            sys.stderr.flush()


_LOG: Final = _Log()


def configure_logging(level: Level = "info", clock: Clock | None = None) -> None:
    """Set the threshold of records, the clock of their stamps, and take over library logs.

    Libraries that use the standard `logging` put requests, addresses and exception texts into
    their messages, so of their records only the logger, the place and the causes are kept.
    """
    if clock is not None:
        _LOG.clock = clock
    _LOG.threshold = _NUMBERS[level]
    root = logging.getLogger()
    root.handlers = [_LibraryHandler(logging.WARNING)]
    root.setLevel(logging.WARNING)


def log_event(level: Level, event: str, **fields: Any) -> None:
    """Write a record about the state of the server, such as `backend_down`.

    `fields` outside `FIELDS` are left out and named in the record. `warn` and `error` records of
    a request carry `request_id` and are written by `log_failure` alone.
    """
    _LOG.write(level, event, fields)


def log_failure(
    level: Level,
    *,
    code: str,
    request_id: str,
    error: BaseException,
    endpoint: str = "",
    model: str | None = None,
) -> None:
    """Write the one record of a failed request: its code and the chain of causes."""
    fields: dict[str, Any] = {"request_id": request_id, "code": code, "endpoint": endpoint}
    if model is not None:
        fields["model"] = model
    fields["causes"] = causes_of(error)
    _LOG.write(level, "request_failed", fields)


def causes_of(error: BaseException) -> list[str]:
    """`error` and its causes, outermost first, each as `type: site` or `type: site: reason`.

    Only exceptions of this package may add their `reason`, which by their definition holds no
    content of users or backends; the message of any other exception might.
    """
    causes: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(causes) < CAUSES_MAX:
        seen.add(id(current))
        kind = type(current)
        line = f"{kind.__qualname__}: {_site(current.__traceback__)}"
        if kind.__module__.startswith("traghetto."):
            reason = getattr(current, "reason", None)
            if reason:
                line = f"{line}: {reason}"
        causes.append(line)
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )
    return causes


def _site(traceback: TracebackType | None) -> str:
    if traceback is None:
        return "not raised"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f"{code.co_filename.removeprefix(_PACKAGE_FOLDER)}:{traceback.tb_lineno}"


class _LibraryHandler(logging.Handler):
    """Writes a record of the standard `logging` without its message."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log_event(
            "error" if record.levelno >= logging.ERROR else "warn",
            "library_message",
            logger=record.name,
            site=f"{record.pathname.removeprefix(_PACKAGE_FOLDER)}:{record.lineno}",
            causes=causes_of(error) if error is not None else [],
        )


class Metrics:
    """The numbers of one server, in a registry of its own (a process may hold several servers).

    `request_finished` is on the hot path: the children of a label set are looked up once.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "traghetto_requests",
            "Requests answered, by endpoint, status and error code (empty: no error).",
            ("endpoint", "status", "code"),
            registry=self.registry,
        )
        self.requests_in_flight = Gauge(
            "traghetto_requests_in_flight",
            "Requests being answered now.",
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "traghetto_request_seconds",
            "From the end of a request's headers to the end of its answer.",
            ("endpoint",),
            buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600),
            registry=self.registry,
        )
        self.connections_open = Gauge(
            "traghetto_connections_open", "Client connections open now.", registry=self.registry
        )
        self.connections_cut = Counter(
            "traghetto_connections_cut",
            "Connections refused or closed by the front door, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self.backend_attempts = Counter(
            "traghetto_backend_attempts",
            "Attempts on a backend, by backend and outcome (ok, or the kind of failure).",
            ("backend", "outcome"),
            registry=self.registry,
        )
        self._in_flight = 0
        self.requests_in_flight.set_function(lambda: self._in_flight)
        self._finished: dict[tuple[str, int, str], tuple[Counter, Histogram]] = {}

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """One more gauge, read when metrics are asked for."""
        Gauge(name, description, registry=self.registry).set_function(read)

    def request_started(self) -> None:
        """A request is being answered."""
        self._in_flight += 1

    def request_finished(self, endpoint: str, status: int, code: str, seconds: float) -> None:
        """An answer ended; `status` is 499 for a client that left, `code` empty for success."""
        self._in_flight -= 1
        labels = (endpoint, status, code)
        children = self._finished.get(labels)
        if children is None:
            children = (
                self.requests.labels(endpoint, str(status), code),
                self.request_seconds.labels(endpoint),
            )
            self._finished[labels] = children
        children[0].inc()
        children[1].observe(seconds)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now."""
        return self._in_flight

    def exposition(self) -> bytes:
        """Everything in the text format of Prometheus (`METRICS_CONTENT_TYPE`)."""
        return generate_latest(self.registry)
