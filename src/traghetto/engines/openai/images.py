"""The adapter to servers with OpenAI's image API: LocalAI, vLLM-Omni, SGLang, stable-diffusion.cpp.

`/images/generations` takes JSON, `/images/edits` a form with files; both answer base64 in JSON. A
server that answers with the URL of a file is refused: its operator can have it answer with
`b64_json`, and following URLs that a backend names would be a way into the network.
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
from traghetto.engines.image_protocols import EditCall, EngineImage, GenerateCall
from traghetto.engines.openai.answers import json_object
from traghetto.engines.openai.client import HttpClient
from traghetto.engines.openai.multipart import multipart_body
from traghetto.engines.openai.on_server import OnOpenAIServer

_GPT_IMAGE: Final = ("gpt-image", "chatgpt-image")
"""Models that always answer in base64 and refuse to be asked for it; they know qualities."""
_STRICT: Final = (*_GPT_IMAGE, "dall-e")
"""OpenAI's own models refuse parameters they do not know; other servers have more of them."""

_encode = msgspec.json.Encoder().encode


class OpenAIImageBackend(OnOpenAIServer):
    """One model of one server with OpenAI's image API; an `ImageGenerator` and `ImageEditor`."""

    def __init__(self, name: str, client: HttpClient, model: str, *, clock: Clock) -> None:
        """`model` is the server's name for it; backends of one server share `client`."""
        super().__init__(name, client, model, clock=clock)
        self._is_gpt_image = model.startswith(_GPT_IMAGE)
        self._is_strict = model.startswith(_STRICT)

    async def generate(self, call: GenerateCall) -> list[EngineImage]:
        if call.references:
            raise EngineFailure(
                FailureKind.REJECTED_INPUT,
                "the server takes no style references",
                fields=("style_references",),
            )
        body = {
            "model": self._model,
            "prompt": inert_prompt(call.prompt),
            "n": call.count,
            "size": f"{call.width}x{call.height}",
            **self._format_and_quality(call.quality),
            **({} if self._is_strict else _diffusion_members(call)),
        }
        return await self._images("generations", _encode(body), None, call.count)

    async def edit(self, call: EditCall) -> EngineImage:
        first = call.pictures[0]
        fields = {
            "model": self._model,
            "prompt": inert_prompt(call.prompt),
            "n": "1",
            **self._format_and_quality(call.quality),
        }
        if call.width is not None and call.height is not None:
            fields["size"] = f"{call.width}x{call.height}"
        elif not self._is_gpt_image:
            # Servers have a fixed size of their own for edits; OpenAI's models keep the picture's.
            fields["size"] = f"{first.width}x{first.height}"
        files = [
            ("image[]", f"image-{number}.{picture.format}", picture)
            for number, picture in enumerate(call.pictures, 1)
        ]
        content_type, body = multipart_body(fields, files)
        (image,) = await self._images("edits", body, content_type, 1)
        return image

    def _format_and_quality(self, quality: str | None) -> dict[str, str]:
        if not self._is_gpt_image:
            return {"response_format": "b64_json"}
        return {} if quality is None else {"quality": quality}

    async def _images(
        self, operation: str, body: bytes, content_type: str | None, count: int
    ) -> list[EngineImage]:
        async with self._client.request(
            "POST",
            self._client.api / "images" / operation,
            body,
            content_type=content_type,
            answer_bytes_max=JSON_IMAGES_BYTES_MAX,
        ) as response:
            answer = await json_object(response, self._clock, JSON_IMAGES_BYTES_MAX)
        items = answer.get("data")
        if not isinstance(items, list) or len(items) < count:
            raise EngineFailure(FailureKind.BROKEN, "fewer images than asked for")
        return [await _image_of(item) for item in items[:count]]


def _diffusion_members(call: GenerateCall) -> dict[str, Any]:
    """What OpenAI has no names for, in those of vLLM-Omni and SGLang, and stable-diffusion.cpp."""
    members: dict[str, Any] = {}
    if call.negative_prompt:
        members["negative_prompt"] = inert_prompt(call.negative_prompt)
    if call.seed is not None:
        members["seed"] = backend_seed(call.seed)
    if call.steps is not None:
        members["num_inference_steps"] = members["steps"] = call.steps
    if call.guidance is not None:
        members["guidance_scale"] = call.guidance
    return members


async def _image_of(item: Any) -> EngineImage:
    if not isinstance(item, dict):
        raise EngineFailure(FailureKind.BROKEN, "the answer has no image where one should be")
    if not item.get("b64_json") and not str(item.get("url", "")).startswith("data:"):
        raise EngineFailure(FailureKind.BROKEN, "the answer has the URL of an image, not the image")
    return await image_of_base64(item.get("b64_json") or item["url"])
