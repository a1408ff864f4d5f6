"""`Idempotency-Key`: the same request is answered once and charged once, whatever is repeated."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.client import CHAT, QUESTION, Answer, ask, chat_body
from support.configuration import PRICED_MODEL, model_toml, relayed_toml
from support.gateway import RunningGateway, gateway_process, operate, running_gateway
from support.upstream import FaultUpstream, answer_json, completion, upstream_in_thread
from support.waiting import wait_until
from traghetto.clock import ManualClock
from traghetto.idempotency import answers
from traghetto.storage import sqlite

DAY_SECONDS = 86_400
COST = Decimal("0.000044")

MODELS = (
    'rate_limits = "off"\n'
    + PRICED_MODEL
    + model_toml("free", pricing="{ input = 0, output = 0 }")
    + model_toml("slow", token_seconds="0.03")
    + model_toml("broken", fault='"broken"')
    + model_toml("cut", fault='"cut-after"')
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def gateway(tmp_path: Path, clock: ManualClock) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path, MODELS, clock=clock) as running:
        yield running
        assert running.gateway.book.open_holds == 0
        assert running.differences() == []


def send(
    gateway: Any, key: str, idempotency_key: str | None = "k-1", model: str = "priced", **body: Any
) -> Answer:
    headers = {"idempotency-key": idempotency_key}
    return ask(gateway, key, chat_body(model, **body), headers=headers)


def charges(gateway: RunningGateway) -> int:
    """How many requests the books have charged or metered."""
    assert gateway.differences() == []
    with sqlite.open_read_only(gateway.data_dir) as snapshot:
        return len(list(snapshot.usages()))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["priced", "free"])
def test_a_repeated_request_is_answered_again_and_not_charged_again(
    gateway: RunningGateway, model: str, stream: bool
) -> None:
    """The second answer is the first one to the byte, and says that it is a replay."""
    key = gateway.new_key()
    first = send(gateway, key, model=model, stream=stream)
    again = send(gateway, key, model=model, stream=stream)
    assert first.status == again.status == 200
    assert first.body == again.body
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert first.request_id != again.request_id
    same = ("content-type", "x-venice-model-id", "x-venice-model-name", "x-venice-model-router")
    assert [first.headers[name] for name in same] == [again.headers[name] for name in same]
    assert charges(gateway) == 1


def test_another_key_of_the_same_account_is_another_caller(gateway: RunningGateway) -> None:
    """Idempotency keys belong to an API key: nobody is given the answer of somebody else."""
    gateway.perform("accounts.create", name="shared", usd="10")
    keys = [gateway.perform("keys.create", account="shared")["secret"] for _ in range(2)]
    answers_ = [send(gateway, key) for key in keys]
    assert [answer.headers.get("idempotent-replayed") for answer in answers_] == [None, None]
    assert charges(gateway) == 2


def test_the_order_of_members_and_white_space_make_no_difference(gateway: RunningGateway) -> None:
    """Two bodies are the same request if they are the same JSON value."""
    key, headers = gateway.new_key(), {"idempotency-key": "k-1"}
    body = chat_body()
    first = ask(gateway, key, body, headers=headers)
    turned = json.dumps(dict(reversed(body.items())), indent=2).encode()
    assert ask(gateway, key, turned, headers=headers).body == first.body
    assert charges(gateway) == 1


def test_an_answer_is_kept_for_a_day(gateway: RunningGateway, clock: ManualClock) -> None:
    """After 24 hours the key is free again, and the answer leaves the disk."""
    key = gateway.new_key()
    first = send(gateway, key)
    gateway.call(clock.advance, DAY_SECONDS - 1)
    assert send(gateway, key).body == first.body
    gateway.call(clock.advance, 1)
    later = send(gateway, key, temperature=1)
    assert later.status == 200
    assert "idempotent-replayed" not in later.headers
    gateway.call(clock.advance, DAY_SECONDS + 3600)
    gateway.call(gateway.gateway.services.answers.forget_expired)
    assert gateway.differences() == []  # everything is on disk
    assert kept_rows(gateway.data_dir) == []
    assert gateway.gateway.services.answers.kept_bytes == 0


@pytest.mark.parametrize("model", ["broken", "nobody"])
def test_a_failure_frees_the_key(gateway: RunningGateway, model: str) -> None:
    """What was not settled is not replayed: the key may be used again, with any body."""
    key = gateway.new_key()
    failed = send(gateway, key, model=model)
    assert failed.status >= 400
    assert send(gateway, key).status == 200
    assert charges(gateway) == 1


def test_a_broken_stream_frees_the_key(gateway: RunningGateway) -> None:
    """A stream that ended with an error frame is no answer: its repetition runs afresh."""
    key = gateway.new_key()
    broken = send(gateway, key, model="cut", stream=True)
    assert b'"error"' in broken.body
    again = send(gateway, key, model="cut", stream=True)
    assert b'"error"' in again.body
    assert "idempotent-replayed" not in again.headers
    assert charges(gateway) == 0


def test_a_client_that_left_runs_afresh(gateway: RunningGateway) -> None:
    """A stream that its client left is charged for what was delivered, and is no answer."""
    key = gateway.new_key()
    connection = http.client.HTTPConnection(*gateway.address, timeout=10)
    headers = {
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "idempotency-key": "k-1",
    }
    body = chat_body("slow", stream=True, max_tokens=64)
    connection.request("POST", CHAT, json.dumps(body), headers)
    assert connection.getresponse().read(10)
    connection.close()
    wait_until(lambda: gateway.gateway.book.open_holds == 0)
    assert charges(gateway) == 1
    again = send(gateway, key, model="slow", stream=True, max_tokens=64)
    assert again.body.endswith(b"data: [DONE]\n\n")
    assert "idempotent-replayed" not in again.headers


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_duplicates_in_flight_wait_for_the_first(gateway: RunningGateway, stream: bool) -> None:
    """Of many simultaneous duplicates one is executed and charged; all have its answer."""
    key = gateway.new_key()
    with ThreadPoolExecutor(64) as pool:
        sent = [
            pool.submit(send, gateway, key, model="slow", stream=stream, max_tokens=8)
            for _ in range(64)
        ]
        received = [future.result() for future in sent]
    assert {answer.status for answer in received} == {200}
    assert len({answer.body for answer in received}) == 1
    replayed = [answer.headers.get("idempotent-replayed") for answer in received]
    assert replayed.count(None) == 1
    assert charges(gateway) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_only_so_many_duplicates_wait(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """One more is told to come back, which costs nothing, and is given the answer then."""
    monkeypatch.setattr(answers, "DUPLICATES_WAITING_MAX", 2)
    key = gateway.new_key()
    sent = {"model": "slow", "stream": stream, "max_tokens": 32}
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(send, gateway, key, **sent)
        wait_until(lambda: gateway.gateway.book.open_holds == 1)
        (claim,) = gateway.gateway.services.answers._claims.values()
        waiting = [pool.submit(send, gateway, key, **sent) for _ in range(2)]
        wait_until(lambda: claim.waiting == 2)
        refused = send(gateway, key, **sent)
        assert refused.headers["x-error-code"] == "RATE_LIMIT_EXCEEDED"
        assert refused.headers["retry-after"] == "1"
        bodies = {future.result().body for future in (first, *waiting)}
    assert bodies == {send(gateway, key, **sent).body}
    assert charges(gateway) == 1


def test_a_different_duplicate_in_flight_is_refused_at_once(gateway: RunningGateway) -> None:
    """A key that is being used for another body is not waited for."""
    key = gateway.new_key()
    first: list[Answer] = []
    thread = threading.Thread(
        target=lambda: first.append(send(gateway, key, model="slow", max_tokens=32))
    )
    thread.start()
    wait_until(lambda: gateway.gateway.book.open_holds == 1)
    refused = send(gateway, key, model="slow", max_tokens=31)
    assert refused.status == 400
    assert refused.headers["x-error-code"] == "IDEMPOTENCY_KEY_REUSED"
    thread.join()
    assert first[0].status == 200


def test_a_duplicate_takes_over_when_the_first_fails(tmp_path: Path) -> None:
    """Whoever waits for a request that is not answered gets the right to try for itself."""
    with upstream_in_thread() as upstream, running_relay(tmp_path, upstream) as gateway:
        key = gateway.new_key()
        begun, go_on = threading.Event(), threading.Event()

        async def fails_slowly(*arguments: Any) -> None:
            begun.set()
            await gateway_waits(go_on)
            await answer_json({"error": {"message": "no"}}, 400)(*arguments)

        upstream.then(fails_slowly, answer_json(completion()))
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(send, gateway, key, model="relayed")
            assert begun.wait(10)
            second = pool.submit(send, gateway, key, model="relayed")
            wait_until(lambda: len(gateway.gateway._requests) == 2)
            go_on.set()
            assert first.result().status == 400
            assert second.result().status == 200
        assert "idempotent-replayed" not in second.result().headers
        assert charges(gateway) == 1


async def gateway_waits(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.005)


def running_relay(tmp_path: Path, upstream: FaultUpstream) -> Any:
    return running_gateway(tmp_path, 'rate_limits = "off"\n' + relayed_toml(upstream))


def test_a_replay_needs_neither_funds_nor_model(gateway: RunningGateway) -> None:
    """What was answered is answered again, whatever has become of funds and limits since."""
    gateway.perform("accounts.create", name="spender", usd="10")
    created = gateway.perform("keys.create", account="spender")
    first = send(gateway, created["secret"])
    gateway.perform("ledger.adjust", account="spender", usd="-10", reason="test")
    assert send(gateway, created["secret"], "k-2").status == 402
    assert send(gateway, created["secret"]).body == first.body
    gateway.perform("accounts.set", account="spender", disabled=True)
    assert send(gateway, created["secret"]).status == 403


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_too_large_to_keep_is_not_charged_again(
    gateway: RunningGateway, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its repetition is refused, because what was sent is not there any more."""
    monkeypatch.setattr(answers, "ANSWER_BYTES_MAX", 100)
    key = gateway.new_key()
    assert send(gateway, key, stream=stream).status == 200
    again = send(gateway, key, stream=stream)
    assert (again.status, again.headers["x-error-code"]) == (400, "IDEMPOTENT_ANSWER_NOT_KEPT")
    assert charges(gateway) == 1


