"""The client of an HTTP classifier, against a server on a real socket that misbehaves to order."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support import upstream as up
from support.upstream import Act, Exchange, FaultUpstream
from traghetto.moderation.categories import KNOWN_EFFECTS, AnswerInvalid, Categories
from traghetto.moderation.classifier import ANSWER_BYTES_MAX, Classifier, PolicyUnavailable
from traghetto.telemetry import causes_of

PATH = "/v1/moderations"
SECRET_TEXT = "a text that nobody may read in a log"
KEY = "sk-classifier-key"


def verdict(*found: str, flagged: bool | None = None, **scores: float) -> dict[str, Any]:
    """An answer as OpenAI gives it, with `found` categories."""
    names = {*KNOWN_EFFECTS, *found}
    result = {
        "flagged": bool(found) if flagged is None else flagged,
        "categories": {name: name in found for name in names},
        "category_scores": {name: 0.9 if name in found else 0.1 for name in names} | scores,
        "category_applied_input_types": {name: ["text"] for name in names},
    }
    return {"id": "modr-1", "model": "omni-moderation-latest", "results": [result]}


def acts(*queue: Act) -> Act:
    """One act after the other, for one request each; the last one for all further ones."""
    waiting = list(queue)

    async def act(exchange: Exchange) -> None:
        await (waiting.pop(0) if len(waiting) > 1 else waiting[0])(exchange)

    return act


def with_server(
    act: Act, test: Callable[[FaultUpstream, Classifier], Awaitable[None]], **options: Any
) -> None:
    """Run `test` with a server that does `act`, and a classifier that asks it."""

    async def run() -> None:
        async with FaultUpstream() as server:
            server.by_path[PATH] = act
            classifier = Classifier(server.url, Categories(), api_key=KEY, **options)
            try:
                await test(server, classifier)
            finally:
                await classifier.aclose()

    asyncio.run(run())


def test_a_text_is_asked_about_in_openais_words() -> None:
    """One request, its body and headers those of OpenAI's API, and an answer by category."""

    async def test(server: FaultUpstream, classifier: Classifier) -> None:
        assert await classifier.judge_text("caf\u00e9 \U0001f600") == {
            "sexual": "adult",
            "violence": "blocked",
        }
        (request,) = server.other_requests
        assert (request.method, request.path) == ("POST", PATH)
        assert request.json == {"model": "m-1", "input": "caf\u00e9 \U0001f600"}
        assert request.header("authorization") == f"Bearer {KEY}"
        assert request.header("content-type") == "application/json"
        assert request.header("accept-encoding") == "identity"
        assert request.header("content-length") == str(len(request.body))
        assert request.header("transfer-encoding") is None

    with_server(up.answer_json(verdict("sexual", "violence")), test, model="m-1")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 196_607, 196_608, 500_000])
def test_an_image_is_sent_as_a_data_url(size: int) -> None:
    """However large it is, it arrives whole, with the length that the head promised."""
    image = random.Random(size).randbytes(size)

    async def test(server: FaultUpstream, classifier: Classifier) -> None:
        assert await classifier.judge_image(image, "image/webp") == {"sexual/minors": "minor"}
        (request,) = server.other_requests
        ((part,), rest) = request.json["input"], request.json.keys() - {"input"}
        assert rest == set(), "no model was configured, so none is named"
        assert part.keys() == {"type", "image_url"}
        head, _, encoded = part["image_url"]["url"].partition(",")
        assert (part["type"], head) == ("image_url", "data:image/webp;base64")
        assert base64.b64decode(encoded, validate=True) == image

    with_server(up.answer_json(verdict("sexual/minors")), test)


def test_connections_are_used_again() -> None:
    """Ten questions, one after the other, take one connection."""

    async def test(server: FaultUpstream, classifier: Classifier) -> None:
        for _ in range(10):
            assert await classifier.judge_text("x") == {}
        assert server.connections == 1

    with_server(up.answer_json(verdict()), test)


def test_questions_at_the_same_time_are_bounded() -> None:
    """A hundred questions are all answered, over no more connections than are allowed."""

    async def test(server: FaultUpstream, classifier: Classifier) -> None:
        found = await asyncio.gather(*(classifier.judge_text(str(n)) for n in range(100)))
        assert found == [{}] * 100
        assert server.connections <= 32
        assert {request.json["input"] for request in server.other_requests} == {
            str(n) for n in range(100)
        }

    with_server(up.answer_json(verdict()), test, seconds_max=30)


