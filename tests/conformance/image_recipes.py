"""THE RECIPES of the endpoints for images: every code that each of them can answer, for real.

One row per endpoint and code, in the order in which the gateway looks (contract A.3). The status
and the text of a row come from `spec/errors.json`, those of other wordings are written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.client import PUBLISHED, UPSTREAM_REJECTED, Answer, ask
from support.configuration import (
    PRICED_MODEL,
    cut_toml,
    edit_toml,
    image_toml,
    upscale_toml,
)
from support.gateway import RunningGateway
from support.images import base64_text, blank_bomb, form, png
from support.waiting import wait_until

CANARY = "the canary paints at noon"
"""In every prompt; it must not be found in any log."""
FORBIDDEN = "basilisk"
"""The only word of the operator's list."""
BODY_BYTES_MAX = 65_536
FILE_BYTES_MAX = 16_384


@dataclass(frozen=True)
class Place:
    """An endpoint for images: where it is, a sound request, and what its failures are called."""

    endpoint: str
    path: str
    model: str
    """The one that the sound request is served by."""
    broken: str
    """The code of a backend that fails."""
    late: str
    """The code of one that does not answer in time."""
    images: str | None
    """The member that carries an image; None for an endpoint that takes none."""
    takes_forms: bool = True

    @property
    def blanks(self) -> bool:
        """Whether forbidden content is a black image there, and no error."""
        return self.images is None

    def body(self, image: str | None = None, **members: Any) -> dict[str, Any]:
        """A sound request, or one with another image."""
        sound: dict[str, Any] = {}
        if self.endpoint == "image_generate":
            sound = {"model": "painter", "prompt": CANARY, "width": 64, "height": 64}
        elif self.endpoint == "images_generations":
            sound = {"model": "painter", "prompt": CANARY, "size": "256x256"}
        elif "edit" in self.endpoint:
            sound = {"prompt": f"{CANARY}, in grayscale"}
        if self.images is not None:
            text = base64_text(png(256, 256)) if image is None else image
            sound[self.images] = [text] if self.images == "images" else text
        return sound | members


GENERATE = Place(
    "image_generate", "/api/v1/image/generate", "painter", "INFERENCE_FAILED", "REQUEST_TIMEOUT",
    None, takes_forms=False,
)  # fmt: skip
GENERATIONS = Place(
    "images_generations", "/api/v1/images/generations", "painter", "INFERENCE_FAILED",
    "REQUEST_TIMEOUT", None, takes_forms=False,
)  # fmt: skip
EDIT = Place(
    "image_edit", "/api/v1/image/edit", "editor", "IMAGE_EDIT_ERROR", "IMAGE_EDIT_ERROR", "image"
)
MULTI_EDIT = Place(
    "image_multi_edit", "/api/v1/image/multi-edit", "editor", "IMAGE_EDIT_ERROR",
    "IMAGE_EDIT_ERROR", "images",
)  # fmt: skip
UPSCALE = Place(
    "image_upscale", "/api/v1/image/upscale", "upscaler", "UPSCALE_FAILED", "UPSCALE_FAILED",
    "image",
)  # fmt: skip
BACKGROUND = Place(
    "image_background_remove", "/api/v1/image/background-remove", "cutter", "INFERENCE_FAILED",
    "INFERENCE_FAILED", "image",
)  # fmt: skip
PLACES = (GENERATE, GENERATIONS, EDIT, MULTI_EDIT, UPSCALE, BACKGROUND)
WITH_IMAGES = tuple(place for place in PLACES if place.images is not None)


@dataclass
class Scene:
    """A running gateway, and the caller of one endpoint."""

    gateway: RunningGateway
    place: Place
    key: str
    account: str = "first"

    def ask(self, body: Any = None, **how: Any) -> Answer:
        sent = self.place.body() if body is None else body
        return ask(self.gateway, self.key, sent, path=self.place.path, **how)

    def key_of(self, *, account: Mapping[str, Any] | None = None, **key: Any) -> str:
        """A fresh key: of the scene's account, or of a new one with these attributes."""
        if account is not None:
            self.account = f"account-{len(self.gateway.perform('accounts.list')['accounts'])}"
            self.gateway.perform("accounts.create", name=self.account, **account)
        self.key = self.gateway.perform("keys.create", account=self.account, **key)["secret"]
        return self.key


