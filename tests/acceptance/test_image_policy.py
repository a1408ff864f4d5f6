"""What an operator's policy does to images: black, blurred, refused, and what is charged for it."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from support.client import Answer, ask, assert_published, chat, pending_chat
from support.configuration import (
    IMAGE_MODELS,
    PRICED_MODEL,
    image_toml,
    model_toml,
    relayed_toml,
)
from support.gateway import RunningGateway, running_gateway
from support.images import base64_text, data_url, encoded, opened, picture, png, spread
from support.upstream import Exchange, FaultUpstream, answer_json, upstream_in_thread
from support.waiting import wait_until

GENERATE = "/api/v1/image/generate"
GENERATIONS = "/api/v1/images/generations"
EDIT = "/api/v1/image/edit"
WORDS = "[blocked]\nbasilisk\n[adult]\nnude\n[minor]\nchild\n"
SKETCH = {"model": "painter", "width": 128, "height": 96, "format": "png", "seed": 1}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway whose operator has a word list."""
    words = tmp_path / "words.txt"
    words.write_text(WORDS)
    toml = f'[moderation]\nwords_file = "{words}"\n' + IMAGE_MODELS
    with running_gateway(tmp_path, toml) as running:
        yield running


def generated(gateway: RunningGateway, key: str, prompt: str, **members: Any) -> Answer:
    answer = ask(gateway, key, SKETCH | {"prompt": prompt} | members, path=GENERATE)
    assert answer.status == 200, answer.body
    return answer


def flags(answer: Answer) -> set[str]:
    """The flags that are up."""
    names = ("is-blurred", "is-content-violation", "contains-minor")
    return {name for name in names if answer.headers[f"x-venice-{name}"] == "true"}


def spreads(answer: Answer) -> list[float]:
    return [spread(opened(base64.b64decode(text))) for text in answer.json["images"]]


def spent(gateway: RunningGateway, key: str) -> str:
    keys = gateway.perform("keys.list")["keys"]
    paid: str = next(row["spent_usd"] for row in keys if row["last_six"] == key[-6:])
    return paid


def test_a_forbidden_prompt_makes_a_black_image(gateway: RunningGateway) -> None:
    """It has the size and number asked for, says why, and costs nothing (contract A.2, 27)."""
    key = gateway.new_key()
    answer = generated(gateway, key, "a basilisk", variants=2)
    assert flags(answer) == {"is-content-violation"}
    assert spreads(answer) == [0, 0]
    assert opened(base64.b64decode(answer.json["images"][0])).size == (128, 96)
    assert spent(gateway, key) == "0"
    simple = {"prompt": "a basilisk", "size": "256x256", "model": "painter"}
    assert "is-content-violation" in flags(ask(gateway, key, simple, path=GENERATIONS))
    assert spent(gateway, key) == "0"
    assert gateway.differences() == []


def test_a_black_image_counts_and_needs_funds(tmp_path: Path) -> None:
    """Forbidden prompts are no way around limits: they are admitted like all others."""
    words = tmp_path / "words.txt"
    words.write_text(WORDS)
    toml = (
        f'[moderation]\nwords_file = "{words}"\n[rate_limits.image]\nrequests_per_minute = 1\n'
        + image_toml("painter")
    )
    with running_gateway(tmp_path, toml) as gateway:
        broke = gateway.new_key(account={"usd": "0"})
        body = SKETCH | {"prompt": "a basilisk"}
        assert_published(ask(gateway, broke, body, path=GENERATE), "INSUFFICIENT_BALANCE")
        key = gateway.new_key()
        assert flags(generated(gateway, key, "a basilisk")) == {"is-content-violation"}
        assert_published(ask(gateway, key, body, path=GENERATE), "RATE_LIMIT_EXCEEDED")


