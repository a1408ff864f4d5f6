"""THE RECIPES: how each code is provoked for real, by anybody, from outside.

A recipe is data: the account that is needed, what a lab is told before, and the request that then
fails with the code. `traghetto errors verify` carries them out, the pages of the codes show them
as commands, and neither knows a code that is not here.

Invariant: a recipe charges nothing but what its `before` does.
"""

from __future__ import annotations

import base64
import shlex
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from traghetto.errors import ErrorCode

CHAT: Final = "/chat/completions"
GENERATE: Final = "/image/generate"
EDIT: Final = "/image/edit"
UPSCALE: Final = "/image/upscale"
LARGE_BODY_BYTES: Final = 40_000_000
"""Above every limit of a JSON body that the contract knows."""
JSON: Final = "application/json"

LAB: Final = "http://127.0.0.1:8421"
"""Where `traghetto lab` listens unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Zeros:
    """A body of so many zero bytes, which is made while it is sent."""

    size: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `path` is below the base of the API."""

    path: str
    body: Mapping[str, Any] | Zeros | str
    """JSON, or text that is sent as it is."""
    content_type: str = JSON
    key: str | None = "own"
    """`own` is the key of the recipe's account; other text is sent as it is, None sends none."""

    def curl(self, base_url: str) -> str:
        """The request as a command; `$KEY` stands for the key."""
        words = ["curl", "-s", "-i", f"{base_url}{self.path}"]
        if self.key is not None:
            token = "$KEY" if self.key == "own" else self.key
            words += ["-H", f"Authorization: Bearer {token}"]
        words += ["-H", f"Content-Type: {self.content_type}"]
        head = ""
        if isinstance(self.body, Zeros):
            head = f"head -c {self.body.size} /dev/zero | "
            words += ["--data-binary", "@-"]
        else:
            text = self.body if isinstance(self.body, str) else _text(self.body)
            words += ["-d", text]
        return head + " ".join(_quoted(word) for word in words)


@dataclass(frozen=True, slots=True)
class LabStep:
    """What a lab is told before: an action of its control, and the action's arguments."""

    action: str
    arguments: Mapping[str, Any]

    def curl(self, lab_url: str) -> str:
        """The step as a command."""
        return f"curl -s {lab_url}/{self.action} -d {shlex.quote(_text(self.arguments))}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a code is provoked."""

    code: ErrorCode
    title: str
    request: Request
    state: str = "fresh"
    """Of the account and key in a lab (`traghetto.lab.states`)."""
    steps: tuple[LabStep, ...] = ()
    before: tuple[Request, ...] = ()
    """Requests that must succeed first."""
    is_remote: bool = False
    """Whether any server of this API will do, without a lab: the request costs nothing, and needs
    no state that only an operator can make."""
    expects_issues: bool = False
    """Whether the body also tells what is wrong with the request, in `details` and `issues`."""

    def commands(self, root: str = LAB) -> str:
        """The whole recipe as a shell script, one command a line, for the lab at `root`."""
        base_url, lab_url = f"{root}/api/v1", f"{root}/lab"
        state = _text({"state": self.state})
        lines = ["# while `traghetto lab` runs: " + self.title]
        if self.request.key == "own":
            lines.append(
                f"KEY=$(curl -s {lab_url}/accounts -H 'accept: text/plain' -d {shlex.quote(state)})"
            )
        lines += [step.curl(lab_url) for step in self.steps]
        lines += [request.curl(base_url) for request in (*self.before, self.request)]
        if self.steps:
            lines.append(f"curl -s {lab_url}/faults/clear -d '{{}}'")
        return "\n".join(lines)


def chat(model: str = "chat", **members: Any) -> Request:
    """A sound chat request, but for `members`."""
    messages = [{"role": "user", "content": "Hello"}]
    return Request(CHAT, {"model": model, "max_tokens": 16, "messages": messages, **members})


def fault(name: str, model: str = "chat", **measures: Any) -> LabStep:
    """A model that fails so until faults are cleared."""
    return LabStep("faults", {"fault": name, "model": model, **measures})


