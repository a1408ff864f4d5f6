"""nginx in two parts: the model server that everything is measured against, and a bare proxy.

As a model server it costs a tenth of any gateway, so that it is never what limits a run: one port
answers a whole chat completion, another a stream of 100 events, 20 ms apart. As a proxy it is the
floor: the least that standing between a client and a server can cost.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from machine import free_port, start_pinned, stop, tool, wait_until_ready

MODEL = "bench"
STREAM_MODEL = "bench-stream"
STREAM_EVENTS = 100
EVENT_SECONDS = 0.02
ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")

_USAGE = {"prompt_tokens": 24, "completion_tokens": STREAM_EVENTS, "total_tokens": 124}
_SENTENCE = "A traghetto crosses the Grand Canal standing up, for a small fare, in all weathers. "


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx of one process."""

    process: subprocess.Popen[bytes]
    json_port: int
    stream_port: int


def whole_answer() -> str:
    """A chat completion of about 900 bytes."""
    return _encode(
        {
            "id": "chatcmpl-benchmark",
            "object": "chat.completion",
            "created": 1767225600,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": _SENTENCE * 7},
                    "finish_reason": "stop",
                    "logprobs": None,
                }
            ],
            "usage": _USAGE,
        }
    )


def stream_events() -> list[str]:
    """The payloads of a stream: role, content pieces, finish reason, usage, end."""
    words = _SENTENCE.split()
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"content": words[number % len(words)] + " "}, None) for number in range(STREAM_EVENTS)
    ]
    deltas[0] = ({"role": "assistant", "content": ""}, None)
    deltas[-1] = ({}, "stop")
    chunks = [
        _encode(_chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]))
        for delta, finish in deltas
    ]
    return [*chunks, _encode({**_chunk([]), "usage": _USAGE}), "[DONE]"]


def _chunk(choices: list[dict[str, object]]) -> dict[str, object]:
    return {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": STREAM_MODEL,
        "choices": choices,
    }


def _encode(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    assert "'" not in text, "the configuration of nginx quotes with this"
    assert "$" not in text, "nginx would read a variable"
    return text


@contextmanager
def model_server(directory: Path, core: int) -> Iterator[Nginx]:
    """Run the model server."""
    events = stream_events()
    pauses = [f"echo_flush; echo_sleep {EVENT_SECONDS};"] * STREAM_EVENTS + ["", "echo_flush;"]
    stream = "\n".join(
        f"echo 'data: {event}\\n'; {pause}" for event, pause in zip(events, pauses, strict=True)
    )
    names = {"object": "list", "data": [{"id": name, "object": "model"} for name in _NAMES]}
    models = (
        f"location = /v1/models {{ default_type application/json; return 200 '{_encode(names)}'; }}"
    )
    with _running(
        directory / "model-server",
        core,
        json_server=f"""
            {models}
            location = /v1/chat/completions {{
                default_type application/json;
                return 200 '{whole_answer()}';
            }}""",
        stream_server=f"""
            {models}
            location = /v1/chat/completions {{
                default_type text/event-stream;
                echo_read_request_body;
                {stream}
            }}""",
    ) as server:
        yield server


_NAMES = (MODEL, STREAM_MODEL)


@contextmanager
def bare_proxy(directory: Path, core: int, behind: Nginx) -> Iterator[Nginx]:
    """Run a proxy in front of the model server."""

    def location(upstream: str) -> str:
        return f"""
            location / {{
                proxy_pass http://{upstream};
                proxy_http_version 1.1;
                proxy_set_header Connection "";
                proxy_buffering off;
            }}"""

    with _running(
        directory / "proxy",
        core,
        upstreams=f"""
            upstream whole {{ server 127.0.0.1:{behind.json_port}; keepalive 64; }}
            upstream streams {{ server 127.0.0.1:{behind.stream_port}; keepalive 512; }}""",
        json_server=location("whole"),
        stream_server=location("streams"),
    ) as server:
        yield server


@contextmanager
def _running(
    prefix: Path, core: int, *, json_server: str, stream_server: str, upstreams: str = ""
) -> Iterator[Nginx]:
    prefix.mkdir()
    json_port, stream_port = free_port(), free_port()
    (prefix / "nginx.conf").write_text(
        f"""
        load_module {ECHO_MODULE};
        daemon off;
        master_process off;
        pid {prefix}/pid;
        error_log {prefix}/error.log;
        events {{ worker_connections 4096; }}
        http {{
            access_log off;
            client_body_temp_path {prefix}/body;
            proxy_temp_path {prefix}/proxy;
            fastcgi_temp_path {prefix}/fastcgi;
            uwsgi_temp_path {prefix}/uwsgi;
            scgi_temp_path {prefix}/scgi;
            keepalive_requests 100000000;
            keepalive_timeout 600s;
            tcp_nodelay on;
            {upstreams}
            server {{ listen 127.0.0.1:{json_port}; {json_server} }}
            server {{ listen 127.0.0.1:{stream_port}; {stream_server} }}
        }}"""
    )
    log = prefix / "output.log"
    program = tool("nginx")
    assert program is not None, "its absence is reported before anything is started"
    command = [
        program,
        "-p",
        str(prefix),
        "-e",
        f"{prefix}/error.log",
        "-c",
        f"{prefix}/nginx.conf",
    ]
    process = start_pinned(command, core, log=log)
    try:
        wait_until_ready(json_port, "/v1/models", process, log)
        yield Nginx(process, json_port, stream_port)
    finally:
        stop(process)
