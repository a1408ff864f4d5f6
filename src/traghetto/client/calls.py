"""What is asked of a server: one value per call, built without sending anything.

Each helper of the clients has its function here, which knows the path and the names of members; the
fronts only send what it returns.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

IDEMPOTENT_METHODS: Final = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}

_MODEL_MEMBERS: Final = ("model", "modelId")

Image = bytes | str
"""An image: the bytes of a file, or base64, a data URL, or an `https://` URL."""
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """One thing to be done by a server, however often it has to be asked."""

    method: str
    path: str
    """Below the base URL, such as `/chat/completions`."""
    json: Any = None
    files: Any = None
    """A form instead of JSON, as `httpx2` takes it."""
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    charges: bool = False
    """Whether it costs money, so that the server honours an idempotency key."""
    streams: bool = False

    @property
    def is_safe_to_repeat(self) -> bool:
        """Whether a server executes it once, however often it comes."""
        return self.method in IDEMPOTENT_METHODS or self.idempotency_key is not None

    @property
    def model(self) -> str | None:
        """The model that it names."""
        member = self._model_member
        return None if member is None else self.json[member]

    def with_model(self, model: str) -> Call:
        """The same of another model, which makes it another thing to do."""
        assert self._model_member is not None, "only a call that names a model can name another"
        key = None if self.idempotency_key is None else new_idempotency_key()
        return replace(self, json={**self.json, self._model_member: model}, idempotency_key=key)

    @property
    def _model_member(self) -> str | None:
        body = self.json if isinstance(self.json, dict) else {}
        return next((name for name in _MODEL_MEMBERS if isinstance(body.get(name), str)), None)


def new_idempotency_key() -> str:
    """A key for one thing to be done."""
    return uuid.uuid4().hex


# --- what the helpers of a client ask -----------------------------------------------------------


def chat_call(
    model: str, messages: Messages, members: Mapping[str, Any], *, key: str | None, stream: bool
) -> Call:
    """`POST /chat/completions`; raises TypeError for a stream that nobody would read."""
    if members.get("stream") and not stream:
        raise TypeError("a stream is asked for with `stream_chat`")
    body = {"model": model, "messages": messages, **members}
    if stream:
        body["stream"] = True
    return replace(_charged("/chat/completions", body, key), streams=stream)


def models_call(kind: str | None) -> Call:
    """`GET /models`: those of one type, or of the type that the server lists by default."""
    return Call("GET", "/models", params={} if kind is None else {"type": kind})


def balance_call() -> Call:
    """`GET /billing/balance`."""
    return Call("GET", "/billing/balance")


def generate_call(model: str, prompt: str, members: Mapping[str, Any], key: str | None) -> Call:
    """`POST /image/generate`, for the image itself."""
    body = {"model": model, "prompt": prompt, "return_binary": True, **members}
    return _charged("/image/generate", body, key)


def edit_call(image: Image, prompt: str, members: Mapping[str, Any], key: str | None) -> Call:
    """`POST /image/edit`."""
    return _charged("/image/edit", {"image": _text(image), "prompt": prompt, **members}, key)


def multi_edit_call(
    images: Sequence[Image], prompt: str, members: Mapping[str, Any], key: str | None
) -> Call:
    """`POST /image/multi-edit`, where the model is called `modelId`."""
    body = {"images": [_text(image) for image in images], "prompt": prompt, **members}
    if "model" in body:
        body["modelId"] = body.pop("model")
    return _charged("/image/multi-edit", body, key)


def upscale_call(image: Image, scale: float, members: Mapping[str, Any], key: str | None) -> Call:
    """`POST /image/upscale`."""
    return _charged("/image/upscale", {"image": _text(image), "scale": scale, **members}, key)


def remove_background_call(image: Image, members: Mapping[str, Any], key: str | None) -> Call:
    """`POST /image/background-remove`."""
    is_url = isinstance(image, str) and image.startswith(("http://", "https://"))
    body = {"image_url" if is_url else "image": _text(image), **members}
    return _charged("/image/background-remove", body, key)


def _charged(path: str, body: dict[str, Any], key: str | None) -> Call:
    return Call("POST", path, body, idempotency_key=key, charges=True)


def _text(image: Image) -> str:
    return image if isinstance(image, str) else base64.b64encode(image).decode()