def black_png(width: int, height: int) -> bytes:
    """A real PNG, black and of few bytes whatever its size."""
    rows = bytes((1 + -(-width // 8)) * height)  # a filter byte each, and one bit a pixel
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _upscale(image: bytes) -> Request:
    return Request(UPSCALE, {"image": base64.b64encode(image).decode()})


def _edit(**members: Any) -> Request:
    image = base64.b64encode(black_png(256, 256)).decode()
    return Request(EDIT, {"prompt": "grayscale", "image": image, **members})


_WRONG_KEY: Final = "VENICE_INFERENCE_KEY_that-nobody-has"

RECIPES: Final[tuple[Recipe, ...]] = (
    Recipe(
        ErrorCode.AUTHENTICATION_FAILED,
        "send a key that nobody has",
        Request(CHAT, chat().body, key=_WRONG_KEY),
        is_remote=True,
    ),
    Recipe(
        ErrorCode.AUTHENTICATION_FAILED_INACTIVE_KEY,
        "use a key of an account whose subscription is inactive",
        chat(),
        state="inactive",
    ),
    Recipe(
        ErrorCode.PRO_ONLY_MODEL,
        "ask for a Pro model with an account that is not Pro",
        chat("pro-chat"),
    ),
    Recipe(
        ErrorCode.INSUFFICIENT_BALANCE,
        "ask with an account that owns nothing",
        chat(),
        state="broke",
    ),
    Recipe(
        ErrorCode.API_KEY_DIEM_SPEND_LIMIT_EXCEEDED,
        "use a key that has spent its DIEM limit of the day",
        chat(),
        state="diem-limit-reached",
    ),
    Recipe(
        ErrorCode.API_KEY_USD_SPEND_LIMIT_EXCEEDED,
        "use a key that has spent its USD limit of the day",
        chat(),
        state="usd-limit-reached",
    ),
    Recipe(
        ErrorCode.UNAUTHORIZED,
        "ask for an anonymized model with a key that is for private models",
        chat("anonymized-chat"),
        state="private-only",
    ),
    Recipe(
        ErrorCode.API_ACCESS_DISABLED,
        "use a key of an account whose access is disabled",
        chat(),
        state="disabled",
    ),
    Recipe(
        ErrorCode.INVALID_REQUEST,
        "send a temperature above 2",
        chat(temperature=9),
        is_remote=True,
        expects_issues=True,
    ),
    Recipe(
        ErrorCode.INVALID_MODEL,
        "edit an image with a model that edits none",
        _edit(model="chat"),
        is_remote=True,
    ),
    Recipe(
        ErrorCode.CORRUPTED_IMAGE,
        "send half of an image",
        _upscale(black_png(256, 256)[:-20]),
        is_remote=True,
    ),
    Recipe(
        ErrorCode.IMAGE_TOO_SMALL,
        "send an image of 32 by 32 pixels",
        _upscale(black_png(32, 32)),
        is_remote=True,
    ),
    Recipe(
        ErrorCode.TOO_MANY_TOKENS,
        "ask for more tokens than the model's context has",
        chat("small-chat", max_tokens=1000),
    ),
    Recipe(
        ErrorCode.MODEL_NOT_FOUND,
        "ask for a model that does not exist",
        chat("no-such-model"),
        is_remote=True,
    ),
    Recipe(
        ErrorCode.PAYLOAD_TOO_LARGE,
        "send a body of 40 MB",
        Request(CHAT, Zeros(LARGE_BODY_BYTES)),
        is_remote=True,
    ),
    Recipe(
        ErrorCode.INVALID_CONTENT_TYPE,
        "send text instead of JSON",
        Request(CHAT, "Hello", content_type="text/plain"),
        is_remote=True,
    ),
    Recipe(
        ErrorCode.IMAGE_TOO_LARGE,
        "send an image of 8,000 by 4,200 pixels",
        _upscale(black_png(8000, 4200)),
        is_remote=True,
    ),
    Recipe(
        ErrorCode.CONTENT_POLICY_VIOLATION,
        "ask a model that refuses the content",
        chat(),
        steps=(fault("content-policy"),),
    ),
    Recipe(
        ErrorCode.RATE_LIMIT_EXCEEDED,
        "ask twice within a minute where one request is allowed",
        chat("limited-chat"),
        before=(chat("limited-chat"),),
    ),
    Recipe(
        ErrorCode.MODEL_OVERLOADED,
        "ask a model whose server says that it is overloaded",
        chat(),
        steps=(fault("overloaded"),),
    ),
    Recipe(
        ErrorCode.INFERENCE_FAILED,
        "ask a model whose server breaks",
        chat(),
        steps=(fault("broken"),),
    ),
    Recipe(
        ErrorCode.UPSCALE_FAILED,
        "enlarge an image while the upscaler is broken",
        _upscale(black_png(256, 256)),
        steps=(fault("broken", "upscaler"),),
    ),
    Recipe(
        ErrorCode.IMAGE_EDIT_ERROR,
        "edit an image while the editor is broken",
        _edit(model="editor"),
        steps=(fault("broken", "editor"),),
    ),
    Recipe(
        ErrorCode.UNKNOWN_ERROR,
        "ask while the gateway itself fails",
        chat(),
        steps=(LabStep("faults", {"fault": "crash", "calls": 1}),),
    ),
    Recipe(
        ErrorCode.MODEL_OFFLINE,
        "ask for a model that is offline",
        chat("offline-chat"),
    ),
    Recipe(
        ErrorCode.MODEL_AT_CAPACITY,
        "ask a model all of whose places are taken",
        chat(),
        steps=(LabStep("capacity", {"model": "chat", "concurrency_max": 0}),),
    ),
    Recipe(
        ErrorCode.REQUEST_TIMEOUT,
        "ask a model that does not answer in its time",
        chat("impatient-chat"),
        steps=(fault("hang", "impatient-chat"),),
    ),
)


def recipe_of(code: ErrorCode) -> Recipe | None:
    """The recipe of a code; None while its endpoint does not exist."""
    return _BY_CODE.get(code)


_BY_CODE: Final = {recipe.code: recipe for recipe in RECIPES}


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _quoted(word: str) -> str:
    """`word` for a shell, with `$KEY` left to be replaced."""
    if "$KEY" in word:
        return f'"{word}"'
    return shlex.quote(word)