def test_adult_images_are_blurred_unless_the_caller_will(gateway: RunningGateway) -> None:
    """`safe_mode` is on by default; OpenAI's name for turning it off is low moderation."""
    key = gateway.new_key()
    plain = generated(gateway, key, "a lagoon")
    assert flags(plain) == set()
    safe = generated(gateway, key, "a nude")
    assert flags(safe) == {"is-blurred"}
    free = generated(gateway, key, "a nude", safe_mode=False)
    assert flags(free) == set()
    assert sharpness(safe) < sharpness(free) / 4
    low = {"prompt": "a nude", "model": "painter", "moderation": "low", "size": "256x256"}
    assert flags(ask(gateway, key, low, path=GENERATIONS)) == set()
    assert spent(gateway, key) == "0.04", "blurred images are made, and paid for"


def test_a_blurred_edit_says_so(gateway: RunningGateway) -> None:
    """It is charged, so its caller must be able to tell what was done to it."""
    key = gateway.new_key()
    body = {"image": base64_text(png()), "prompt": "grayscale, a nude"}
    for safe_mode, is_blurred in ((True, "true"), (False, "false")):
        answer = ask(gateway, key, body | {"safe_mode": safe_mode}, path=EDIT)
        assert answer.status == 200, answer.body
        assert answer.headers["x-venice-is-blurred"] == is_blurred
        assert answer.headers["x-venice-is-content-violation"] == "false"
    assert spent(gateway, key) == "0.08"


def sharpness(answer: Answer) -> float:
    """How much neighbouring pixels differ."""
    image = opened(base64.b64decode(answer.json["images"][0])).convert("L")
    pixels = image.tobytes()
    width = image.width
    steps = [abs(pixels[i] - pixels[i + 1]) for i in range(len(pixels) - 1) if (i + 1) % width]
    return sum(steps) / len(steps)


def test_minors_and_nudity_are_never_made(gateway: RunningGateway) -> None:
    """Whatever the caller turned off."""
    answer = generated(gateway, gateway.new_key(), "a nude child", safe_mode=False)
    assert flags(answer) == {"is-content-violation", "contains-minor"}
    assert spreads(answer) == [0]
    assert flags(generated(gateway, gateway.new_key(), "a child plays football")) == set()


def test_a_forbidden_edit_is_refused_and_free(gateway: RunningGateway) -> None:
    """Before anything is made."""
    key = gateway.new_key()
    body = {"image": base64_text(png()), "prompt": "grayscale, with a basilisk"}
    assert_published(ask(gateway, key, body, path=EDIT), "CONTENT_POLICY_VIOLATION")
    assert spent(gateway, key) == "0"


def test_a_provider_that_refuses_makes_a_black_image(tmp_path: Path) -> None:
    """A backend's policy is as good as ours; an edit that it refuses is free."""
    toml = image_toml("painter", fault='"content-policy"')
    with running_gateway(tmp_path, toml) as gateway:
        key = gateway.new_key()
        answer = generated(gateway, key, "a lagoon")
        assert flags(answer) == {"is-content-violation"}
        assert spreads(answer) == [0]
        assert spent(gateway, key) == "0"


# --- a classifier that looks at what was made ---------------------------------------------------


def found(*names: str) -> dict[str, Any]:
    """What a server of OpenAI's moderation answers."""
    categories = {name: name in names for name in ("sexual", "sexual/minors", "violence")}
    result = {"flagged": bool(names), "categories": categories, "category_scores": {}}
    return {"id": "modr-1", "model": "m", "results": [result]}


def classified_toml(server: FaultUpstream, **settings: str) -> str:
    lines = {"classifier_url": f'"{server.url}"', "judges": '["images"]', **settings}
    return "[moderation]\n" + "".join(f"{k} = {v}\n" for k, v in lines.items()) + IMAGE_MODELS


def answers(server: FaultUpstream, *verdicts: tuple[str, ...]) -> None:
    """Have `server` give these verdicts, one after the other; the last one for ever."""
    waiting = list(verdicts)

    async def act(exchange: Exchange) -> None:
        names = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        await answer_json(found(*names))(exchange)

    server.by_path["/v1/moderations"] = act


