"""The adapter to OpenAI's image API, against a socket that is scripted byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support import upstream as up
from support.image_pools import SHARED_FAULTS, Fault, K, check_fault, pool_at, refusing
from support.image_servers import (
    base64_of,
    form_of,
    openai_images,
    openai_server,
    picture,
    png,
    size_of,
)
from traghetto.clock import SystemClock
from traghetto.engines import image_answers
from traghetto.engines.failures import EngineFailure
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.image_protocols import EditCall, GenerateCall, Reference
from traghetto.engines.openai.client import HttpClient
from traghetto.engines.openai.images import OpenAIImageBackend
from traghetto.engines.protocols import Deadlines

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
GENERATE = GenerateCall(request_id="r", prompt="a boat", width=16, height=8)
EDIT = EditCall(request_id="r", prompt="bluer", pictures=(picture(12, 10),))


def adapter(client: HttpClient, model: str = "m") -> OpenAIImageBackend:
    return OpenAIImageBackend("u", client, model, clock=SystemClock())


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def in_data(*items: Any) -> up.Act:
    return up.answer_json({"data": list(items)})


POLICY = {
    "error": {
        "message": "Your request was rejected by the safety system.",
        "type": "image_generation_user_error",
        "param": None,
        "code": "moderation_blocked",
    }
}
UNKNOWN_SIZE = {
    "error": {"message": "Invalid value", "type": "invalid_request_error", "param": "size"}
}
OWN_FAULTS = [
    Fault("policy of image models", refusing(400, POLICY), K.REJECTED_CONTENT, 1, 0),
    Fault(
        "policy of DALL-E",
        refusing(400, {"error": {"code": "content_policy_violation", "message": "no"}}),
        K.REJECTED_CONTENT,
        1,
        0,
    ),
    Fault("parameter", refusing(400, UNKNOWN_SIZE), K.REJECTED_INPUT, 1, 0),
    Fault("empty data", in_data(), K.BROKEN, 2, 2),
    Fault("no data", up.answer_json({"created": 1}), K.BROKEN, 2, 2),
    Fault("null image", in_data({"b64_json": None}), K.BROKEN, 2, 2),
    Fault("item is no object", in_data("x"), K.BROKEN, 2, 2),
    Fault("number for an image", in_data({"b64_json": 7}), K.BROKEN, 2, 2),
    Fault("not base64", in_data({"b64_json": "<img>"}), K.BROKEN, 2, 2),
    Fault("base64 of no image", in_data({"b64_json": base64_of(b"sorry")}), K.BROKEN, 2, 2),
    Fault("remote URL", in_data({"url": "http://127.0.0.1:1/x.png"}), K.BROKEN, 2, 2),
    Fault("data URL not base64", in_data({"url": "data:image/png,x"}), K.BROKEN, 2, 2),
    Fault(
        "error in a 200",
        up.answer_json({"error": {"message": "CUDA out of memory"}}),
        K.BROKEN,
        2,
        2,
    ),
]


@pytest.mark.parametrize("fault", SHARED_FAULTS + OWN_FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_its_kind_attempts_and_breaker(fault: Fault) -> None:
    """A generation fails as the fault table says."""
    run(
        lambda: check_fault(
            fault, openai_server(), adapter, lambda p: p.generate(GENERATE, "a"), GENERATIONS
        )
    )


@pytest.mark.parametrize("fault", OWN_FAULTS, ids=lambda fault: fault.name)
def test_edits_fail_like_generations(fault: Fault) -> None:
    """The other route is read by the same rules."""
    run(lambda: check_fault(fault, openai_server(), adapter, lambda p: p.edit(EDIT, "a"), EDITS))


def test_a_generation_asks_for_base64_in_the_size_wanted() -> None:
    """The body is OpenAI's, with the members that diffusion servers have besides."""

    async def test() -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            call = GenerateCall(
                request_id="r",
                prompt="a boat",
                negative_prompt="fog",
                width=16,
                height=8,
                count=2,
                seed=-1,
                steps=9,
                guidance=3.5,
                quality="high",
            )
            images = await pool.generate(call, "alice")
            assert [size_of(image.data) for image in images] == [(16, 8), (16, 8)]
            (request,) = server.requests
            assert request.path == GENERATIONS
            assert request.json == {
                "model": "m",
                "prompt": "a boat",
                "n": 2,
                "size": "16x8",
                "response_format": "b64_json",
                "negative_prompt": "fog",
                "seed": 2**32 - 1,
                "num_inference_steps": 9,
                "steps": 9,
                "guidance_scale": 3.5,
            }

    run(test)


