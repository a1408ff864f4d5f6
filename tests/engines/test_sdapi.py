"""The adapter to AUTOMATIC1111's API, against a socket that is scripted byte by byte."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support import upstream as up
from support.image_pools import SHARED_FAULTS, Fault, K, check_fault, pool_at, refusing
from support.image_servers import (
    CHECKPOINT,
    base64_of,
    picture,
    png,
    sdapi_images,
    sdapi_server,
    size_of,
)
from traghetto.clock import SystemClock
from traghetto.engines.failures import EngineFailure
from traghetto.engines.image_protocols import EditCall, GenerateCall, Reference, UpscaleCall
from traghetto.engines.member import Health, Member, Replica
from traghetto.engines.openai.client import HttpClient
from traghetto.engines.sdapi.backend import SdapiBackend, SdapiUpscaler

TXT2IMG = "/sdapi/v1/txt2img"
IMG2IMG = "/sdapi/v1/img2img"
EXTRAS = "/sdapi/v1/extra-single-image"
GENERATE = GenerateCall(request_id="r", prompt="a boat", width=16, height=8)
EDIT = EditCall(request_id="r", prompt="bluer", pictures=(picture(12, 16),))
UPSCALE = UpscaleCall(request_id="r", picture=picture(6, 4), width=12, height=8)


def painter(client: HttpClient, checkpoint: str | None = None) -> SdapiBackend:
    return SdapiBackend("u", client, checkpoint, clock=SystemClock())


def upscaler(client: HttpClient) -> SdapiUpscaler:
    return SdapiUpscaler("u", client, "R-ESRGAN 4x+", clock=SystemClock())


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


OUT_OF_MEMORY = {
    "error": "OutOfMemoryError",
    "detail": "",
    "body": "",
    "errors": "CUDA out of memory.",
}
UNPROCESSABLE = {
    "detail": [{"loc": ["body", "steps"], "msg": "not an integer", "type": "type_error.integer"}]
}
OWN_FAULTS = [
    Fault("out of memory", refusing(500, OUT_OF_MEMORY), K.BROKEN, 2, 2),
    Fault("parameter", refusing(422, UNPROCESSABLE), K.REJECTED_INPUT, 1, 0),
    Fault("no images", sdapi_images(), K.BROKEN, 2, 2),
    Fault("images are none", up.answer_json({"images": None}), K.BROKEN, 2, 2),
    Fault("null image", up.answer_json({"images": [None]}), K.BROKEN, 2, 2),
    Fault("not base64", up.answer_json({"images": ["<img>"]}), K.BROKEN, 2, 2),
    Fault("base64 of no image", sdapi_images(b"sorry"), K.BROKEN, 2, 2),
]


@pytest.mark.parametrize("fault", SHARED_FAULTS + OWN_FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_its_kind_attempts_and_breaker(fault: Fault) -> None:
    """A generation fails as the fault table says."""
    run(
        lambda: check_fault(
            fault, sdapi_server(), painter, lambda p: p.generate(GENERATE, "a"), TXT2IMG
        )
    )


@pytest.mark.parametrize(
    "fault",
    [
        Fault("500", refusing(500, OUT_OF_MEMORY), K.BROKEN, 2, 2),
        Fault("no image", up.answer_json({"html_info": ""}), K.BROKEN, 2, 2),
        Fault("base64 of no image", up.answer_json({"image": base64_of(b"x")}), K.BROKEN, 2, 2),
    ],
    ids=lambda fault: fault.name,
)
def test_an_upscaling_fails_likewise(fault: Fault) -> None:
    """The third route is read by the same rules."""
    run(
        lambda: check_fault(
            fault, sdapi_server(), upscaler, lambda p: p.upscale(UPSCALE, "a"), EXTRAS
        )
    )


def test_a_prompt_carries_no_parameters() -> None:
    """stable-diffusion.cpp serves this API too, and would take them from its own tag."""

    async def test() -> None:
        tag = '<sd_cpp_extra_args>{"steps":9999}</sd_cpp_extra_args>'
        async with sdapi_server() as server, pool_at(server.base, painter) as pool:
            call = GenerateCall(request_id="r", prompt=tag, negative_prompt=tag, width=16, height=8)
            await pool.generate(call, "alice")
            edit = EditCall(request_id="r", prompt=tag, pictures=(picture(16, 8),))
            await pool.edit(edit, "alice")
        for request in server.requests:
            assert "sd_cpp_extra_args" not in json.dumps(request.json)

    run(test)


def test_a_generation_names_the_checkpoint_and_leaves_the_rest_to_the_server() -> None:
    """What the caller leaves open is not sent; nothing is saved over there."""

    async def test() -> None:
        async with (
            sdapi_server() as server,
            pool_at(server.base, lambda c: painter(c, "dream")) as pool,
        ):
            (image,) = await pool.generate(GENERATE, "alice")
            assert size_of(image.data) == (16, 8)
            assert server.requests[0].json == {
                "prompt": "a boat",
                "negative_prompt": "",
                "width": 16,
                "height": 8,
                "n_iter": 1,
                "save_images": False,
                "override_settings": {"sd_model_checkpoint": "dream"},
                "override_settings_restore_afterwards": False,
            }

    run(test)


def test_what_the_caller_chooses_is_sent() -> None:
    """Seed, steps and guidance; a negative seed would mean "any" to the server."""

    async def test() -> None:
        async with sdapi_server() as server, pool_at(server.base, painter) as pool:
            call = GenerateCall(
                request_id="r",
                prompt="a boat",
                negative_prompt="fog",
                width=16,
                height=8,
                count=3,
                seed=-1,
                steps=12,
                guidance=4.5,
            )
            assert len(await pool.generate(call, "alice")) == 3
            sent = server.requests[0].json
            chosen = {"seed": 2**32 - 1, "steps": 12, "cfg_scale": 4.5, "negative_prompt": "fog"}
            assert chosen.items() <= sent.items()
            assert "override_settings" not in sent

    run(test)


def test_pictures_of_extensions_are_left_out() -> None:
    """They follow those that were asked for."""

    async def test() -> None:
        async with sdapi_server() as server, pool_at(server.base, painter) as pool:
            server.then(sdapi_images(png(16, 8), png(9, 9)))
            (image,) = await pool.generate(GENERATE, "alice")
            assert size_of(image.data) == (16, 8)

    run(test)


def test_an_edit_keeps_the_size_of_the_picture_as_far_as_models_can() -> None:
    """Sizes are rounded up to what a latent image can have."""

    async def test() -> None:
        async with sdapi_server() as server, pool_at(server.base, painter) as pool:
            image = await pool.edit(EDIT, "alice")
            assert size_of(image.data) == (16, 16)
            sent = server.requests[0].json
            assert base64.b64decode(sent["init_images"][0]) == EDIT.pictures[0].data
            assert sent["prompt"] == "bluer"
            sized = EditCall(
                request_id="r", prompt="x", pictures=EDIT.pictures, width=32, height=24
            )
            assert size_of((await pool.edit(sized, "alice")).data) == (32, 24)

    run(test)


def test_an_upscaling_names_size_and_upscaler() -> None:
    """By size and not by factor, so that the picture is exactly as large as was priced."""

    async def test() -> None:
        async with sdapi_server() as server, pool_at(server.base, upscaler) as pool:
            image = await pool.upscale(UPSCALE, "alice")
            assert size_of(image.data) == (12, 8)
            assert server.requests[0].json["upscaler_1"] == "R-ESRGAN 4x+"

    run(test)


def test_what_the_server_cannot_do_is_refused_rather_than_ignored() -> None:
    """Style references, and several pictures in one edit."""

    async def test() -> None:
        async with sdapi_server() as server, pool_at(server.base, painter) as pool:
            styled = GenerateCall(
                request_id="r",
                prompt="x",
                width=8,
                height=8,
                references=(Reference(picture(), 0.5),),
            )
            both = EditCall(request_id="r", prompt="x", pictures=(picture(), picture()))
            for work in (pool.generate(styled, "alice"), pool.edit(both, "alice")):
                with pytest.raises(EngineFailure) as caught:
                    await work
                assert caught.value.kind is K.REJECTED_INPUT
            assert server.requests == []

    run(test)


def test_who_gives_up_closes_the_connection_and_interrupts_nobody() -> None:
    """`/interrupt` would stop whatever the server does, for whoever it is."""

    async def test() -> None:
        async with sdapi_server() as server, pool_at(server.base, painter) as pool:
            server.then(up.hang)
            task = asyncio.ensure_future(pool.generate(GENERATE, "alice"))
            while not server.requests:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(server.requests[0].closed.wait(), 5)
            await asyncio.sleep(0.02)
            assert server.paths() == [TXT2IMG]

    run(test)


def test_a_server_with_a_password_is_told_it_as_it_expects() -> None:
    """`--api-auth user:password` is HTTP's Basic authentication."""

    async def test() -> None:
        async with sdapi_server() as server:
            backend = painter(HttpClient(server.base, "me:secret", scheme="Basic"))
            await backend.models()
            await backend.aclose()
            header = server.requests[0].header("authorization")
            assert header is not None
            assert base64.b64decode(header.removeprefix("Basic ")) == b"me:secret"

    run(test)