def test_made_images_are_looked_at_one_by_one(tmp_path: Path) -> None:
    """Of three, one is forbidden and black, one adult and blurred; two are paid for."""
    with upstream_in_thread() as server:
        answers(server, (), ("violence",), ("sexual",))
        with running_gateway(tmp_path, classified_toml(server)) as gateway:
            key = gateway.new_key()
            answer = generated(gateway, key, "a lagoon", variants=3)
            assert flags(answer) == {"is-content-violation", "is-blurred"}
            clean, black, blurred = spreads(answer)
            assert black == 0
            assert clean > 0
            assert blurred > 0
            assert spent(gateway, key) == "0.02"
            assert gateway.differences() == []
        sent = json.loads(server.other_requests[0].body)["input"][0]["image_url"]["url"]
        assert opened(base64.b64decode(sent.partition(",")[2])).size == (128, 96)


def test_an_edit_that_turns_out_forbidden_is_refused_and_charged(tmp_path: Path) -> None:
    """The provider has made it (contract A.2, 27); its idempotency key is free again."""
    with upstream_in_thread() as server:
        answers(server, (), ("violence",), ())
        with running_gateway(tmp_path, classified_toml(server)) as gateway:
            key = gateway.new_key()
            body = {"image": base64_text(png()), "prompt": "grayscale"}
            named = {"idempotency-key": "edit"}
            refused = ask(gateway, key, body, path=EDIT, headers=named)
            assert_published(refused, "CONTENT_POLICY_VIOLATION")
            assert spent(gateway, key) == "0.04"
            again = ask(gateway, key, body, path=EDIT, headers=named)
            assert (again.status, "idempotent-replayed" in again.headers) == (200, False)
            assert spent(gateway, key) == "0.08"
            assert gateway.differences() == []


@pytest.mark.parametrize("path", ["/api/v1/image/upscale", "/api/v1/image/background-remove"])
def test_only_forbidden_edits_are_charged(tmp_path: Path, path: str) -> None:
    """Whatever else turns out forbidden is refused for nothing (contract A.4)."""
    with upstream_in_thread() as server:
        answers(server, (), ("violence",))
        with running_gateway(tmp_path, classified_toml(server)) as gateway:
            key = gateway.new_key()
            disc = picture(320, 256).resize((120, 120))
            shot = Image.new("RGB", (320, 256), (225, 228, 230))
            shot.paste(disc, (100, 60))
            body = {"image": base64_text(encoded(shot))}
            assert_published(ask(gateway, key, body, path=path), "CONTENT_POLICY_VIOLATION")
            assert spent(gateway, key) == "0"
            assert gateway.differences() == []


def test_a_black_image_that_cannot_be_made_is_a_failure_of_the_endpoint(tmp_path: Path) -> None:
    """And no unknown error."""
    words = tmp_path / "words.txt"
    words.write_text(WORDS)
    toml = f'[moderation]\nwords_file = "{words}"\n' + IMAGE_MODELS
    with running_gateway(tmp_path, toml, media_seconds_max=0.0001) as gateway:
        body = SKETCH | {"prompt": "a basilisk"}
        answer = ask(gateway, gateway.new_key(), body, path=GENERATE)
        assert_published(answer, "INFERENCE_FAILED")


def test_a_forbidden_input_is_not_edited(tmp_path: Path) -> None:
    """The image that a caller sends is judged before anything is made of it."""
    with upstream_in_thread() as server:
        answers(server, ("sexual/minors",))
        with running_gateway(tmp_path, classified_toml(server)) as gateway:
            key = gateway.new_key()
            body = {"image": base64_text(png()), "prompt": "grayscale"}
            assert_published(ask(gateway, key, body, path=EDIT), "CONTENT_POLICY_VIOLATION")
            assert spent(gateway, key) == "0"


