"""The policy: what words and categories mean together, and what happens without a classifier."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from support import upstream as up
from support.upstream import Act, FaultUpstream
from traghetto.moderation import Policy, PolicyUnavailable, Verdict, WordsInvalid, policy_of
from traghetto.settings import Moderation, SettingInvalid
from traghetto.telemetry import configure_logging

WORDS = "[blocked]\nbomb\n[adult]\nnude\n[minor]\nchild\n"


def answering(*found: str) -> Act:
    """A server that finds these categories in everything."""
    return up.answer_json(
        {"results": [{"flagged": bool(found), "categories": dict.fromkeys(found, True)}]}
    )


@pytest.fixture
def words_file(tmp_path: Path) -> Path:
    """A list with one word a section."""
    path = tmp_path / "words.txt"
    path.write_text(WORDS)
    return path


def judging(
    act: Act, work: Callable[[Policy, FaultUpstream], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Run `work` with the policy of `settings`, whose classifier is a server that does `act`."""

    async def run() -> None:
        async with FaultUpstream() as server:
            server.by_path["/v1/moderations"] = act
            policy = policy_of(Moderation(classifier_url=server.url, **settings))
            try:
                await work(policy, server)
            finally:
                await policy.aclose()

    asyncio.run(run())


def test_nothing_configured_allows_everything() -> None:
    """The policy of no settings is empty, says so, and can be asked all the same."""
    policy = policy_of(Moderation())
    assert policy.is_empty
    assert not policy.judges_images
    assert asyncio.run(policy.judge_prompt("bomb")) == Verdict()
    assert asyncio.run(policy.judge_image(b"", "image/png")) == Verdict()
    asyncio.run(policy.aclose())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a harbour", Verdict()),
        ("a child plays football", Verdict(names_minors=True)),
        ("a bomb", Verdict(blocked=True, reason="words [blocked]")),
        ("a nude", Verdict(adult=True, reason="words [adult]")),
        (
            "a nude child",
            Verdict(True, True, True, "words [adult], words [minor]", names_minors=True),
        ),
        ("a child with a bomb", Verdict(True, reason="words [blocked]", names_minors=True)),
        ("x " * 10_000 + "bomb", Verdict(blocked=True, reason="words [blocked]")),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_words_alone(words_file: Path, text: str, expected: Verdict) -> None:
    """A word list needs no server; words for minors count beside adult ones only."""
    policy = policy_of(Moderation(words_file=words_file))
    assert not policy.is_empty
    assert not policy.judges_images
    assert asyncio.run(policy.judge_prompt(text)) == expected
    assert asyncio.run(policy.judge_image(text.encode(), "image/png")) == Verdict()


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("x", [], Verdict()),
        ("x", ["sexual"], Verdict(adult=True, reason="sexual")),
        ("x", ["violence"], Verdict()),
        ("x", ["hate"], Verdict(blocked=True, reason="hate")),
        (
            "x",
            ["sexual", "sexual/minors", "violence"],
            Verdict(True, True, True, "sexual, sexual/minors"),
        ),
        ("x", ["sexual/minors"], Verdict(blocked=True, minor=True, reason="sexual/minors")),
        ("a child", [], Verdict(names_minors=True)),
        ("a child", ["sexual"], Verdict(True, True, True, "sexual, words [minor]", True)),
        ("a child", ["hate"], Verdict(blocked=True, reason="hate", names_minors=True)),
        ("nude", ["hate"], Verdict(True, True, False, "words [adult], hate")),
    ],
)
def test_words_and_categories_together(
    words_file: Path, text: str, found: list[str], expected: Verdict
) -> None:
    """What either finds counts; a word for a minor and an adult category are one finding."""

    async def work(policy: Policy, _: FaultUpstream) -> None:
        assert await policy.judge_prompt(text) == expected

    judging(answering(*found), work, words_file=words_file, categories={"violence": "allow"})


def test_what_words_block_is_not_sent(words_file: Path) -> None:
    """The classifier is not asked what is decided already, so it need not even be there."""

    async def work(policy: Policy, server: FaultUpstream) -> None:
        assert (await policy.judge_prompt("a bomb")).blocked
        assert server.other_requests == []

    judging(up.close, work, words_file=words_file)


def test_images_are_judged_by_the_classifier() -> None:
    """An image has the verdict that its categories have."""

    async def work(policy: Policy, server: FaultUpstream) -> None:
        assert policy.judges_images
        verdict = await policy.judge_image(b"pixels", "image/png")
        assert verdict == Verdict(adult=True, reason="sexual")
        (request,) = server.other_requests
        assert request.json["input"][0]["type"] == "image_url"

    judging(answering("sexual"), work)