def test_openais_own_models_get_what_they_know() -> None:
    """They refuse unknown parameters, and the newer ones also to be asked for base64."""

    async def body_for(model: str) -> dict[str, Any]:
        async with (
            openai_server() as server,
            pool_at(server.base, lambda client: adapter(client, model)) as pool,
        ):
            call = GenerateCall(
                request_id="r", prompt="x", width=8, height=8, seed=3, steps=4, quality="low"
            )
            await pool.generate(call, "alice")
            return server.requests[0].json

    async def test() -> None:
        usual = {"prompt": "x", "n": 1, "size": "8x8"}
        assert await body_for("gpt-image-1") == {"model": "gpt-image-1", "quality": "low"} | usual
        dall_e = {"model": "dall-e-3", "response_format": "b64_json"}
        assert await body_for("dall-e-3") == dall_e | usual

    run(test)


def test_an_edit_is_a_form_with_every_picture() -> None:
    """`image[]` is the one name that all servers take; without a size wanted it is the picture's."""

    async def test() -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            image = await pool.edit(EDIT, "alice")
            assert size_of(image.data) == (12, 10)
            second = picture(4, 4, "white")
            sized = EditCall(
                request_id="r",
                prompt='"\r\n--x\r\nüß',
                pictures=(*EDIT.pictures, second),
                width=32,
                height=16,
            )
            assert size_of((await pool.edit(sized, "alice")).data) == (32, 16)
            first, both = server.requests
            assert form_of(first) == [
                ("model", "m"),
                ("prompt", "bluer"),
                ("n", "1"),
                ("response_format", "b64_json"),
                ("size", "12x10"),
                ("image[]", EDIT.pictures[0].data),
            ]
            assert form_of(both) == [
                ("model", "m"),
                ("prompt", '"\r\n--x\r\nüß'),
                ("n", "1"),
                ("response_format", "b64_json"),
                ("size", "32x16"),
                ("image[]", EDIT.pictures[0].data),
                ("image[]", second.data),
            ]

    run(test)


def test_a_data_url_is_an_image_too() -> None:
    """Some servers answer with one although they were asked for base64."""

    async def test() -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            server.then(in_data({"url": f"data:image/png;base64,{base64_of(png(5, 4))}"}))
            (image,) = await pool.generate(GENERATE, "alice")
            assert size_of(image.data) == (5, 4)

    run(test)


def test_a_backend_that_answers_with_a_url_is_not_followed_anywhere() -> None:
    """The place it names gets no connection."""

    async def test() -> None:
        async with openai_server() as elsewhere, openai_server() as server:
            async with pool_at(server.base, adapter) as pool:
                server.acts[GENERATIONS] = in_data({"url": f"{elsewhere.base}/x.png"})
                with pytest.raises(EngineFailure):
                    await pool.generate(GENERATE, "alice")
            assert elsewhere.connections == 0

    run(test)