Provoke = Callable[[Scene], Answer]


@dataclass(frozen=True)
class ImageRecipe:
    """One row: how a code is provoked at an endpoint, and what then comes back."""

    place: Place
    code: str
    """The name in the catalogue, of a published code or an adjunct."""
    how: str
    provoke: Provoke
    text: str | None = None
    """The text of an adjunct; None for that of the publication."""
    status: int | None = None
    sent_name: str | None = None
    members: Mapping[str, str] = field(default_factory=dict)
    """What the endpoint's model has in the configuration."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    extra: str = ""
    """Further tables of the configuration."""
    names_model: bool = True
    """Whether the request came as far as the model."""
    validates: bool = False
    """Whether the body has details and issues."""
    retry: bool = False
    retry_after: bool = False

    @property
    def name(self) -> str:
        return f"{self.place.endpoint}, {self.code}" + (f", {self.how}" if self.how else "")

    def toml(self, words: Path) -> str:
        """The configuration of this row."""
        mine = {self.place.model: dict(self.members)}
        return (
            f'[moderation]\nwords_file = "{words}"\n'
            + self.extra
            + image_toml("painter", **mine.get("painter", {}))
            + edit_toml("editor", **mine.get("editor", {}))
            + upscale_toml("upscaler", **mine.get("upscaler", {}))
            + cut_toml("cutter", **mine.get("cutter", {}))
            + PRICED_MODEL
        )

    def expected(self, request_id: str) -> tuple[int, bytes | None]:
        """Status and exact body; None for a body that is checked by its parts."""
        row = PUBLISHED.get(self.code)
        status = self.status or (row.status if row else 0)
        if self.validates:
            return status, None
        if self.text is None:
            assert row is not None
            return status, row.body(request_id)
        member = {"error": self.text.format(request_id=request_id)}
        if "{request_id}" in self.text:
            member["request_id"] = request_id
        return status, json.dumps(member, ensure_ascii=False, separators=(",", ":")).encode()


# --- the edge and the caller --------------------------------------------------------------------


def _text(scene: Scene) -> Answer:
    return scene.ask(headers={"content-type": "text/plain"})


def _form(scene: Scene) -> Answer:
    body, headers = form({"prompt": CANARY}, [])
    return scene.ask(body, headers=headers)


def _cut_form(scene: Scene) -> Answer:
    body, headers = form({"prompt": CANARY}, [("image", png(256, 256))])
    return scene.ask(body[:-10], headers=headers)


def _padded(scene: Scene) -> Answer:
    return scene.ask(json.dumps(scene.place.body()).encode().ljust(BODY_BYTES_MAX + 1))


def _large_file(scene: Scene) -> Answer:
    assert scene.place.images is not None
    file = png(256, 256).ljust(FILE_BYTES_MAX + 1, b"\0")
    body, headers = form({"prompt": CANARY}, [(scene.place.images, file)])
    return scene.ask(body, headers=headers)


def _large_base64(scene: Scene) -> Answer:
    file = png(256, 256).ljust(FILE_BYTES_MAX + 1, b"\0")
    return scene.ask(scene.place.body(base64_text(file)))


def _as_account(**account: Any) -> Provoke:
    def provoke(scene: Scene) -> Answer:
        scene.key_of(account={"usd": "10"} | account)
        return scene.ask()

    return provoke


def _as_key(*, account: Mapping[str, Any] | None = None, **key: Any) -> Provoke:
    def provoke(scene: Scene) -> Answer:
        scene.key_of(account=account, **key)
        return scene.ask()

    return provoke


def _asking(**members: Any) -> Provoke:
    return lambda scene: scene.ask(scene.place.body(**members))


def _with_image(image: Callable[[], str]) -> Provoke:
    return lambda scene: scene.ask(scene.place.body(image()))


def _sound(scene: Scene) -> Answer:
    return scene.ask()


def _second_in_a_minute(scene: Scene) -> Answer:
    scene.key_of(account={"usd": "10"})
    assert scene.ask().status == 200
    scene.key_of()
    return scene.ask()


def _no_free_slot(scene: Scene) -> Answer:
    gate = scene.gateway.gateway.services.fleet.gates[scene.place.model]
    assert scene.gateway.call(gate.try_enter)
    try:
        return scene.ask()
    finally:
        scene.gateway.call(gate.leave)
        wait_until(lambda: gate.active == 0)


_EDGE: dict[str, Any] = {"names_model": False}


def _edge(place: Place) -> Iterator[ImageRecipe]:
    yield ImageRecipe(place, "INVALID_CONTENT_TYPE", "text", _text, **_EDGE)
    yield ImageRecipe(
        place, "PAYLOAD_TOO_LARGE", "a body", _padded,
        settings={"body_bytes_max": BODY_BYTES_MAX}, **_EDGE,
    )  # fmt: skip
    yield ImageRecipe(
        place, "INVALID_JSON", "", lambda scene: scene.ask(b'{"prompt":'),
        "Invalid JSON request", 400, "INVALID_REQUEST", **_EDGE,
    )  # fmt: skip
    if place.takes_forms:
        yield ImageRecipe(
            place, "INVALID_FORM", "without end", _cut_form,
            "Invalid request parameters", 400, "INVALID_REQUEST", **_EDGE,
        )  # fmt: skip
        yield ImageRecipe(
            place, "PAYLOAD_TOO_LARGE", "a file", _large_file,
            settings={"image_bytes_max": FILE_BYTES_MAX}, **_EDGE,
        )  # fmt: skip
    else:
        yield ImageRecipe(place, "INVALID_CONTENT_TYPE", "a form", _form, **_EDGE)
    yield ImageRecipe(
        place, "NO_CREDENTIALS", "",
        lambda scene: ask(scene.gateway, None, scene.place.body(), path=scene.place.path),
        "Authentication failed", 401, "AUTHENTICATION_FAILED", **_EDGE,
    )  # fmt: skip
    yield ImageRecipe(
        place, "AUTHENTICATION_FAILED", "",
        lambda scene: ask(scene.gateway, "nobody's", scene.place.body(), path=scene.place.path),
        **_EDGE,
    )  # fmt: skip
    yield ImageRecipe(place, "API_ACCESS_DISABLED", "", _as_account(disabled=True), **_EDGE)
    yield ImageRecipe(
        place, "AUTHENTICATION_FAILED_INACTIVE_KEY", "", _as_account(subscription="inactive"),
        **_EDGE,
    )  # fmt: skip


# --- the model and what is asked of it ----------------------------------------------------------


def _models(place: Place) -> Iterator[ImageRecipe]:
    if place is GENERATE:
        for how, members in (("missing", {"model": None}), ("empty", {"model": ""})):
            yield ImageRecipe(
                place, "MODEL_REQUIRED", how, _asking(**members),
                "model is required", 400, "INVALID_REQUEST", names_model=False,
            )  # fmt: skip
        yield ImageRecipe(place, "MODEL_NOT_FOUND", "", _asking(model="nobody"), names_model=False)
    if "generat" in place.endpoint:
        yield ImageRecipe(place, "INVALID_MODEL", "a text model", _asking(model="priced"), **_EDGE)
        member = "model"
    elif "edit" in place.endpoint:
        member = "modelId" if place is MULTI_EDIT else "model"
        for how, model in (("unknown", "nobody"), ("a generator", "painter"), ("a remover", "cutter")):  # fmt: skip
            yield ImageRecipe(place, "INVALID_MODEL", how, _asking(**{member: model}), **_EDGE)
    else:
        return
    yield ImageRecipe(
        place, "MODEL_NOT_A_STRING", "", _asking(**{member: 7}),
        "model must be a string", 400, "INVALID_REQUEST", names_model=False,
    )  # fmt: skip


def _access(place: Place) -> Iterator[ImageRecipe]:
    yield ImageRecipe(place, "PRO_ONLY_MODEL", "", _sound, members={"pro_only": "true"})
    yield ImageRecipe(
        place, "UNAUTHORIZED", "privacy", _as_key(privacy="PRIVATE_ONLY"),
        members={"privacy": '"anonymized"'},
    )  # fmt: skip
    yield ImageRecipe(place, "UNAUTHORIZED", "feature", _sound, members={"feature": '"beta"'})
    yield ImageRecipe(
        place, "MODEL_OFFLINE", "by its entry", _sound, members={"offline": "true"}, retry=True
    )


def _body(place: Place) -> Iterator[ImageRecipe]:
    strict = {"scale": 1} if place is UPSCALE else {"thinking": 1}
    yield ImageRecipe(place, "INVALID_REQUEST", "schema", _asking(**strict), validates=True)
    if place.images is None:
        return
    for code, how, image in (
        ("CORRUPTED_IMAGE", "junk", lambda: base64_text(b"no image")),
        ("CORRUPTED_IMAGE", "cut", lambda: base64_text(png(256, 256)[:-20])),
        ("IMAGE_TOO_SMALL", "a side", lambda: base64_text(png(63, 2000))),
        ("IMAGE_TOO_LARGE", "pixels", lambda: base64_text(blank_bomb(7681, 4320))),
    ):
        yield ImageRecipe(place, code, how, _with_image(image))
    yield ImageRecipe(
        place, "PAYLOAD_TOO_LARGE", "base64", _large_base64,
        settings={"image_bytes_max": FILE_BYTES_MAX},
    )  # fmt: skip
    yield ImageRecipe(
        place, "IMAGE_NOT_ACCEPTED", "a private address",
        _with_image(lambda: "http://127.0.0.1/picture.png"),
        "Supplied image did not pass validation checks.", 400, "INVALID_REQUEST",
    )  # fmt: skip
    if "edit" in place.endpoint:
        yield ImageRecipe(
            place, "CONTENT_POLICY_VIOLATION", "the word list",
            _asking(prompt=f"a {FORBIDDEN}, in grayscale"),
        )  # fmt: skip


# --- money, limits and inference ----------------------------------------------------------------


def _limits(place: Place) -> Iterator[ImageRecipe]:
    yield ImageRecipe(place, "INSUFFICIENT_BALANCE", "", _as_account(usd="0.0001"))
    yield ImageRecipe(place, "API_KEY_USD_SPEND_LIMIT_EXCEEDED", "", _as_key(limit_usd="0.0001"))
    yield ImageRecipe(
        place, "API_KEY_DIEM_SPEND_LIMIT_EXCEEDED", "",
        _as_key(account={"diem": "1"}, limit_diem="0"),
    )  # fmt: skip
    yield ImageRecipe(
        place, "RATE_LIMIT_EXCEEDED", "", _second_in_a_minute,
        extra="[rate_limits.l]\nrequests_per_minute = 1\n", members={"size_class": '"l"'},
        retry=True, retry_after=True,
    )  # fmt: skip
    yield ImageRecipe(
        place, "MODEL_AT_CAPACITY", "no slot", _no_free_slot,
        members={"concurrency_max": "1", "queue_max": "0"}, retry=True, retry_after=True,
    )  # fmt: skip


def _failures(place: Place) -> Iterator[ImageRecipe]:
    for code, fault, retry_after in (
        ("MODEL_OVERLOADED", "overloaded", True),
        ("MODEL_AT_CAPACITY", "at-capacity", True),
        ("MODEL_OFFLINE", "unreachable", True),
        (place.broken, "broken", False),
    ):
        yield ImageRecipe(
            place, code, f"fault {fault}", _sound, members={"fault": f'"{fault}"'}, retry=True,
            retry_after=retry_after,
        )  # fmt: skip
    yield ImageRecipe(
        place, place.late, "fault hang", _sound,
        members={"fault": '"hang"', "total_seconds": "0.3"}, retry=place.late != "REQUEST_TIMEOUT",
    )  # fmt: skip
    yield ImageRecipe(
        place, "UPSTREAM_REJECTED", "fault rejected-input", _sound, UPSTREAM_REJECTED, 400,
        "INVALID_REQUEST", members={"fault": '"rejected-input"'},
    )  # fmt: skip
    if not place.blanks:
        yield ImageRecipe(
            place, "CONTENT_POLICY_VIOLATION", "fault content-policy", _sound,
            members={"fault": '"content-policy"'},
        )  # fmt: skip


IMAGE_RECIPES: tuple[ImageRecipe, ...] = tuple(
    recipe
    for place in PLACES
    for rows in (_edge, _models, _access, _body, _limits, _failures)
    for recipe in rows(place)
)