def test_streams_that_are_recorded_share_a_bound(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit into memory is not kept; what a stream took is given back at its end."""
    monkeypatch.setattr(answers, "RECORDING_BYTES_MAX", 3000 * answers.ACCOUNT_SHARE)
    key, kept = gateway.new_key(), gateway.gateway.services.answers
    assert send(gateway, key, "k-1", stream=True, max_tokens=4).status == 200
    assert send(gateway, key, "k-1", stream=True, max_tokens=4).status == 200
    assert send(gateway, key, "k-2", stream=True, max_tokens=64).status == 200
    assert send(gateway, key, "k-2", stream=True, max_tokens=64).status == 400
    assert kept._recorded_bytes == 0


def test_no_account_uses_up_the_room_of_all(tmp_path: Path) -> None:
    """Of the room for kept answers, on disk and in memory, one account has a quarter."""
    with running_gateway(tmp_path, MODELS, kept_answers_bytes_max=16_000) as gateway:
        greedy, other = gateway.new_key(), gateway.new_key()
        kept = gateway.gateway.services.answers
        for number in range(20):
            assert send(gateway, greedy, f"k-{number}", max_tokens=64).status == 200
        assert send(gateway, greedy, "k-19", max_tokens=64).status == 400
        assert kept.kept_bytes > 4000
        assert send(gateway, other).status == 200
        assert send(gateway, other).headers["idempotent-replayed"] == "true"


def test_answers_of_hours_that_are_over_leave_a_few_at_once(
    gateway: RunningGateway, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No charge waits behind the removal of very many: each commit removes a bounded number."""
    monkeypatch.setattr(answers, "FORGOTTEN_AT_ONCE_MAX", 2)
    key, kept = gateway.new_key(), gateway.gateway.services.answers
    for number in range(5):
        send(gateway, key, f"k-{number}")
    gateway.call(clock.advance, DAY_SECONDS + 3600)
    left = []
    for _ in range(4):
        gateway.call(kept.forget_expired)
        assert gateway.differences() == []  # everything is on disk
        left.append(len(kept_rows(gateway.data_dir)))
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert kept.kept_bytes == 0


def test_answers_leave_faster_than_they_can_come(
    gateway: RunningGateway, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as some are left, the next few go after moments, not after another second."""
    monkeypatch.setattr(answers, "FORGOTTEN_AT_ONCE_MAX", 1)
    key = gateway.new_key()
    for number in range(20):
        send(gateway, key, f"k-{number}")
    gateway.call(clock.advance, DAY_SECONDS + 3600)
    wait_until(lambda: not kept_rows(gateway.data_dir))


def test_credentials_that_are_repeated_are_nobodys(gateway: RunningGateway) -> None:
    """Which of two keys counts never depends on who reads them: a 400, and no kept answer."""
    alice, mallory = gateway.new_key(), gateway.new_key()
    assert send(gateway, alice).status == 200
    for keys in ((alice, mallory), (mallory, alice), (alice, alice)):
        connection = http.client.HTTPConnection(*gateway.address, timeout=10)
        body = json.dumps(chat_body()).encode()
        connection.putrequest("POST", CHAT)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Idempotency-Key", "k-1"),
            *(("Authorization", f"Bearer {key}") for key in keys),
        ):
            connection.putheader(name, value)
        connection.endheaders(body)
        refused = connection.getresponse()
        assert refused.status == 400
        assert refused.getheader("Idempotent-Replayed") is None
        connection.close()
    assert charges(gateway) == 1


@pytest.mark.parametrize("key", ["", "a b", "é", "a" * 256, "a/b", "a.b", "a\tb"])
def test_a_malformed_key_is_refused(gateway: RunningGateway, key: str) -> None:
    """1 to 255 letters, digits, underscores and hyphens, or a 400 and nothing else."""
    refused = send(gateway, gateway.new_key(), key)
    assert refused.status == 400
    assert refused.json["issues"][0]["path"] == ["Idempotency-Key"]
    assert charges(gateway) == 0


def test_the_longest_key_is_accepted(gateway: RunningGateway) -> None:
    """255 characters are a key."""
    key = gateway.new_key()
    assert send(gateway, key, "A_z-9" * 51).status == 200
    assert send(gateway, key, "A_z-9" * 51).headers["idempotent-replayed"] == "true"


def test_answers_survive_a_crash(tmp_path: Path) -> None:
    """After kill -9 a charged answer is given again, and what was not charged runs afresh."""
    config, data = tmp_path / "traghetto.toml", tmp_path / "data"
    config.write_text(MODELS)
    arguments = ("--config", str(config), "--data-dir", str(data))
    with gateway_process(tmp_path, *arguments) as process:
        operate(data, "accounts", "create", "acme", "--usd", "5")
        key = operate(data, "keys", "create", "--account", "acme")["secret"]
        first = send(process, key)
        streamed = send(process, key, "k-2", stream=True)
        process.kill()
    with gateway_process(tmp_path, *arguments) as process:
        assert send(process, key).body == first.body
        assert send(process, key, "k-2", stream=True).body == streamed.body
        assert send(process, key, "k-3").status == 200
    shown = operate(data, "accounts", "show", "acme")
    assert Decimal(shown["usd"]) == 5 - 3 * COST


def test_nothing_readable_rests_on_disk(gateway: RunningGateway) -> None:
    """Prompt, answer, API key and idempotency key are in no file of the data directory."""
    key = gateway.new_key()
    first = send(gateway, key, "very-secret-idempotency-key")
    text = first.json["choices"][0]["message"]["content"]
    assert charges(gateway) == 1
    (row,) = kept_rows(gateway.data_dir)
    assert len(row[3]) > len(first.body)
    words = [QUESTION, text[:20], key, "very-secret-idempotency-key"]
    for path in gateway.data_dir.iterdir():
        content = path.read_bytes() if path.is_file() else b""
        assert [word for word in words if word.encode() in content] == [], path.name


def kept_rows(data_dir: Path) -> list[Any]:
    connection = sqlite.apsw.Connection(
        str(data_dir / sqlite.FILE_NAME), flags=sqlite.apsw.SQLITE_OPEN_READONLY
    )
    try:
        return connection.execute("SELECT * FROM kept_answer").fetchall()
    finally:
        connection.close()