def test_an_image_past_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is decoded, and the whole body while it is read."""
    monkeypatch.setattr(image_answers, "IMAGE_BYTES_MAX", 30_000)
    large = png() + bytes(40_000)
    fault = Fault("large image", openai_images(large), K.UNUSABLE, 1, 1)
    endless = Fault("endless", up.oversized_body(129 << 20), K.UNUSABLE, 1, 1)

    async def test() -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            for each in (fault, endless):
                server.then(each.act)
                with pytest.raises(EngineFailure) as caught:
                    await pool.generate(GENERATE, "alice")
                assert caught.value.kind is each.kind

    run(test)


def test_an_answer_that_says_it_is_too_large_is_not_read() -> None:
    """The length in the header is enough; what comes after it is not waited for."""

    async def huge(exchange: up.Exchange) -> None:
        headers = {"content-type": "application/json", "content-length": str(1 << 40)}
        await exchange.head(200, headers)
        await exchange.wait_closed_by_peer()

    async def test() -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            server.then(huge)
            with pytest.raises(EngineFailure) as caught:
                await pool.generate(GENERATE, "alice")
            assert caught.value.kind is K.UNUSABLE

    run(test)


def test_who_gives_up_closes_the_connection() -> None:
    """The server sees it at once and can stop."""

    async def give_up(work: Callable[[ImagePool], Coroutine[Any, Any, Any]]) -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            server.then(up.hang)
            task = asyncio.ensure_future(work(pool))
            while not server.requests:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.requests[0].closed.wait(), 5)
            assert pool.members[0].outstanding == 0

    async def test() -> None:
        await give_up(lambda pool: pool.generate(GENERATE, "alice"))
        await give_up(lambda pool: pool.edit(EDIT, "alice"))

    run(test)


def test_a_deadline_closes_the_connection() -> None:
    """What nobody waits for any more is not left running."""

    async def test() -> None:
        deadlines = Deadlines(total_seconds=0.1)
        async with (
            openai_server() as server,
            pool_at(server.base, adapter, deadlines=deadlines) as pool,
        ):
            server.then(up.hang)
            with pytest.raises(EngineFailure) as caught:
                await pool.generate(GENERATE, "alice")
            assert caught.value.kind is K.TIMED_OUT
            await asyncio.wait_for(server.requests[0].closed.wait(), 5)

    run(test)


def test_a_kept_connection_that_died_is_replaced_for_free() -> None:
    """No failure is counted for it."""

    async def test() -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            await pool.generate(GENERATE, "alice")
            server.then(up.close)
            await pool.generate(GENERATE, "alice")
            assert server.connections == 2
            assert pool.members[0].breaker._consecutive == 0

    run(test)


def test_style_references_are_refused_rather_than_ignored() -> None:
    """The caller pays for them; the server has no place for them."""

    async def test() -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            call = GenerateCall(
                request_id="r",
                prompt="x",
                width=8,
                height=8,
                references=(Reference(picture(), 0.5),),
            )
            with pytest.raises(EngineFailure) as caught:
                await pool.generate(call, "alice")
            assert caught.value.kind is K.REJECTED_INPUT
            assert caught.value.fields == ("style_references",)
            assert server.requests == []

    run(test)


def test_a_prompt_cannot_set_parameters_behind_our_back() -> None:
    """stable-diffusion.cpp would take sizes and steps from a tag in the prompt, unpriced."""

    async def test() -> None:
        async with openai_server() as server, pool_at(server.base, adapter) as pool:
            tag = '<sd_cpp_extra_args>{"steps":9999}</sd_cpp_extra_args>'
            nested = "<sd_cpp_sd_cpp_extra_argsextra_args>"
            call = GenerateCall(request_id="r", prompt=f"x {tag}{nested}", width=8, height=8)
            await pool.generate(call, "alice")
            assert "sd_cpp_extra_args" not in server.requests[0].json["prompt"]

    run(test)


def test_the_key_goes_in_the_header_and_health_is_the_list_of_models() -> None:
    """`/v1/models`, as for text; the key shows up nowhere else."""

    async def test() -> None:
        async with openai_server() as server:
            backend = adapter(HttpClient(server.base, "sk-secret"))
            assert [model.id for model in await backend.models()] == ["m"]
            await backend.generate(GENERATE)
            await backend.aclose()
            assert "secret" not in repr(vars(backend))
            headers = [request.header("authorization") for request in server.requests]
            assert headers == ["Bearer sk-secret"] * 2

    run(test)