@pytest.mark.parametrize("name", ["dream", CHECKPOINT["title"], CHECKPOINT["hash"], None])
def test_health_knows_a_checkpoint_by_each_of_its_names(name: str | None) -> None:
    """Nothing is reported as missing that the server would find."""
    assert missing_after_check(lambda client: painter(client, name)) == []


def test_health_reports_what_the_server_does_not_have() -> None:
    """A checkpoint or upscaler that is not in the lists."""
    assert missing_after_check(lambda client: painter(client, "gone")) == ["gone"]
    assert missing_after_check(upscaler) == []
    wrong = missing_after_check(lambda c: SdapiUpscaler("u", c, "ESR", clock=SystemClock()))
    assert wrong == ["ESR"]


def missing_after_check(adapter: Callable[[HttpClient], Any]) -> list[str]:
    missing: list[str] = []

    def report(level: str, event: str, /, **fields: Any) -> None:
        assert event == "backend_model_missing"
        missing.append(fields["upstream_model"])

    async def test() -> None:
        async with sdapi_server() as server:
            backend = adapter(HttpClient(server.base))
            async with pool_at(server.base, adapter, report=report) as pool:
                member = Member(
                    Replica(backend, backend.model),
                    "model",
                    pool.members[0].breaker,
                    report,
                    lambda *_: None,
                )
                await member.check()
                assert member.health is Health.UP
            await backend.aclose()

    asyncio.run(test())
    return missing


def test_a_list_that_is_none_is_a_failed_health_check() -> None:
    """An empty object or a list of strings is not what such a server answers."""

    async def test() -> None:
        async with sdapi_server() as server:
            backend = painter(HttpClient(server.base))
            for junk in ({}, ["x"]):
                server.then(up.answer_json(junk))
                with pytest.raises(EngineFailure) as caught:
                    await backend.models()
                assert caught.value.kind is K.BROKEN
            await backend.aclose()

    run(test)
