"""Nothing that a caller says, and no key, is found anywhere but in the answer to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.client import CHAT, Answer, ask, chat, chat_body
from support.configuration import model_toml, upstream_toml
from support.gateway import RunningGateway, running_gateway
from support.upstream import (
    Act,
    FaultUpstream,
    answer,
    answer_completion,
    answer_json,
    close,
    completion,
    delta,
    stream,
    truncated,
    usual_events,
)
from support.waiting import wait_until
from traghetto.clock import ManualClock

PROMPT = "canary-prompt-5e1f"
ANSWER = "canary-answer-77b0"
BACKEND = "canary-backend-c3d9"
"""What the backend writes into its errors, headers and ids."""
UPSTREAM_KEY = "canary-upstream-key-90aa"
USER = "canary-user-18e2"
KEY_ENV = "CANARY_UPSTREAM_KEY"
CANARIES = (PROMPT, ANSWER, BACKEND, UPSTREAM_KEY, USER)

_ERROR = {
    "error": {"message": f"{BACKEND} {PROMPT}", "type": BACKEND, "param": BACKEND, "code": BACKEND}
}
_DETAIL = {"detail": [{"loc": ["body", BACKEND], "msg": f"{BACKEND} {PROMPT}", "input": PROMPT}]}
_LEAKY = {"x-request-id": BACKEND, "server": BACKEND, "set-cookie": BACKEND}

FAILURES: dict[str, Act] = {
    **{f"status {status}": answer_json(_ERROR, status, _LEAKY) for status in (
        400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, 529)},
    "FastAPI": answer_json(_DETAIL, 422),
    "HTML": answer(500, f"<p>{BACKEND}</p>".encode(), content_type="text/html"),
    "redirect": answer(302, headers={"location": f"http://127.0.0.1/{BACKEND}"}),
    "in-band error": answer_json(_ERROR),
    "truncated": truncated(f'{{"choices":[{{"message":{{"content":"{ANSWER}'.encode()),
    "not JSON": answer(200, f"{ANSWER} {BACKEND}".encode()),
    "not a completion": answer_json({"choices": ANSWER, "id": BACKEND}),
    "closed": close,
    "stream breaks": stream([delta("", role="assistant"), delta(ANSWER)], then=close),
    "stream error": stream([delta("", role="assistant"), delta(ANSWER), json.dumps(_ERROR).encode()]),
    "stream junk": stream([delta("", role="assistant"), f'{{"{ANSWER}'.encode()]),
}  # fmt: skip


def toml(upstream: FaultUpstream) -> str:
    return upstream_toml(upstream, key_env=f'"{KEY_ENV}"') + model_toml(
        "relayed", upstreams='["behind"]'
    )


def say(gateway: RunningGateway, key: str, **members: object) -> Answer:
    sound = {"messages": [{"role": "user", "content": PROMPT}], "user": USER}
    return chat(gateway, key, "relayed", **{**sound, **members})


def traces(tmp_path: Path, gateway: RunningGateway, secrets: tuple[str, ...]) -> list[str]:
    """Where one of `secrets` is found: files of the server, its log, or its metrics."""
    places = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    places["log"] = gateway.log.getvalue().encode()
    places["metrics"] = gateway.gateway.metrics.exposition()
    assert any(name.endswith("-wal") for name in places), "the journal is there to be looked at"
    return [
        f"{secret} in {place}"
        for place, content in places.items()
        for secret in secrets
        if secret.encode() in content
    ]


@pytest.mark.parametrize("stream_wanted", [False, True], ids=["whole", "stream"])
def test_a_full_run_leaves_no_trace_of_what_was_said(
    tmp_path: Path,
    upstream: FaultUpstream,
    monkeypatch: pytest.MonkeyPatch,
    stream_wanted: bool,
) -> None:
    """Success, every kind of failure, refusals and a crash: 0 hits in files, log and metrics."""
    monkeypatch.setenv(KEY_ENV, UPSTREAM_KEY)
    clock = ManualClock()
    with running_gateway(
        tmp_path, toml(upstream), clock=clock, log_level="debug", access_log=True
    ) as gateway:
        key = gateway.new_key()
        upstream.default = (
            stream(usual_events(ANSWER)) if stream_wanted else answer_json(completion(ANSWER))
        )
        good = say(gateway, key, stream=stream_wanted)
        assert good.text == ANSWER
        assert upstream.requests[0].header("authorization") == f"Bearer {UPSTREAM_KEY}"
        for name, act in FAILURES.items():
            # Whatever the backend did before, it is asked again by now.
            clock.advance(400)
            upstream.queue.clear()
            upstream.default = act
            failed = say(gateway, key, stream=stream_wanted)
            leaked = {PROMPT, BACKEND, UPSTREAM_KEY, USER, key} & _words(failed)
            assert leaked == set(), name
        clock.advance(400)
        _refused(gateway, key)
        _crash(gateway, key)
        assert gateway.differences() == []
        wait_until(lambda: len([r for r in gateway.records() if r["event"] == "request"]) > 20)
        assert traces(tmp_path, gateway, (*CANARIES, key, key[-20:])) == []
        names = {place.partition(" in ")[2] for place in traces(tmp_path, gateway, ("relayed",))}
        assert {"data/traghetto.sqlite3-wal", "log"} <= names, "the search finds what is there"
    assert gateway.gateway.book.open_holds == 0


def _words(failed: Answer) -> set[str]:
    """Which canaries an answer has in its body or headers."""
    everything = failed.body + repr(failed.headers).encode()
    return {canary for canary in CANARIES if canary.encode() in everything}


def _refused(gateway: RunningGateway, key: str) -> None:
    """Refusals of the gateway's own; some repeat what was wrong, to its sender only."""
    for members in (
        {"temperature": PROMPT},
        {PROMPT: 1},
        {"tool_choice": PROMPT},
        {"messages": [{"role": PROMPT, "content": PROMPT}]},
    ):
        assert say(gateway, key, **members).status == 400
    for path, body in (
        (f"/v1/{PROMPT}", chat_body(PROMPT)),
        (f"{CHAT}?{PROMPT}", chat_body(PROMPT)),
        (CHAT, f'{{"{PROMPT}'.encode()),
    ):
        assert ask(gateway, key, body, path=path).status in {400, 404}, path
    assert ask(gateway, PROMPT, chat_body()).status == 401