@pytest.mark.parametrize(("on_failure", "status"), [("refuse", 503), ("allow", 200)])
def test_a_policy_that_cannot_be_asked(tmp_path: Path, on_failure: str, status: int) -> None:
    """Nothing is made unjudged, unless the operator says so."""
    with upstream_in_thread() as server:
        server.by_path["/v1/moderations"] = answer_json({"error": "down"}, 500)
        toml = classified_toml(server, on_failure=f'"{on_failure}"')
        with running_gateway(tmp_path, toml) as gateway:
            key = gateway.new_key()
            body = SKETCH | {"prompt": "a lagoon"}
            answer = ask(gateway, key, body, path=GENERATE)
            assert answer.status == status
            if status == 503:
                assert_published(answer, "MODEL_OFFLINE")
                assert spent(gateway, key) == "0"


# --- better prompts -----------------------------------------------------------------------------


def enhancing_toml(upstream: FaultUpstream) -> str:
    """A gateway whose prompts are rewritten by the text model `relayed`."""
    return 'prompt_enhancement_model = "relayed"\n' + relayed_toml(upstream) + IMAGE_MODELS


def test_a_rewritten_prompt_is_told_and_charged_once(tmp_path: Path) -> None:
    """Four cents for the rewrite and one for each image; words that fail cost nothing."""
    with upstream_in_thread() as upstream:
        upstream.models_act = answer_json({"object": "list", "data": [{"id": "relayed"}]})
        with running_gateway(tmp_path, enhancing_toml(upstream)) as gateway:
            key = gateway.new_key()
            answer = generated(gateway, key, "a lagoon", enhance_prompt=True, variants=2)
            assert answer.headers["x-venice-enhanced-prompt"]
            assert spent(gateway, key) == "0.06"
            asked = json.loads(upstream.requests[-1].body)["messages"]
            assert asked[-1] == {"role": "user", "content": "a lagoon"}
            upstream.then(answer_json({"error": {"message": "no"}}, 500))
            upstream.then(answer_json({"error": {"message": "no"}}, 500))
            answer = generated(gateway, key, "a lagoon", enhance_prompt=True)
            assert "x-venice-enhanced-prompt" not in answer.headers
            assert spent(gateway, key) == "0.07"
            assert gateway.differences() == []


def test_a_long_rewritten_prompt_is_told_up_to_a_whole_character(tmp_path: Path) -> None:
    """A header line has room for a part of it, which clients can still decode."""
    text = "größer 浪 " * 300
    with upstream_in_thread(answer_json(completion_of(text))) as upstream:
        upstream.models_act = answer_json({"object": "list", "data": [{"id": "relayed"}]})
        with running_gateway(tmp_path, enhancing_toml(upstream)) as gateway:
            answer = generated(gateway, gateway.new_key(), "a lagoon", enhance_prompt=True)
            header = answer.headers["x-venice-enhanced-prompt"]
            told = urllib.parse.unquote(header, errors="strict")
            assert text.startswith(told)
            assert 5980 < len(header) <= 6000


def test_rewrites_take_places_among_the_chats_of_their_model(tmp_path: Path) -> None:
    """A text model that is full rewrites nothing; the image is made of the caller's words."""
    toml = 'prompt_enhancement_model = "busy"\n' + IMAGE_MODELS
    toml += model_toml("busy", fault='"hang"', concurrency_max="1", queue_max="0")
    with running_gateway(tmp_path, toml) as gateway:
        key = gateway.new_key()
        with pending_chat(gateway, key, "busy"):
            gate = gateway.gateway.services.fleet.gates["busy"]
            wait_until(lambda: gate.active == 1)
            answer = generated(gateway, key, "a lagoon", enhance_prompt=True)
            assert "x-venice-enhanced-prompt" not in answer.headers
        wait_until(lambda: gate.active == 0)
        assert spent(gateway, key) == "0.01"
        assert gateway.differences() == []


