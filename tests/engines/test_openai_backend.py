"""The OpenAI adapter: discovery, counting, and a real llama.cpp server behind it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import upstream as up
from support.images import encoded, opened, picture
from support.llama_server import llama_server
from support.tiny_gguf import write_tiny_gguf
from support.upstream import FaultUpstream
from traghetto.clock import SystemClock
from traghetto.engines.classify import error_inside
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import Picture
from traghetto.engines.openai import HttpClient, OpenAIBackend, Tokenizer
from traghetto.engines.protocols import BackendModel, ChatCall
from traghetto.wire.completion import parse_completion, parse_usage

PICTURES = [
    Picture(data, form, 90, 70, False)
    for form in ("png", "jpeg")
    for data in [encoded(picture(90, 70), form)]
]
LOOK = ChatCall(
    "r-2",
    {
        "max_tokens": 6,
        "messages": [
            {"role": "system", "content": "Look."},
            {
                "role": "user",
                "name": "n",
                "content": [
                    {"type": "text", "text": '"What" is\nit?'},
                    *({"type": "image_url", "image_url": {"url": p}} for p in PICTURES),
                ],
            },
            {"role": "user", "content": [{"type": "text", "text": "Well?"}]},
        ],
    },
    has_pictures=True,
)
CALL = ChatCall("r-1", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6})


def backend_of(
    url: str, *, tokenize: Tokenizer | None = None, api_key: str | None = None
) -> OpenAIBackend:
    client = HttpClient(url, api_key)
    return OpenAIBackend("u", client, "m", clock=SystemClock(), tokenize=tokenize)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def closing(backend: OpenAIBackend, work: Awaitable[Any]) -> Any:
    try:
        return await work
    finally:
        await backend.aclose()


def test_what_came_before_a_break_is_delivered_before_it() -> None:
    """A reader that is slower than the break still gets every event that had arrived."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            deltas = [up.delta(text) for text in "abc"]
            # The first is read alone; the others and the end come while the reader is busy.
            upstream.then(up.stream(deltas, seconds=0.05, then=up.close))
            events: list[bytes] = []

            async def read_slowly() -> None:
                async for payloads in backend.stream(CALL):
                    events.extend(payloads)
                    await asyncio.sleep(0.2)

            backend = backend_of(upstream.url)
            with pytest.raises(EngineFailure, match="cut off"):
                await closing(backend, read_slowly())
            assert events == deltas

    run(test)


@pytest.mark.parametrize(
    ("base", "api", "root"),
    [
        ("http://h:1", "http://h:1/v1", "http://h:1/"),
        ("http://h:1/", "http://h:1/v1", "http://h:1/"),
        ("http://h:1/v1", "http://h:1/v1", "http://h:1/"),
        ("http://h:1/v1/", "http://h:1/v1", "http://h:1/"),
        ("https://h/api/v1", "https://h/api/v1", "https://h/api"),
    ],
)
def test_a_base_url_is_taken_with_or_without_v1(base: str, api: str, root: str) -> None:
    """Operators write either."""
    client = HttpClient(base)
    assert (str(client.api), str(client.root)) == (api, root)


@pytest.mark.parametrize(
    "url", ["ftp://h", "h:80", "http://", "http://u:p@h/v1", "http://h/v1?a=b"]
)
def test_a_url_that_is_no_base_url_is_refused(url: str) -> None:
    """Credentials and queries in a URL would end up in logs."""
    with pytest.raises(ValueError, match="upstream URL"):
        HttpClient(url)


def test_a_shared_client_closes_with_its_last_backend() -> None:
    """Two models of one server share connections; closing one model leaves the other working."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            client = HttpClient(upstream.url)
            one, two = (OpenAIBackend(n, client, n, clock=SystemClock()) for n in ("one", "two"))
            await one.complete(CALL)
            await one.aclose()
            await one.aclose()
            await two.complete(CALL)
            assert upstream.connections == 1
            await two.aclose()
            with pytest.raises(EngineFailure) as caught:
                await two.complete(CALL)
            assert caught.value.kind is FailureKind.UNREACHABLE

    run(test)


def test_a_large_request_is_sent_whole() -> None:
    """Bodies above a mebibyte take another way through the library."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            backend = backend_of(upstream.url)
            text = "x" * (3 << 20)
            call = ChatCall("r", {"messages": [{"role": "user", "content": text}]})
            await closing(backend, backend.complete(call))
            assert upstream.requests[0].json["messages"][0]["content"] == text
            assert upstream.requests[0].header("content-length")

    run(test)