@pytest.mark.parametrize("judges", ["prompts", "images"])
def test_it_is_asked_about_what_it_is_to_judge(judges: str) -> None:
    """The other kind is allowed without a question."""

    async def work(policy: Policy, server: FaultUpstream) -> None:
        prompt = await policy.judge_prompt("x")
        image = await policy.judge_image(b"x", "image/png")
        assert (prompt.blocked, image.blocked) == (judges == "prompts", judges == "images")
        assert policy.judges_images == (judges == "images")
        assert len(server.other_requests) == 1

    judging(answering("hate"), work, judges=(judges,))


def test_a_failing_classifier_refuses_everything_that_it_judges(words_file: Path) -> None:
    """Unless told otherwise, nothing is done that nobody has judged."""

    async def work(policy: Policy, _: FaultUpstream) -> None:
        with pytest.raises(PolicyUnavailable):
            await policy.judge_prompt("nude")
        with pytest.raises(PolicyUnavailable):
            await policy.judge_image(b"x", "image/png")

    judging(up.answer(500), work, words_file=words_file)


def test_a_failing_classifier_can_be_done_without(words_file: Path) -> None:
    """With `allow` the word list alone decides."""

    async def work(policy: Policy, _: FaultUpstream) -> None:
        assert await policy.judge_prompt("x") == Verdict()
        assert await policy.judge_prompt("nude") == Verdict(adult=True, reason="words [adult]")
        assert await policy.judge_image(b"x", "image/png") == Verdict()

    judging(up.answer(500), work, words_file=words_file, on_failure="allow")


@pytest.mark.parametrize("on_failure", ["refuse", "allow"])
def test_the_operator_hears_when_it_fails_and_when_that_ends(
    on_failure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One record each, however many requests there were, with the server and not the text."""
    configure_logging()

    async def work(policy: Policy, server: FaultUpstream) -> None:
        for status in (500, 500, 200, 200, 500):
            act = answering() if status == 200 else up.answer(status)
            server.by_path["/v1/moderations"] = act
            try:
                await policy.judge_prompt("a secret")
            except PolicyUnavailable:
                assert on_failure == "refuse"
        written = capsys.readouterr().err
        records = [json.loads(line) for line in written.splitlines()]
        assert [(record["level"], record["event"]) for record in records] == [
            ("error", "classifier_failing"),
            ("info", "classifier_answers"),
            ("error", "classifier_failing"),
        ]
        assert {record["url"] for record in records} == {f"http://127.0.0.1:{server.port}"}
        assert records[0]["reason"] == "the classifier answered 500"
        assert "secret" not in written

    judging(up.close, work, on_failure=on_failure)


def test_minors_are_always_blocked() -> None:
    """No verdict can say otherwise."""
    with pytest.raises(AssertionError):
        Verdict(minor=True)


FLAGS = st.builds(
    lambda blocked, adult, minor, names_minors: Verdict(
        blocked or minor, adult, minor, names_minors=names_minors
    ),
    *[st.booleans()] * 4,
)


@given(FLAGS, FLAGS, FLAGS)
def test_verdicts_join_in_any_order(one: Verdict, other: Verdict, third: Verdict) -> None:
    """Nothing found is lost, and the parts of a request can be judged one after the other."""
    both = one | other
    assert replace(both, reason="") == replace(other | one, reason="")
    assert replace(both | third, reason="") == replace(one | (other | third), reason="")
    for flag in ("blocked", "adult", "minor", "names_minors"):
        assert getattr(both, flag) >= (getattr(one, flag) or getattr(other, flag))
    assert both.minor >= (both.adult and both.names_minors)


def test_a_word_in_the_prompt_and_a_category_of_the_image_are_one_finding() -> None:
    """Neither is a violation alone; of one request, they are."""
    prompt, image = Verdict(names_minors=True), Verdict(adult=True, reason="sexual")
    together = prompt | image | image
    assert together == Verdict(True, True, True, "sexual, words [minor]", names_minors=True)
    assert Verdict() | image == image | Verdict() == image


def test_the_key_comes_from_the_environment() -> None:
    """The variable that is named holds it; one that is not set, or no key, is refused by name."""

    async def run() -> None:
        async with FaultUpstream() as server:
            server.by_path["/v1/moderations"] = answering()
            settings = Moderation(classifier_url=server.url, classifier_key_env="KEY")
            policy = policy_of(settings, {"KEY": "s3cret"})
            await policy.judge_prompt("x")
            await policy.aclose()
            assert server.other_requests[0].header("authorization") == "Bearer s3cret"
            for environ in ({}, {"KEY": "s3cr\u00e9t"}):
                with pytest.raises(SettingInvalid) as refusal:
                    policy_of(settings, environ)
                assert refusal.value.path == ("moderation", "classifier_key_env")
                assert "s3cr" not in str(refusal.value)

    asyncio.run(run())


def test_a_word_list_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """A missing file and a bad one, before anything is asked of anybody."""
    with pytest.raises(FileNotFoundError):
        policy_of(Moderation(words_file=tmp_path / "none"))
    (tmp_path / "bad").write_text("bomb\n")
    with pytest.raises(WordsInvalid, match=r"bad:1: "):
        policy_of(Moderation(words_file=tmp_path / "bad"))