def _crash(gateway: RunningGateway, key: str) -> None:
    """A defect of our own, whose exception holds the prompt, becomes UNKNOWN_ERROR."""

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(f"{PROMPT} {UPSTREAM_KEY} {key}")

    services = gateway.gateway.services
    whole, services.fleet = services.fleet, Broken()  # type: ignore[assignment]
    try:
        crashed = say(gateway, key)
    finally:
        services.fleet = whole
    assert (crashed.status, crashed.body) == (500, b'{"error":"An unknown error occurred"}')
    (record,) = (r for r in gateway.records() if r.get("code") == "UNKNOWN_ERROR" and "causes" in r)
    assert "RuntimeError" in record["causes"][-1], "the log says what, and where, and no more"


def test_only_the_backend_of_the_model_is_told(
    tmp_path: Path, upstream: FaultUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend gets the messages, its own key and no trace of the caller's key or address."""
    monkeypatch.setenv(KEY_ENV, UPSTREAM_KEY)
    upstream.default = answer_completion()
    with running_gateway(tmp_path, toml(upstream)) as gateway:
        key = gateway.new_key()
        assert say(gateway, key).status == 200
        (request,) = upstream.requests
        sent = repr(request.headers).encode() + request.body
        assert PROMPT.encode() in sent
        assert key.encode() not in sent
        assert USER.encode() not in sent, "`user` is accepted and discarded"
        names = {name.lower() for name, _ in request.headers}
        assert names.isdisjoint({"x-forwarded-for", "forwarded", "x-real-ip", "cookie"})
