"""The order of checks at the endpoints for images (contract A.3), by pairs of faults.

What `test_precedence` does for chats: of two things wrong with a request that is otherwise sound,
the answer names the one that is looked at first. The pairs are neighbours in that order, and some
that are far apart. An endpoint that names no model gets a faulty one by a reload.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from conformance.image_recipes import (
    BODY_BYTES_MAX,
    FILE_BYTES_MAX,
    FORBIDDEN,
    PLACES,
    UPSCALE,
    WITH_IMAGES,
    Place,
)
from conformance.test_precedence import FLAWS, Attempt, Flaw
from support.client import CHAT, Answer, ask
from support.configuration import (
    PRICED_MODEL,
    cut_toml,
    edit_toml,
    image_toml,
    upscale_toml,
)
from support.gateway import RunningGateway, running_gateway
from support.images import base64_text, form, png
from traghetto.clock import ManualClock

DISTANCES = (1, 2, 5, 11)
"""How far apart in the order the flaws of a pair are."""
FORM_BYTES_MAX = 3 * FILE_BYTES_MAX
CLOCK = ManualClock()
TABLES = {
    "painter": image_toml, "editor": edit_toml, "upscaler": upscale_toml, "cutter": cut_toml,
}  # fmt: skip
OF_CHATS = {flaw.name: flaw for flaw in FLAWS}
FIRST = ("method", "size", "type", "syntax", "payment", "nobody", "stranger", "failures",
         "disabled", "lapsed")  # fmt: skip
"""What is looked at before the model, as for chats."""
OF_MODELS = ("pro", "privacy", "feature", "offline")
JUNK = base64_text(b"no image")


def flaws_of(place: Place) -> tuple[Flaw, ...]:
    """What can be wrong with a request to that endpoint, in the order in which it is noticed."""
    size = replace(OF_CHATS["size"], wrap=lambda body: body.ljust(BODY_BYTES_MAX + 1))
    return (
        *(size if name == "size" else OF_CHATS[name] for name in FIRST),
        *_of_naming(place),
        *(OF_CHATS[name] for name in OF_MODELS),
        *_of_content(place),
        OF_CHATS["funds"],
        Flaw(
            "limit", 16, 402, "API_KEY_USD_SPEND_LIMIT_EXCEEDED", key_members={"limit_usd": "0"}
        ),
        OF_CHATS["rate"],
        OF_CHATS["capacity"],
        replace(OF_CHATS["inference"], code=place.broken),
    )  # fmt: skip


def _of_naming(place: Place) -> Iterator[Flaw]:
    """A model that is not named well, where one can be named."""
    if place.blanks:
        yield Flaw("misnamed", 11, 400, "INVALID_REQUEST", body={"model": 7})
        yield Flaw("unsuited", 11, 400, "INVALID_MODEL", body={"model": "priced"}, conflicts=frozenset({"misnamed"}))  # fmt: skip
    elif "edit" in place.endpoint:
        member = "modelId" if place.endpoint == "image_multi_edit" else "model"
        yield Flaw("misnamed", 11, 400, "INVALID_REQUEST", body={member: 7})
        yield Flaw("unsuited", 11, 400, "INVALID_MODEL", body={member: "nobody"}, conflicts=frozenset({"misnamed"}))  # fmt: skip


def _of_content(place: Place) -> Iterator[Flaw]:
    """What a model cannot do, images that are none, and words that are forbidden."""
    strict = {"scale": 1} if place is UPSCALE else {"thinking": 1}
    yield Flaw("schema", 14, 400, "INVALID_REQUEST", body=strict)
    if place.endpoint == "image_generate":
        yield Flaw("image", 14, 400, "CORRUPTED_IMAGE", body={"style_references": [{"image": JUNK}]})  # fmt: skip
    elif place.images is not None:
        bad = [JUNK] if place.images == "images" else JUNK
        yield Flaw("image", 14, 400, "CORRUPTED_IMAGE", body={place.images: bad})
    if "edit" in place.endpoint:
        yield Flaw("words", 15, 422, "CONTENT_POLICY_VIOLATION", body={"prompt": FORBIDDEN})


@dataclass(frozen=True)
class Row:
    """A request to an endpoint, and everything that is wrong with it."""

    place: Place
    flaws: tuple[Flaw, ...]

    @property
    def members(self) -> dict[str, str]:
        """What the model's table has."""
        members = {"size_class": '"l"', "concurrency_max": "1", "queue_max": "0"}
        for flaw in self.flaws:
            members |= flaw.model
        return members

    def __str__(self) -> str:
        return f"{self.place.endpoint}: {' + '.join(flaw.name for flaw in self.flaws) or '-'}"


