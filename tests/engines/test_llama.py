"""llama.cpp in this process: real inference over a tiny random model."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import jsonschema_rs
import pytest

from support.llama_server import llama_server
from support.tiny_gguf import CONTEXT_TOKENS, tiny_gguf, write_tiny_gguf
from traghetto.clock import ManualClock
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.llama.backend import LlamaBackend
from traghetto.engines.llama.bridge import CHUNKS_PENDING_MAX, Bridge
from traghetto.engines.llama.library import LlamaLoadFailure, LlamaOptions
from traghetto.engines.llama.request import llama_body
from traghetto.engines.protocols import ChatBackend, ChatCall

T = TypeVar("T")

USER = {"role": "user", "content": "hi"}
PROMPT_TOKENS = 1 + len("<user>hi\n<assistant>")
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


@pytest.fixture
def tiny_model() -> Path:
    return tiny_gguf()


async def load(path: Path, *, name: str = "tiny", **options: Any) -> LlamaBackend:
    """One thread computes: more would spin for each other on a machine that tests share."""
    return await LlamaBackend.load(
        path, LlamaOptions(**{"threads": 1, **options}), name=name, clock=ManualClock()
    )


@pytest.fixture
def run(tiny_model: Path) -> Callable[..., Any]:
    """Runs a coroutine function with a loaded backend, which is closed afterwards."""

    def with_backend(work: Callable[[LlamaBackend], Coroutine[Any, Any, T]], **options: Any) -> T:
        async def scenario() -> T:
            backend = await load(tiny_model, **options)
            try:
                return await work(backend)
            finally:
                await backend.aclose()

        return asyncio.run(scenario())

    return with_backend


def call(**body: Any) -> ChatCall:
    return ChatCall("request", {"messages": [USER], "seed": 3, "max_tokens": 12, **body})


async def streamed(backend: LlamaBackend, **body: Any) -> list[bytes]:
    return [event async for events in backend.stream(call(**body)) for event in events]


def failure_kind(work: Callable[[], Any]) -> FailureKind:
    with pytest.raises(EngineFailure) as failure:
        work()
    return failure.value.kind


def test_the_tiny_model_is_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    """Tests on different machines run the same weights, in less than half a megabyte."""
    first = write_tiny_gguf(tmp_path / "a.gguf", seed=1).read_bytes()
    assert first == write_tiny_gguf(tmp_path / "b.gguf", seed=1).read_bytes()
    assert first != write_tiny_gguf(tmp_path / "c.gguf", seed=2).read_bytes()
    assert len(first) < 500_000


def test_it_loads_and_says_what_it_serves(run: Callable[..., Any]) -> None:
    """The context is what llama.cpp granted: no more than the model was trained for."""

    async def work(backend: ChatBackend) -> Any:
        return backend.name, await backend.models()

    name, (model,) = run(work)
    assert (name, model.id, model.context_tokens) == ("tiny", "tiny", CONTEXT_TOKENS)


def test_a_whole_answer_has_text_and_exact_usage(run: Callable[..., Any]) -> None:
    """One token per byte: the prompt's tokens can be counted by hand."""
    answer = run(lambda backend: backend.complete(call()))
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert answer["created"] == 1_767_225_600
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, 12)
    assert usage["total_tokens"] == PROMPT_TOKENS + 12


def test_a_stream_tells_the_same_as_a_whole_answer(run: Callable[..., Any]) -> None:
    """Role first, then text, a finish reason, usage without choices, and `[DONE]`."""

    async def work(backend: LlamaBackend) -> Any:
        return await backend.complete(call(temperature=0)), await streamed(backend, temperature=0)

    answer, events = run(work)
    assert events[-1] == b"[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0] for chunk in chunks[:-1]]
    text = "".join(delta["delta"].get("content") or "" for delta in deltas)
    assert text == answer["choices"][0]["message"]["content"]
    assert [delta["finish_reason"] for delta in deltas if delta["finish_reason"]] == ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def test_prompt_tokens_are_counted_exactly_before_inference(run: Callable[..., Any]) -> None:
    """The count includes the template and the tools, and equals the usage afterwards."""

    async def work(backend: LlamaBackend) -> Any:
        plain = await backend.count_prompt_tokens(call())
        with_tools = await backend.count_prompt_tokens(call(tools=[TOOL]))
        answer = await backend.complete(call(tools=[TOOL]))
        return plain, with_tools, answer["usage"]["prompt_tokens"]

    plain, with_tools, used = run(work)
    assert plain == PROMPT_TOKENS
    assert with_tools == used > plain