def images_in(request: up.Request) -> list[bytes]:
    """The files that a chat request carries, by their data URLs."""
    urls = [
        part["image_url"]["url"]
        for message in request.json["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    assert all(
        url.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for url in urls
    )
    return [base64.b64decode(url.partition(",")[2], validate=True) for url in urls]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_images_are_sent_as_data_urls_in_their_places(is_stream: bool) -> None:
    """The body has a length, and is the JSON that it would be had it been encoded at once."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            backend = backend_of(upstream.url)
            if is_stream:
                async for _ in backend.stream(LOOK):
                    pass
            else:
                await backend.complete(LOOK)
            await backend.aclose()
            (request,) = upstream.requests
            assert int(request.header("content-length") or 0) == len(request.body)
            assert request.header("content-type") == "application/json"
            assert images_in(request) == [p.data for p in PICTURES]
            assert [opened(data).size for data in images_in(request)] == [(90, 70)] * 2
            messages = request.json["messages"]
            assert [m["content"] for m in messages[::2]] == [
                "Look.",
                [{"type": "text", "text": "Well?"}],
            ]
            assert messages[1]["name"] == "n"
            assert messages[1]["content"][0] == {"type": "text", "text": '"What" is\nit?'}
            assert request.json["model"] == "m"
            assert request.json["max_tokens"] == 6
            assert request.json["stream"] is is_stream

    run(test)


def test_large_images_leave_the_event_loop_its_turns() -> None:
    """Twenty megabytes are sent in pieces, so that other requests go on meanwhile."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            large = Picture(bytes(range(256)) * 80_000 + b"x", "png", 9000, 2000, False)
            part = {"type": "image_url", "image_url": {"url": large}}
            body = {"messages": [{"role": "user", "content": [part]}]}
            backend = backend_of(upstream.url)
            turns = 0

            async def count_turns() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            counting = asyncio.create_task(count_turns())
            await closing(backend, backend.complete(ChatCall("r", body, has_pictures=True)))
            counting.cancel()
            assert images_in(upstream.requests[0]) == [large.data]
            assert turns > len(large.data) // 250_000

    run(test)


def test_a_backend_that_answers_before_it_has_read_all_is_heard() -> None:
    """Its refusal is told, and the rest of the images is not waited for."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            upstream.accept_act = answer_and_close
            large = Picture(b"x" * (16 << 20), "png", 9000, 2000, False)
            part = {"type": "image_url", "image_url": {"url": large}}
            body = {"messages": [{"role": "user", "content": [part]}]}
            backend = backend_of(upstream.url)
            with pytest.raises(EngineFailure) as caught:
                await closing(backend, backend.complete(ChatCall("r", body, has_pictures=True)))
            assert caught.value.kind in {FailureKind.TOO_LARGE, FailureKind.BROKEN}

    run(test)


def answer_and_close(writer: asyncio.StreamWriter) -> None:
    """What a server does that has enough: an answer, and no look at the rest."""
    writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


LISTINGS = [
    pytest.param(
        {"data": [{"id": "q", "owned_by": "vllm", "max_model_len": 40960}]},
        {},
        [BackendModel("q", 40960)],
        id="vLLM",
    ),
    pytest.param(
        {"data": [{"id": "g", "owned_by": "llamacpp", "meta": {"n_ctx_train": 8192}}]},
        {
            "/props": {
                "default_generation_settings": {"n_ctx": 2048},
                "modalities": {"vision": True},
            }
        },
        [
            BackendModel(
                "g", 2048, capabilities={"supportsVision": True, "supportsMultipleImages": True}
            )
        ],
        id="llama.cpp",
    ),
    pytest.param(
        {"data": [{"id": "g", "owned_by": "llamacpp", "meta": {"n_ctx_train": 8192}}]},
        {},
        [BackendModel("g", 8192)],
        id="llama.cpp without props",
    ),
    pytest.param(
        {"data": [{"id": "llama3:8b", "owned_by": "library"}]},
        {
            "/api/show": {
                "model_info": {"llama.context_length": 131072},
                "capabilities": ["completion", "tools"],
            }
        },
        [BackendModel("llama3:8b", 131072, capabilities={"supportsFunctionCalling": True})],
        id="Ollama",
    ),
    pytest.param(
        {"data": [{"id": "emb", "owned_by": "library"}]},
        {"/api/show": {"model_info": {"bert.context_length": 512}, "capabilities": ["embedding"]}},
        [BackendModel("emb", 512, type="embedding")],
        id="Ollama embedding",
    ),
    pytest.param(
        {"data": [{"id": "v/l", "owned_by": "organization_owner"}]},
        {"/api/v0/models/v/l": {"type": "vlm", "max_context_length": 32768}},
        [BackendModel("v/l", 32768, capabilities={"supportsVision": True})],
        id="LM Studio",
    ),
    pytest.param(
        {"data": [{"id": "o", "architecture": {"input_modalities": ["text", "image"]}}]},
        {},
        [BackendModel("o", capabilities={"supportsVision": True})],
        id="OpenRouter",
    ),
    pytest.param(
        {"data": [{"id": "o", "architecture": {"input_modalities": 7}}]},
        {},
        [BackendModel("o")],
        id="odd modalities",
    ),
    pytest.param(
        {"data": [{"id": "qwen3-vl:8b", "owned_by": "library"}]},
        {"/api/show": {"model_info": {}, "capabilities": ["completion", "vision"]}},
        [BackendModel("qwen3-vl:8b", capabilities={"supportsVision": True})],
        id="Ollama with vision",
    ),
    pytest.param(
        {"data": [{"id": "x", "context_length": True}, {"id": ""}, {"id": 5}, {}]},
        {},
        [BackendModel("x")],
        id="oddities",
    ),
]


@pytest.mark.parametrize(("listing", "details", "expected"), LISTINGS)
def test_models_are_described_as_far_as_the_server_tells(
    listing: Any, details: dict[str, Any], expected: list[BackendModel]
) -> None:
    """Details are asked for once per model; without them the listing counts."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            upstream.models_act = up.answer_json(listing)
            upstream.by_path = {path: up.answer_json(value) for path, value in details.items()}
            backend = backend_of(upstream.url)
            assert await backend.models() == expected
            asked = len(upstream.other_requests)
            assert await backend.models() == expected
            assert len(upstream.other_requests) == asked + 1
            await backend.aclose()

    run(test)


@pytest.mark.parametrize("listing", [{}, {"data": None}, {"data": ["x"]}, {"data": {}}])
def test_a_listing_that_is_none_fails_the_health_check(listing: Any) -> None:
    """A server that answers junk there is not taken for a model server."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            upstream.models_act = up.answer_json(listing)
            backend = backend_of(upstream.url)
            with pytest.raises(EngineFailure) as caught:
                await closing(backend, backend.models())
            assert caught.value.kind is FailureKind.BROKEN

    run(test)


def test_vllm_is_asked_to_count() -> None:
    """`/tokenize` takes the messages and answers with a count; other prompts are not counted."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            upstream.by_path = {"/tokenize": up.answer_json({"count": 9, "tokens": [1] * 9})}
            backend = backend_of(upstream.url, tokenize="vllm")
            assert await backend.count_prompt_tokens(CALL) == 9
            assert upstream.other_requests[0].json == {
                "messages": CALL.body["messages"],
                "model": "m",
                "add_generation_prompt": True,
            }
            assert await backend.count_prompt_tokens(LOOK) is None
            await backend.aclose()
            silent = backend_of(upstream.url)
            assert await closing(silent, silent.count_prompt_tokens(CALL)) is None
            assert len(upstream.other_requests) == 1

    run(test)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llama_url(model: Path) -> Iterator[str]:
    with llama_server(model, api_key="sk-test") as server:
        yield f"{server.address}/v1"


def test_a_real_llama_cpp_server_answers_both_ways_with_exact_counts(llama_url: str) -> None:
    """Whole and streamed answers parse, and the count before equals the usage after."""

    async def test() -> None:
        backend = backend_of(llama_url, tokenize="llama.cpp", api_key="sk-test")
        counted = await backend.count_prompt_tokens(CALL)
        completion = parse_completion(await backend.complete(CALL))
        assert completion.usage is not None
        assert completion.usage.prompt_tokens == counted
        assert completion.usage.completion_tokens <= 6
        payloads = [p async for part in backend.stream(CALL) for p in part]
        assert payloads[-1] == up.DONE
        events = [json.loads(payload) for payload in payloads[:-1]]
        assert not any(map(error_inside, events))
        usage = parse_usage(events[-1]["usage"], events[-1].get("timings"))
        assert usage is not None
        assert usage.prompt_tokens == counted
        assert any(c["finish_reason"] for event in events for c in event["choices"])
        (listed,) = await backend.models()
        assert listed.context_tokens == 2048
        await backend.aclose()

    run(test)


def of_llama(name: str) -> Any:
    rows = json.loads((Path(__file__).parent / "fixtures/llama_cpp.json").read_text())
    return next(row for row in rows if row["name"] == name)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("context, whole or streamed", {"messages": [{"role": "user", "content": "x" * 5000}]}),
        ("messages is a string", {"messages": "no"}),
        ("temperature is a string", CALL.body | {"temperature": "hot"}),
    ],
)
def test_a_real_llama_cpp_server_refuses_as_its_fixtures_say(
    llama_url: str, name: str, body: dict[str, Any]
) -> None:
    """The captured errors are still what the server sends, in both forms."""

    async def test() -> None:
        backend = backend_of(llama_url, api_key="sk-test")
        expected = FailureKind[of_llama(name)["kind"]]
        with pytest.raises(EngineFailure) as caught:
            await backend.complete(ChatCall("r", body))
        assert caught.value.kind is expected
        with pytest.raises(EngineFailure) as caught:
            await anext(backend.stream(ChatCall("r", body)))
        assert caught.value.kind is expected
        await backend.aclose()

    run(test)


def test_a_real_llama_cpp_server_refuses_a_wrong_key(llama_url: str) -> None:
    """That is the operator's fault, not the caller's."""

    async def test() -> None:
        backend = backend_of(llama_url, api_key="sk-wrong")
        with pytest.raises(EngineFailure) as caught:
            await closing(backend, backend.complete(CALL))
        assert caught.value.kind is FailureKind.MISCONFIGURED

    run(test)