def rows() -> Iterator[Row]:
    for place in PLACES:
        flaws = flaws_of(place)
        yield Row(place, ())
        yield from (Row(place, (flaw,)) for flaw in flaws)
        for distance in DISTANCES:
            for pair in zip(flaws, flaws[distance:], strict=False):
                if not ({pair[0].name} & pair[1].conflicts or {pair[1].name} & pair[0].conflicts):
                    yield Row(place, pair)


# --- the gateway --------------------------------------------------------------------------------


@dataclass
class Stage:
    """A gateway, and the models that it serves now."""

    gateway: RunningGateway
    config: Path
    serves: str = ""
    callers: int = 0

    def set_up(self, model: str, members: dict[str, str]) -> None:
        """Have that model so, and the others as they usually are."""
        toml = _toml(self.config.parent / "words.txt", model, members)
        if toml != self.serves:
            self.config.write_text(toml)
            self.gateway.run(self.gateway.gateway.reload())
            self.serves = toml

    def caller(self, account: dict[str, Any], key: dict[str, Any]) -> tuple[str, str]:
        """A fresh account with 10 USD, unless `account` says otherwise, and a key of it."""
        self.callers += 1
        name = f"caller-{self.callers}"
        self.gateway.perform("accounts.create", name=name, **{"usd": "10", **account})
        return name, self.gateway.perform("keys.create", account=name, **key)["secret"]


def _toml(words: Path, model: str, members: dict[str, str]) -> str:
    return (
        f'[moderation]\nwords_file = "{words}"\n[rate_limits.l]\nrequests_per_minute = 1\n'
        + "".join(
            table(name, **(members if name == model else {})) for name, table in TABLES.items()
        )
        + PRICED_MODEL
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tmp_path = tmp_path_factory.mktemp("precedence")
    (tmp_path / "words.txt").write_text(f"[blocked]\n{FORBIDDEN}\n")
    toml = _toml(tmp_path / "words.txt", "", {})
    with running_gateway(
        tmp_path,
        toml,
        clock=CLOCK,
        body_bytes_max=BODY_BYTES_MAX,
        form_bytes_max=FORM_BYTES_MAX,
        image_bytes_max=FILE_BYTES_MAX,
    ) as gateway:
        yield Stage(gateway, tmp_path / "traghetto.toml")
        # After hundreds of refused requests nothing is held, and the books agree.
        assert gateway.gateway.book.open_holds == 0
        assert gateway.differences() == []


def send(stage: Stage, row: Row) -> Answer:
    CLOCK.advance(60)  # unknown callers come from one address: what they did before is forgotten
    stage.set_up(row.place.model, row.members)
    body = row.place.body()
    account: dict[str, Any] = {}
    key_members: dict[str, Any] = {}
    for flaw in row.flaws:
        account |= flaw.account
        key_members |= flaw.key_members
        body |= flaw.body
    name, secret = stage.caller(account, key_members)
    key: str | None = secret
    attempt = Attempt(stage.gateway, row.place.model, name, secret, body)
    try:
        for flaw in row.flaws:
            flaw.prepare(attempt)
        path, method, headers, payload = row.place.path, "POST", {}, json.dumps(body).encode()
        for flaw in row.flaws:
            path = path if flaw.path == CHAT else flaw.path
            method = method if flaw.method == "POST" else flaw.method
            headers |= flaw.headers
            payload = flaw.wrap(payload)
            key = key and flaw.key(key)
        return ask(stage.gateway, key, payload, method=method, path=path, headers=headers)
    finally:
        for undo in attempt.undo:
            undo()


# --- what is answered ---------------------------------------------------------------------------


@pytest.mark.parametrize("row", tuple(rows()), ids=str)
def test_the_earlier_flaw_is_answered(stage: Stage, row: Row) -> None:
    """Of two things wrong with a request, the answer names the one that is looked at first."""
    answer = send(stage, row)
    if not row.flaws:
        assert answer.status == 200, answer
        return
    first = row.flaws[0]
    assert (answer.status, answer.headers["x-error-code"]) == (first.status, first.code), answer
    if first.name == "syntax":
        assert answer.body == b'{"error":"Invalid JSON request"}'
    elif first.name == "misnamed":
        assert answer.body == b'{"error":"model must be a string"}'


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.endpoint)
def test_the_table_is_in_the_order_of_the_contract(place: Place) -> None:
    """Flaws are sorted by their step, and every step that one request can fail has one."""
    steps = [flaw.stage for flaw in flaws_of(place)]
    assert steps == sorted(steps)
    absent = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 16, 17, 18, 19} - set(steps)
    assert not absent