def test_an_overlong_prompt_is_a_context_failure(run: Callable[..., Any]) -> None:
    """Streaming or not; and the count tells it without inference."""
    long = {"messages": [{"role": "user", "content": "x" * 3000}]}

    async def work(backend: LlamaBackend) -> Any:
        kinds = []
        for attempt in (backend.complete(call(**long)), streamed(backend, **long)):
            try:
                await attempt
            except EngineFailure as failure:
                kinds.append(failure.kind)
        return kinds, await backend.count_prompt_tokens(call(**long))

    kinds, counted = run(work)
    assert kinds == [FailureKind.CONTEXT_EXCEEDED] * 2
    assert counted == 1 + len("<user>\n<assistant>") + 3000


def test_equal_seeds_give_equal_answers(run: Callable[..., Any]) -> None:
    """The caller's seed reaches the sampler."""

    async def work(backend: LlamaBackend) -> list[str]:
        answers = [await backend.complete(call(seed=seed)) for seed in (5, 5, 6)]
        return [answer["choices"][0]["message"]["content"] for answer in answers]

    first, again, other = run(work, parallel_calls=1)
    assert first == again != other


def test_more_choices_than_slots_are_told_and_counted(run: Callable[..., Any]) -> None:
    """`n` is not limited by the slots; the prompt counts once and every completion counts."""

    async def work(backend: LlamaBackend) -> Any:
        return await backend.complete(call(n=3)), await streamed(backend, n=3)

    answer, events = run(work, parallel_calls=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["prompt_tokens"] == PROMPT_TOKENS
    assert answer["usage"]["completion_tokens"] > 12
    usages = [json.loads(event) for event in events[:-1] if b'"usage"' in event]
    assert [usage["usage"]["prompt_tokens"] for usage in usages] == [PROMPT_TOKENS]


def test_concurrent_calls_are_all_answered(run: Callable[..., Any]) -> None:
    """More calls than slots wait their turn; none is lost."""

    async def work(backend: LlamaBackend) -> list[dict[str, Any]]:
        return await asyncio.gather(*(backend.complete(call(seed=s)) for s in range(1, 10)))

    answers = run(work, parallel_calls=3)
    assert [answer["choices"][0]["finish_reason"] for answer in answers].count("length") >= 5
    assert len(answers) == 9


def test_the_loop_stays_free_while_the_model_works(run: Callable[..., Any]) -> None:
    """Inference is on worker threads, without the interpreter's lock."""

    async def work(backend: LlamaBackend) -> float:
        longest = 0.0
        task = asyncio.create_task(backend.complete(call(max_tokens=800, temperature=0)))
        loop = asyncio.get_running_loop()
        while not task.done():
            started = loop.time()
            await asyncio.sleep(0.001)
            longest = max(longest, loop.time() - started)
        await task
        return longest

    assert run(work) < 0.5


def test_stop_strings_end_the_text(run: Callable[..., Any]) -> None:
    """A text that would be longer ends before a stop string."""

    async def work(backend: LlamaBackend) -> Any:
        full = await backend.complete(call(temperature=0, max_tokens=40))
        text = full["choices"][0]["message"]["content"]
        letter = next(each for each in text if each.isascii() and each.isalnum())
        cut = await backend.complete(call(temperature=0, max_tokens=40, stop=[letter]))
        return text, letter, cut["choices"][0]

    text, letter, cut = run(work)
    assert cut["message"]["content"] == text[: text.index(letter)]
    assert cut["finish_reason"] == "stop"


def test_log_probabilities_come_with_both_forms(run: Callable[..., Any]) -> None:
    """One entry per token with the alternatives asked for."""

    async def work(backend: LlamaBackend) -> Any:
        body = {"logprobs": True, "top_logprobs": 2}
        return await backend.complete(call(**body)), await streamed(backend, **body)

    answer, events = run(work)
    entries = answer["choices"][0]["logprobs"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    assert all(entry["logprob"] <= 0 for entry in entries)
    assert any(b'"top_logprobs"' in event for event in events)


def test_a_json_schema_is_enforced_by_grammar(run: Callable[..., Any]) -> None:
    """Even random weights produce JSON that the schema accepts."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}

    async def work(backend: LlamaBackend) -> list[str]:
        answers = [
            await backend.complete(call(response_format=wanted, max_tokens=400, seed=seed))
            for seed in (1, 2, 3)
        ]
        return [answer["choices"][0]["message"]["content"] for answer in answers]

    for text in run(work):
        jsonschema_rs.validate(SCHEMA, json.loads(text))


def test_tools_are_called_with_valid_arguments(run: Callable[..., Any]) -> None:
    """A demanded call arrives whole, with arguments that its schema accepts."""

    async def work(backend: LlamaBackend) -> Any:
        body = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 1600}
        for seed in range(1, 9):
            answer = await backend.complete(call(**body, seed=seed))
            if answer["choices"][0]["finish_reason"] == "tool_calls":
                return answer
        pytest.fail("no seed led to a call")

    for made in run(work)["choices"][0]["message"]["tool_calls"]:
        assert made["id"]
        assert made["function"]["name"] == "f"
        jsonschema_rs.validate(SCHEMA, json.loads(made["function"]["arguments"]))


@pytest.mark.parametrize(
    "body",
    [
        {"stop_token_ids": [7]},
        {"tools": [TOOL], "logprobs": True},
        {"temperature": "warm"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "bogus"}},
            }
        },
    ],
    ids=["stop token ids", "logprobs of calls", "wrong type", "image", "bad schema"],
)
def test_what_llama_cannot_honour_is_refused(run: Callable[..., Any], body: dict[str, Any]) -> None:
    """A refusal of the input, never a silent omission, and no backend fault."""
    assert (
        failure_kind(lambda: run(lambda backend: backend.complete(call(**body))))
        is FailureKind.REJECTED_INPUT
    )


def test_our_parameters_are_put_into_the_words_of_llama() -> None:
    """Renamed, combined or left out; nothing else of the body passes."""
    body = {
        "messages": [{"role": "developer", "content": "x"}],
        "max_completion_tokens": 5,
        "max_tokens": 9,
        "repetition_penalty": 1.1,
        "min_temp": 0.5,
        "max_temp": 1.5,
        "reasoning_effort": "none",
        "stop": None,
        "tools": [{"type": "web_search"}],
        "tool_choice": "auto",
        "grammar": "root ::= .*",
        "n": 4,
    }
    asked = llama_body(body, frozenset())
    assert asked["messages"] == [{"role": "system", "content": "x"}]
    assert asked["max_tokens"] == 5
    assert asked["repeat_penalty"] == 1.1
    assert (asked["temperature"], asked["dynatemp_range"]) == (1.0, 0.5)
    assert asked["chat_template_kwargs"]["enable_thinking"] is False
    assert not asked.keys() & {"stop", "tools", "tool_choice", "grammar", "n"}


def test_a_consumer_that_leaves_stops_the_work(run: Callable[..., Any]) -> None:
    """Closing the stream or cancelling the call ends its run long before the answer's end."""
    endless = {"max_tokens": 1900, "stream": True, "temperature": 2.0, "seed": 1}

    async def work(backend: LlamaBackend) -> list[int]:
        chat = backend._server.chat
        heard: list[int] = []
        started, ended = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def counting(body: dict[str, Any], on_chunk: Callable[[Any], bool]) -> None:
            def count(chunk: Any) -> bool:
                heard[-1] += 1
                time.sleep(0.002)  # the tiny model would otherwise be done before anybody leaves
                loop.call_soon_threadsafe(started.set)
                return on_chunk(chunk)

            heard.append(0)
            chat(body, count)
            loop.call_soon_threadsafe(ended.set)

        backend._server.chat = counting  # type: ignore[method-assign]
        stream = backend.stream(call(**endless))
        await anext(stream)
        await stream.aclose()
        await ended.wait()
        started.clear()
        ended.clear()
        task = asyncio.create_task(backend.complete(call(**endless)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended.wait()
        backend._server.chat = chat  # type: ignore[method-assign]
        await backend.complete(call(max_tokens=1))
        return heard

    first, second = run(work, parallel_calls=1)
    assert first < 200
    assert second < 200


def test_closing_the_backend_ends_running_calls(run: Callable[..., Any]) -> None:
    """Calls that run fail as offline, later ones too, and closing twice is harmless."""

    async def work(backend: LlamaBackend) -> list[FailureKind]:
        kinds = []
        stream = backend.stream(call(max_tokens=1900, temperature=0))
        await anext(stream)
        await backend.aclose()
        await backend.aclose()
        try:
            async for _ in stream:
                pass
        except EngineFailure as failure:
            kinds.append(failure.kind)
        for attempt in (backend.complete(call()), backend.models()):
            try:
                await attempt
            except EngineFailure as failure:
                kinds.append(failure.kind)
        return kinds

    assert run(work) == [FailureKind.OFFLINE] * 3


def test_closing_right_after_loading_ends(tiny_model: Path) -> None:
    """llama.cpp's own loop runs before the backend counts as loaded, so that it can be ended."""

    async def scenario() -> None:
        backend = await load(tiny_model)
        await backend.aclose()

    for _ in range(20):
        asyncio.run(scenario())


def test_two_models_live_in_one_process(tiny_model: Path) -> None:
    """Closing one model leaves the other at work."""

    async def scenario() -> str:
        one = await load(tiny_model, name="one")
        two = await load(tiny_model, name="two")
        await one.aclose()
        try:
            return str((await two.complete(call()))["model"])
        finally:
            await two.aclose()

    assert asyncio.run(scenario()) == "two"


def test_the_listener_of_llama_is_private(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No port is opened; the socket lies in a directory of ours and goes with the model."""
    # Not `tmp_path`, which may be too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="tgt-") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)

        async def work(backend: LlamaBackend) -> None:
            (directory,) = Path(short).iterdir()
            assert directory.stat().st_mode & 0o777 == 0o700
            assert [each.name for each in directory.iterdir()] == ["llama.sock"]

        run(work)
        assert list(Path(short).iterdir()) == []


def test_without_a_short_path_the_listener_asks_for_a_secret(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where a Unix socket is impossible, nobody else can use the loopback port either."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    async def work(backend: LlamaBackend) -> int | None:
        address = backend._server._address
        assert address.startswith("http://127.0.0.1:")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{address}/v1/models")
        refusal.value.close()
        assert refusal.value.code == 401
        return await backend.count_prompt_tokens(call())

    assert run(work) == PROMPT_TOKENS


def test_nothing_is_written_to_standard_output(
    run: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp's own log, which holds prompts at some levels, is off."""
    run(lambda backend: backend.complete(call()))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_file_that_is_no_model_is_explained(tmp_path: Path) -> None:
    """The operator learns which file, and nothing is left behind."""
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(os.urandom(64))
    for path in (junk, tmp_path / "missing.gguf"):
        with pytest.raises(LlamaLoadFailure, match=path.name):
            asyncio.run(load(path))


def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    """A base installation says what to install."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(LlamaLoadFailure, match=r"pip install 'traghetto\[llama\]'"):
        asyncio.run(load(tiny_model))


def test_a_producer_waits_for_room_and_stops_when_nobody_listens() -> None:
    """The bridge holds a bounded number of chunks and never blocks a thread for good."""

    async def scenario() -> tuple[int, int]:
        bridge: Bridge[int] = Bridge()
        put = 0

        def produce() -> None:
            nonlocal put
            while not bridge.put(put):
                put += 1

        threads = [threading.Thread(target=produce) for _ in range(2)]
        for thread in threads:
            thread.start()
        while put < CHUNKS_PENDING_MAX:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        blocked_at = put
        bridge.leave()
        for thread in threads:
            await asyncio.to_thread(thread.join, 5)
        return blocked_at, sum(thread.is_alive() for thread in threads)

    blocked_at, alive = asyncio.run(scenario())
    assert CHUNKS_PENDING_MAX <= blocked_at <= CHUNKS_PENDING_MAX + 2
    assert alive == 0


def test_the_server_for_other_tests_answers_over_http(tiny_model: Path) -> None:
    """The supporting server is a true llama.cpp over HTTP, and ends with its context."""
    with llama_server(tiny_model, api_key="secret") as server:
        request = urllib.request.Request(
            f"{server.address}/v1/chat/completions",
            data=json.dumps({"messages": [USER], "max_tokens": 4}).encode(),
            headers={"Authorization": "Bearer secret", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["usage"]["prompt_tokens"] == PROMPT_TOKENS
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{server.address}/health")
