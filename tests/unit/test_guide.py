"""The guide to the contract is total, says nothing twice, and shows what this server sends."""

from __future__ import annotations

import html
import json
import re

import pytest

from support.repository import SOURCE, python_sources
from traghetto.errors import PUBLISHED_STYLE, Adjunct, ErrorCode, ErrorStyle, row_of
from traghetto.guide.coverage import NOT_SERVED_YET
from traghetto.guide.explanations import (
    LANGUAGES,
    Language,
    charged,
    entries,
    explanation_of,
    retry_advice,
)
from traghetto.guide.facts import facts_of, published_facts
from traghetto.guide.markup import element, prose
from traghetto.guide.pages import code_page

ALL_CODES = pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
ALL_LANGUAGES = pytest.mark.parametrize("language", LANGUAGES)


def texts(code: ErrorCode, language: Language) -> list[str]:
    """Everything that is said about a code in a language."""
    found = explanation_of(code, language)
    return [found.meaning, *found.causes, found.remedy, found.charge]


def test_every_code_is_explained_and_nothing_else() -> None:
    """The file has the 40 codes in the order of the contract; its form is checked by reading it."""
    assert list(entries()) == [code.name for code in ErrorCode]


@ALL_LANGUAGES
@ALL_CODES
def test_every_text_is_written(code: ErrorCode, language: Language) -> None:
    """No text is empty, unfinished, or without the stop of a sentence; every code has a cause."""
    assert explanation_of(code, language).causes
    for text in texts(code, language):
        assert re.fullmatch(r"\S.{10,}[.?]", text), text
        assert not re.search(r"\b(?:TO" + r"DO|TBD|FIX" + r"ME|lorem)\b", text, re.IGNORECASE)
        assert text.count("`") % 2 == 0, text


@ALL_CODES
def test_languages_say_the_same(code: ErrorCode) -> None:
    """Both languages have as many causes, and name the same endpoints, headers and members."""
    english, italian = (explanation_of(code, language) for language in LANGUAGES)
    assert len(english.causes) == len(italian.causes)
    assert set(names(code, "en")) == set(names(code, "it"))


def names(code: ErrorCode, language: Language) -> list[str]:
    """What is quoted as code, without the placeholders, which are words of the language."""
    quoted = re.findall("`([^`]+)`", " ".join(texts(code, language)))
    return [re.sub(r"\b[A-Z_]+\b(?!-)", "", text) for text in quoted]


@ALL_CODES
def test_languages_differ(code: ErrorCode) -> None:
    """No sentence was left untranslated."""
    assert not set(texts(code, "en")) & set(texts(code, "it"))


@ALL_CODES
def test_texts_do_not_repeat_the_message(code: ErrorCode) -> None:
    """An explanation explains; the message itself is in the catalogue."""
    for language in LANGUAGES:
        assert row_of(code).message not in " ".join(texts(code, language))


@ALL_CODES
def test_codes_in_the_texts_exist(code: ErrorCode) -> None:
    """A code that is mentioned is one of the contract, and a setting is one of the server's."""
    prefixes = {name.partition("_")[0] for name in ErrorCode.__members__}
    for language in LANGUAGES:
        for name in re.findall(r"`([A-Z]+_[A-Z_]+)`", " ".join(texts(code, language))):
            known = name in ErrorCode.__members__ or name.partition("_")[0] not in prefixes
            assert known, name


def test_only_what_can_break_off_can_cost() -> None:
    """Nothing is charged for an error, except where a stream breaks or an edit was made."""
    costly = {code.name for code in ErrorCode if charged(code) == "sometimes"}
    assert costly == {
        "CONTENT_POLICY_VIOLATION",
        "INFERENCE_FAILED",
        "MODEL_OFFLINE",
        "MODEL_OVERLOADED",
        "REQUEST_TIMEOUT",
        "UNKNOWN_ERROR",
    }


def test_what_is_served_is_what_is_raised() -> None:
    """The codes that are marked as not served are those that no module of the package raises."""
    gives_none = {"client", "errors", "guide"}
    sources = [
        path.read_text()
        for path in python_sources()
        if path.relative_to(SOURCE).parts[0] not in gives_none
    ]
    named = set(re.findall(r"\bErrorCode\.([A-Z0-9_]+)", "\n".join(sources)))
    assert {code.name for code in NOT_SERVED_YET} == set(ErrorCode.__members__) - named


@pytest.mark.parametrize(
    ("code", "english", "italian"),
    [
        (ErrorCode.MODEL_NOT_FOUND, "no: ", "no: "),
        (ErrorCode.INFERENCE_FAILED, "yes", "sì"),
        (ErrorCode.MODEL_OFFLINE, "yes, after the seconds in Retry-After", "sì, dopo i secondi"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_retry_advice_follows_the_row(code: ErrorCode, english: str, italian: str) -> None:
    """What is said of retries is what the headers say."""
    assert retry_advice(code).startswith(english)
    assert retry_advice(code, "it").startswith(italian)
    assert facts_of(code, PUBLISHED_STYLE).should_retry == row_of(code).should_retry


def test_facts_are_what_this_server_sends() -> None:
    """The operator's URL, shape and headers show in the facts."""
    code = ErrorCode.INSUFFICIENT_BALANCE
    own = ErrorStyle(code_header=False, openai_objects=True, credits_url="https://pay.example/<me>")
    facts = published_facts(code, own)
    assert "Visit https://pay.example/<me> to add credits." in facts.message
    assert facts.header is None
    assert json.loads(facts.body_example)["error"]["message"] == facts.message
    assert published_facts(code, PUBLISHED_STYLE).message == row_of(code).message


def test_other_messages_are_those_of_the_code() -> None:
    """Every wording that stands for a code is shown with it, unless it is the code's own."""
    shown = {
        message
        for code in ErrorCode
        for message in published_facts(code, PUBLISHED_STYLE).other_messages
    }
    own = {row_of(code).message for code in ErrorCode}
    assert shown == {row_of(other).message for other in Adjunct if row_of(other).of} - own


def test_a_recipe_is_shown_where_there_is_one() -> None:
    """The commands stand on the page of every code that an endpoint gives."""
    for code in ErrorCode:
        facts = published_facts(code, PUBLISHED_STYLE)
        page = code_page(facts, "en")
        assert (facts.recipe is None) == (code in NOT_SERVED_YET)
        assert ("<h2>See it happen</h2>" in page) == (facts.recipe is not None)
        if facts.recipe is not None:
            assert facts.recipe in html.unescape(page)


def test_text_is_escaped_because_it_is_not_markup() -> None:
    """Nothing that is text can become an element or leave an attribute."""
    inner = element("b", "1 < 2 & 3")
    made = element("a", inner, "</a>", href='"><script>', class_="x", aria_label="y")
    assert made.html == (
        '<a href="&quot;&gt;&lt;script&gt;" class="x" aria-label="y">'
        "<b>1 &lt; 2 &amp; 3</b>&lt;/a&gt;</a>"
    )
    assert prose("Send `a<b>` & wait.").html == (
        'Send <code translate="no">a&lt;b&gt;</code> &amp; wait.'
    )