# --- forms --------------------------------------------------------------------------------------

Sent = tuple[bytes, dict[str, str | None]]
GOOD, LARGE = png(256, 256), png(256, 256).ljust(FILE_BYTES_MAX + 1, b"\0")


def _form(place: Place, file: bytes, **fields: str) -> Sent:
    assert place.images is not None
    prompt = {"prompt": "make it grayscale"} if "edit" in place.endpoint else {}
    return form(prompt | fields, [(place.images, file)])


def _too_long(place: Place) -> Sent:
    body, headers = _form(place, GOOD)
    return body.ljust(FORM_BYTES_MAX + 1, b"\0"), headers


def _packed(place: Place) -> Sent:
    body, headers = _form(place, LARGE)
    return body, headers | {"content-encoding": "gzip"}


def _cut(place: Place) -> Sent:
    body, headers = _form(place, GOOD)
    return body[:-9], headers


FORM_FLAWS: tuple[tuple[str, Callable[[Place], Sent], int, str], ...] = (
    ("its length", _too_long, 413, "PAYLOAD_TOO_LARGE"),
    ("an encoding, before a file that is too large", _packed, 415, "INVALID_CONTENT_TYPE"),
    ("a file that is too large", lambda p: _form(p, LARGE), 413, "PAYLOAD_TOO_LARGE"),
    ("no end", _cut, 400, "INVALID_REQUEST"),
)


@pytest.mark.parametrize("place", WITH_IMAGES, ids=lambda place: place.endpoint)
@pytest.mark.parametrize("flaw", FORM_FLAWS, ids=lambda flaw: flaw[0])
@pytest.mark.parametrize("key", [None, "nobody's", ""], ids=["no key", "a bad key", "no funds"])
def test_what_is_wrong_with_a_form_comes_before_its_caller(
    stage: Stage, place: Place, flaw: tuple[str, Callable[[Place], Sent], int, str], key: str | None
) -> None:
    """A form is read whole before anybody is looked up, and refused as soon as it is none."""
    CLOCK.advance(60)
    stage.set_up("", {})
    _, sent, status, code = flaw
    body, headers = sent(place)
    secret = stage.caller({"usd": "0"}, {})[1] if key == "" else key
    answer = ask(stage.gateway, secret, body, path=place.path, headers=headers)
    assert (answer.status, answer.headers["x-error-code"]) == (status, code)


@pytest.mark.parametrize("place", WITH_IMAGES, ids=lambda place: place.endpoint)
def test_a_form_goes_the_way_of_json(stage: Stage, place: Place) -> None:
    """Its image is looked at after the schema and before the funds, as an image in JSON is."""
    CLOCK.advance(60)
    stage.set_up("", {})
    _, key = stage.caller({"usd": "0"}, {})
    wrong = {"scale": "1"} if place is UPSCALE else {"thinking": "1"}
    for file, fields, code in (
        (b"no image", wrong, "INVALID_REQUEST"),
        (b"no image", {}, "CORRUPTED_IMAGE"),
        (GOOD, {}, "INSUFFICIENT_BALANCE"),
    ):
        body, headers = _form(place, file, **fields)
        answer = ask(stage.gateway, key, body, path=place.path, headers=headers)
        assert answer.headers["x-error-code"] == code