def test_a_connection_that_died_is_not_a_failure() -> None:
    """A server that closes a kept-alive connection instead of answering is asked once more."""

    async def test(server: FaultUpstream, classifier: Classifier) -> None:
        assert await classifier.judge_text("one") == {}
        assert await classifier.judge_text("two") == {"hate": "blocked"}
        assert [request.json["input"] for request in server.other_requests] == ["one", "two", "two"]

    answer = up.answer_json
    with_server(acts(answer(verdict()), up.close, answer(verdict("hate"))), test)


FAULTS: dict[str, tuple[Act, str]] = {
    "no answer": (up.hang, "in time"),
    "a header that never ends": (up.slow_headers(0.05), "in time"),
    "closed twice": (up.close, "broke off"),
    "reset twice": (up.reset, "broke off"),
    "an error": (up.answer(500, b"oops"), "answered 500"),
    "too many requests": (up.answer(429, b"{}"), "answered 429"),
    "a wrong key": (up.answer(401, b"{}"), "answered 401"),
    "a redirect": (up.answer(307, headers={"location": "/v1/elsewhere"}), "answered 307"),
    "compressed": (up.compressed(), "compressed"),
    "a huge body": (up.oversized_body(ANSWER_BYTES_MAX + 1), "too large"),
    "a huge header": (up.oversized_header(64 * 1024), "not HTTP"),
    "many headers": (up.many_headers(150), "not HTTP"),
    "cut off": (up.truncated(b'{"results": [', length=500), "broke off"),
    "cut off without length": (up.truncated(b'{"results": ['), "is not one"),
    "not JSON": (up.answer(200, b"<html>"), "is not one"),
    "not UTF-8": (
        up.answer(200, b'{"results": [{"flagged": true, "categories": {"\xff": true}}]}'),
        "is not one",
    ),
    "empty": (up.answer(200, b""), "is not one"),
    "a list": (up.answer_json([verdict()]), "is not one"),
    "no results": (up.answer_json({"id": "modr-1"}), "is not one"),
    "results of nothing": (up.answer_json({"results": []}), "is not one"),
    "flagged is text": (up.answer_json({"results": [{"flagged": "no"}]}), "is not one"),
    "not flagged at all": (up.answer_json({"results": [{}]}), "is not one"),
    "a score that is no number": (
        up.answer_json({"results": [{"flagged": False, "category_scores": {"hate": "1"}}]}),
        "is not one",
    ),
    "not a number": (
        up.answer_json(
            {"results": [{"flagged": False, "category_scores": {"hate": float("nan")}}]}
        ),
        "is not one",
    ),
    "nested deeply": (
        up.answer(200, b'{"results": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "is not one",
    ),
    "more results than questions": (
        up.answer_json({"results": [{"flagged": False}] * 65}),
        "is not one",
    ),
}


@pytest.mark.parametrize(("act", "reason"), FAULTS.values(), ids=FAULTS)
def test_every_fault_makes_the_policy_unavailable(act: Act, reason: str) -> None:
    """Whatever a server does wrong is one exception, without the text and without the key."""

    async def test(_: FaultUpstream, classifier: Classifier) -> None:
        with pytest.raises(PolicyUnavailable, match=reason) as raised:
            await classifier.judge_text(SECRET_TEXT)
        said = f"{raised.value!r} {causes_of(raised.value)}"
        assert SECRET_TEXT not in said
        assert KEY not in said

    with_server(act, test, seconds_max=1.0 if reason == "in time" else 20.0)


def test_a_redirect_is_not_followed() -> None:
    """Neither the text nor the key goes where an answer points."""

    async def test(server: FaultUpstream, classifier: Classifier) -> None:
        async with FaultUpstream() as other:
            location = f"{other.url}/moderations"
            server.by_path[PATH] = up.answer(307, headers={"location": location})
            with pytest.raises(PolicyUnavailable):
                await classifier.judge_text(SECRET_TEXT)
            assert other.connections == 0
            assert len(server.other_requests) == 1

    with_server(up.close, test)


def test_a_server_that_is_not_there() -> None:
    """A refused connection is told apart, and does not wait for the deadline."""

    async def run() -> None:
        async with up.refusing_url() as url:
            classifier = Classifier(url, Categories(), seconds_max=60)
            with pytest.raises(PolicyUnavailable, match="no connection"):
                await classifier.judge_text("x")
            await classifier.aclose()

    asyncio.run(run())


def test_a_question_that_is_given_up_closes_its_connection() -> None:
    """A client that leaves does not keep the classifier at work."""

    async def test(server: FaultUpstream, classifier: Classifier) -> None:
        question = asyncio.ensure_future(classifier.judge_text("x"))
        while not server.other_requests:
            await asyncio.sleep(0.01)
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        await asyncio.wait_for(server.other_requests[0].closed.wait(), 10)

    with_server(up.hang, test, seconds_max=60)


def test_after_its_end_nothing_is_asked() -> None:
    """A classifier that was closed refuses, and opens no connection."""

    async def test(server: FaultUpstream, classifier: Classifier) -> None:
        await classifier.judge_text("x")
        await classifier.aclose()
        with pytest.raises(PolicyUnavailable, match="closed"):
            await classifier.judge_text("x")
        assert len(server.other_requests) == 1

    with_server(up.answer_json(verdict()), test)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/moderations"])
def test_a_base_url_is_taken_as_openai_clients_take_it(end: str) -> None:
    """With or without its `/v1`, or the whole path."""

    async def run() -> None:
        async with FaultUpstream() as server:
            server.by_path[PATH] = up.answer_json(verdict())
            classifier = Classifier(server.url.removesuffix("/v1") + end, Categories())
            assert await classifier.judge_text("x") == {}
            await classifier.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("key", ["caf\u00e9", "a\nb"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    """At the start, and without repeating it."""
    with pytest.raises(ValueError, match="printable ASCII") as refusal:
        Classifier("http://127.0.0.1:1/v1", Categories(), api_key=key)
    assert key not in str(refusal.value)


def findings(answer: dict[str, Any], **arguments: Any) -> dict[str, str]:
    return Categories(**arguments).findings(json.dumps(answer).encode())


def test_the_categories_are_openais() -> None:
    """Every category that the API has is known, and no other."""
    from openai.types.moderation import Categories as Published  # noqa: PLC0415 - slow to import

    names = {field.alias or name for name, field in Published.model_fields.items()}
    assert names == set(KNOWN_EFFECTS)


@pytest.mark.parametrize("name", [*KNOWN_EFFECTS, "a category of tomorrow"])
def test_what_a_category_means_by_default(name: str) -> None:
    """Adult is adult, minors are minors, and everything else, known or not, is blocked."""
    effect = {"sexual": "adult", "sexual/minors": "minor"}.get(name, "blocked")
    assert list(findings(verdict(name)).values()) == [effect]


def test_a_foreign_name_is_not_repeated() -> None:
    """What an answer calls a category is untrusted until the operator writes the same name."""
    assert findings(verdict(SECRET_TEXT)) == {"an unknown category": "blocked"}
    assert findings(verdict("nsfw"), effects={"nsfw": "adult"}) == {"nsfw": "adult"}


def test_the_operator_says_what_a_category_means() -> None:
    """Own effects go before the usual ones."""
    effects = {"violence": "allow", "hate": "adult"}
    found = findings(verdict("violence", "hate", "sexual"), effects=effects)
    assert found == {"violence": "allow", "hate": "adult", "sexual": "adult"}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (verdict(hate=0.5), {"hate": "blocked"}),
        (verdict(hate=0.49), {}),
        (verdict("hate", hate=0.49), {}),
        (verdict("violence", violence=0.01), {"violence": "blocked"}),
        ({"results": [{"flagged": True, "categories": {"hate": True}}]}, {"hate": "blocked"}),
        (
            {"results": [{"flagged": False, "category_scores": {"hate": 0.7}}]},
            {"hate": "blocked"},
        ),
        (
            {
                "results": [
                    {
                        "flagged": True,
                        "categories": {"hate": True},
                        "category_scores": {"hate": None},
                    }
                ]
            },
            {"hate": "blocked"},
        ),
    ],
)
def test_a_threshold_goes_before_the_servers_own_judgement(
    answer: dict[str, Any], found: dict[str, str]
) -> None:
    """A score counts from the threshold on; without score or threshold the server decides."""
    assert findings(answer, thresholds={"hate": 0.5}) == found


@pytest.mark.parametrize(
    ("results", "found"),
    [
        ([{"flagged": False}], {}),
        ([{"flagged": True}], {"flagged": "blocked"}),
        ([{"flagged": True, "categories": {"hate": None}}], {"flagged": "blocked"}),
        ([{"flagged": True, "categories": {"hate": False}}], {"flagged": "blocked"}),
        ([{"flagged": False, "categories": {"hate": True}}], {"hate": "blocked"}),
        (
            [{"flagged": False}, {"flagged": True, "categories": {"sexual": True}}],
            {"sexual": "adult"},
        ),
    ],
)
def test_a_flag_is_never_lost(results: list[dict[str, Any]], found: dict[str, str]) -> None:
    """What is flagged without a category is blocked, and one result of several is enough."""
    assert findings({"results": results}) == found


def test_the_refusal_of_an_answer_does_not_quote_it() -> None:
    """The decoder's own words would."""
    with pytest.raises(AnswerInvalid) as refusal:
        findings({"results": [{"flagged": SECRET_TEXT}]})
    assert refusal.value.__suppress_context__
    assert SECRET_TEXT not in str(refusal.value)