def test_a_prompt_is_shown_to_no_model_that_its_key_may_not_use(tmp_path: Path) -> None:
    """A key for private models has its own words used, and pays for no rewrite."""
    with upstream_in_thread() as upstream:
        upstream.models_act = answer_json({"object": "list", "data": [{"id": "relayed"}]})
        toml = 'prompt_enhancement_model = "relayed"\n' + IMAGE_MODELS
        toml += relayed_toml(upstream, privacy='"anonymized"')
        with running_gateway(tmp_path, toml) as gateway:
            for privacy, is_shown in (("PRIVATE_ONLY", False), ("ALL", True)):
                key = gateway.new_key(privacy=privacy)
                upstream.requests.clear()
                answer = generated(gateway, key, "a lagoon", enhance_prompt=True)
                assert ("x-venice-enhanced-prompt" in answer.headers) == is_shown
                assert bool(upstream.requests) == is_shown
                assert spent(gateway, key) == ("0.05" if is_shown else "0.01")


def test_a_rewrite_that_goes_further_than_its_caller_is_not_used(tmp_path: Path) -> None:
    """The caller did not ask for anything adult: its own words are used, and no rewrite is paid."""
    words = tmp_path / "words.txt"
    words.write_text(WORDS)
    with upstream_in_thread() as upstream:
        upstream.models_act = answer_json({"object": "list", "data": [{"id": "relayed"}]})
        toml = enhancing_toml(upstream) + f'[moderation]\nwords_file = "{words}"\n'
        with running_gateway(tmp_path, toml) as gateway:
            key = gateway.new_key()
            for rewritten in ("a nude on the beach", "a basilisk"):
                upstream.then(answer_json(completion_of(rewritten)))
                answer = generated(gateway, key, "a lagoon", enhance_prompt=True)
                assert flags(answer) == set()
                assert "x-venice-enhanced-prompt" not in answer.headers
            assert spent(gateway, key) == "0.02"


def completion_of(text: str) -> dict[str, Any]:
    """A whole answer of a text model."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}


def test_no_work_outlives_its_hold(tmp_path: Path) -> None:
    """Whatever takes its time, the request ends while its hold can still be ended."""
    with running_gateway(tmp_path, image_toml("painter", fault='"hang"')) as gateway:
        services = gateway.gateway.services
        services.settings = msgspec.structs.replace(
            services.settings, total_seconds=0.5, hold_seconds_max=11
        )
        answer = ask(gateway, gateway.new_key(), SKETCH | {"prompt": "x"}, path=GENERATE)
        assert_published(answer, "REQUEST_TIMEOUT")
        assert gateway.gateway.book.open_holds == 0


def test_prompts_stay_as_they_are_without_a_model_for_them(gateway: RunningGateway) -> None:
    """The wish is granted as far as it can be: it fails open, and for nothing."""
    key = gateway.new_key()
    answer = generated(gateway, key, "a lagoon", enhance_prompt=True)
    assert "x-venice-enhanced-prompt" not in answer.headers
    assert spent(gateway, key) == "0.01"


def test_a_forbidden_image_is_not_shown_to_a_chat_model(tmp_path: Path) -> None:
    """The classifier looks at the images of a chat, and words are not its matter."""
    with upstream_in_thread() as server:
        answers(server, (), ("violence",))
        toml = classified_toml(server) + model_toml("priced")
        with running_gateway(tmp_path, toml) as gateway:
            key = gateway.new_key()
            content = [{"type": "image_url", "image_url": {"url": data_url(png())}}]
            messages = [{"role": "user", "content": content}]
            assert chat(gateway, key, messages=messages).status == 200
            paid = spent(gateway, key)
            refused = chat(gateway, key, messages=messages)
            assert_published(refused, "CONTENT_POLICY_VIOLATION")
            assert spent(gateway, key) == paid


def test_chats_are_not_touched_by_the_policy_of_images(tmp_path: Path) -> None:
    """A word list for images says nothing about conversations."""
    words = tmp_path / "words.txt"
    words.write_text(WORDS)
    toml = f'[moderation]\nwords_file = "{words}"\n' + PRICED_MODEL
    with running_gateway(tmp_path, toml) as gateway:
        body = {"messages": [{"role": "user", "content": "what is a basilisk?"}]}
        assert chat(gateway, gateway.new_key(), **body).status == 200
