"""The adapter to `/sdapi/v1`: text to image, image to image, and upscaling without a prompt.

A server does one thing at a time, and its `/interrupt` stops whatever that is, for anybody. So a
call that is given up only drops its connection: what the server had begun it finishes for nothing,
which is better than to stop somebody else's work.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from traghetto.clock import Clock
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_answers import (
    JSON_IMAGES_BYTES_MAX,
    backend_seed,
    image_of_base64,
    inert_prompt,
)
from traghetto.engines.image_protocols import (
    EditCall,
    EngineImage,
    GenerateCall,
    Picture,
    UpscaleCall,
)
from traghetto.engines.openai.answers import json_object, json_value
from traghetto.engines.openai.bodies import BodyInPieces
from traghetto.engines.openai.client import HttpClient
from traghetto.engines.openai.on_server import OnServer
from traghetto.engines.protocols import BackendModel

WHATEVER_IS_LOADED: Final = "loaded"
"""The name of the model of a server that nobody told which checkpoint to use."""
LISTED_MAX: Final = 10_000
SIZE_STEP_PIXELS: Final = 8
"""Sizes of generated images are multiples of this, because of the latent image."""

_ALIASES: Final = ("title", "model_name", "hash", "sha256")
"""Every name by which a server finds a checkpoint."""

_encode = msgspec.json.Encoder().encode


class _SdapiServer(OnServer):
    """What both kinds of backends share: one server, asked with JSON."""

    async def _post(self, operation: str, body: bytes | BodyInPieces) -> dict[str, Any]:
        async with self._client.request(
            "POST",
            self._client.root / "sdapi/v1" / operation,
            body,
            answer_bytes_max=JSON_IMAGES_BYTES_MAX,
        ) as response:
            return await json_object(response, self._clock, JSON_IMAGES_BYTES_MAX)

    async def _list(self, what: str) -> list[dict[str, Any]]:
        async with self._client.request("GET", self._client.root / "sdapi/v1" / what) as response:
            items = await json_value(response, self._clock)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise EngineFailure(FailureKind.BROKEN, "the list of models is not one")
        return items[:LISTED_MAX]


class SdapiBackend(_SdapiServer):
    """One checkpoint of one server; an `ImageGenerator` and `ImageEditor`."""

    def __init__(
        self, name: str, client: HttpClient, checkpoint: str | None, *, clock: Clock
    ) -> None:
        """Without a `checkpoint` the server uses the one that it has loaded."""
        super().__init__(name, client, checkpoint or WHATEVER_IS_LOADED, clock=clock)
        self._settings: dict[str, Any] = {}
        if checkpoint is not None:
            # Not restored afterwards: loading a checkpoint takes longer than an image.
            self._settings = {
                "override_settings": {"sd_model_checkpoint": checkpoint},
                "override_settings_restore_afterwards": False,
            }

    async def generate(self, call: GenerateCall) -> list[EngineImage]:
        if call.references:
            raise EngineFailure(
                FailureKind.REJECTED_INPUT,
                "the server takes no style references",
                fields=("style_references",),
            )
        body: dict[str, Any] = {
            "prompt": inert_prompt(call.prompt),
            "negative_prompt": inert_prompt(call.negative_prompt),
            "width": call.width,
            "height": call.height,
            # One after the other: a batch at once needs so many times the memory.
            "n_iter": call.count,
            "save_images": False,
            **self._settings,
        }
        if call.seed is not None:
            body["seed"] = backend_seed(call.seed)
        if call.steps is not None:
            body["steps"] = call.steps
        if call.guidance is not None:
            body["cfg_scale"] = call.guidance
        return await _images_of(await self._post("txt2img", _encode(body)), call.count)

    async def edit(self, call: EditCall) -> EngineImage:
        if len(call.pictures) > 1:
            raise EngineFailure(
                FailureKind.REJECTED_INPUT, "the server combines no images", fields=("images",)
            )
        (picture,) = call.pictures
        body = {
            "prompt": inert_prompt(call.prompt),
            "width": _stepped(call.width or picture.width),
            "height": _stepped(call.height or picture.height),
            "save_images": False,
            **self._settings,
        }
        sent = _with_picture(b'"init_images":["', picture, b'"]', body)
        (image,) = await _images_of(await self._post("img2img", sent), 1)
        return image

    async def models(self) -> list[BackendModel]:
        """Every checkpoint under each of the names that it answers to."""
        names = dict.fromkeys(
            item[alias]
            for item in await self._list("sd-models")
            for alias in _ALIASES
            if isinstance(item.get(alias), str) and item[alias]
        )
        if not self._settings:
            names[WHATEVER_IS_LOADED] = None
        return [BackendModel(name, type="image") for name in names]


class SdapiUpscaler(_SdapiServer):
    """One upscaler of one server, such as `R-ESRGAN 4x+`; an `ImageUpscaler`."""

    def __init__(self, name: str, client: HttpClient, upscaler: str, *, clock: Clock) -> None:
        """`upscaler` is its name in the server's list."""
        super().__init__(name, client, upscaler, clock=clock)

    async def upscale(self, call: UpscaleCall) -> EngineImage:
        body = {
            "resize_mode": 1,  # to a size, not by a factor
            "upscaling_resize_w": call.width,
            "upscaling_resize_h": call.height,
            "upscaling_crop": False,
            "upscaler_1": self._model,
        }
        sent = _with_picture(b'"image":"', call.picture, b'"', body)
        answer = await self._post("extra-single-image", sent)
        return await image_of_base64(answer.get("image"))

    async def models(self) -> list[BackendModel]:
        names = [item.get("name") for item in await self._list("upscalers")]
        return [BackendModel(name, type="upscale") for name in names if isinstance(name, str)]


async def _images_of(answer: dict[str, Any], count: int) -> list[EngineImage]:
    images = answer.get("images")
    if not isinstance(images, list) or len(images) < count:
        raise EngineFailure(FailureKind.BROKEN, "fewer images than asked for")
    # Extensions add pictures of their own (masks, outlines) after those that were asked for.
    return [await image_of_base64(image) for image in images[:count]]


def _with_picture(head: bytes, picture: Picture, tail: bytes, body: dict[str, Any]) -> BodyInPieces:
    """`body`, and before its members one that holds the base64 of a picture."""
    return BodyInPieces([b"{" + head, picture, tail + b"," + _encode(body)[1:]])


def _stepped(pixels: int) -> int:
    """`pixels`, or a little more, so that they are a size that models can make."""
    return -(-pixels // SIZE_STEP_PIXELS) * SIZE_STEP_PIXELS
