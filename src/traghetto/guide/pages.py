"""The pages of the guide: one that lists the codes, and one for each, in every language.

Plain HTML with one style sheet inside, without script and without anything to be fetched. Links
are relative, so that the pages also work behind a proxy that serves them below a path.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Final

from traghetto.errors import ErrorCode
from traghetto.guide.explanations import LANGUAGES, Explanation, Language, retry_advice
from traghetto.guide.facts import PublishedFacts
from traghetto.guide.markup import (
    Content,
    Markup,
    code_name,
    document,
    element,
    prose,
    style_sheet,
)
from traghetto.guide.words import WORDS, Words

_STYLE: Final = resources.files("traghetto.guide").joinpath("pages.css").read_text("utf-8")

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may do with a page: apply its style sheet, and nothing else."""

LIST_PATH: Final = "errors"
"""Where the list is, seen from beside it; the pages of the codes are below it."""


def list_page(codes: Sequence[PublishedFacts], language: Language) -> str:
    """The page that lists `codes`."""
    words = WORDS[language]
    header = element("thead", heading_row(words.status, words.code_and_message, words.retry))
    body = element("tbody", *(_list_row(facts, language) for facts in codes))
    caption = element("caption", words.caption)
    return page(
        language,
        words.title,
        element("h1", words.title),
        element("p", prose(words.introduction), class_="lead"),
        element("table", caption, header, body, class_="codes"),
        element("footer", prose(words.for_programs)),
    )


def code_page(
    facts: PublishedFacts,
    language: Language,
    previous: PublishedFacts | None = None,
    following: PublishedFacts | None = None,
) -> str:
    """The page of one code, with links to its neighbours in the list."""
    words = WORDS[language]
    explanation = facts.explanation[language]
    return page(
        language,
        f"{facts.code} - {words.title}",
        _way_back(words, language),
        element("h1", code_name(facts.code)),
        element("p", _status(facts), " ", _message(facts), class_="answer"),
        element("p", prose(explanation.meaning), class_="lead"),
        *([] if facts.served else [element("p", words.not_served, class_="note")]),
        *_sections(facts, explanation, language, words),
        _neighbours(words, language, previous, following),
        element("footer", prose(words.for_programs)),
    )


def page(
    language: Language, title: str, *main: Content, in_languages: Sequence[Language] = LANGUAGES
) -> str:
    """A document around `main`, with a link to itself in each of `in_languages`."""
    words = WORDS[language]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} - Traghetto"),
        style_sheet(_STYLE),
    )
    skip = element("a", words.skip, class_="skip", href="#content")
    name = element("span", "Traghetto", class_="name", translate="no")
    banner = element("header", name, *_language_switch(language, in_languages))
    content = element("main", *main, id="content", tabindex="-1")
    return document(language, head, element("body", skip, banner, content))


def _language_switch(chosen: Language, languages: Sequence[Language]) -> Iterator[Markup]:
    """A link to this page in every language; nothing where there is one only."""
    if len(languages) < 2:
        return
    links = [
        element(
            "a",
            WORDS[language].language,
            href=f"?lang={language}",
            lang=language,
            hreflang=language,
            **({"aria_current": "true"} if language == chosen else {}),
        )
        for language in languages
    ]
    yield element("nav", *links, aria_label=WORDS[chosen].languages)


def _list_row(facts: PublishedFacts, language: Language) -> Markup:
    words = WORDS[language]
    link = element("a", code_name(facts.code), href=f"{LIST_PATH}/{facts.code}?lang={language}")
    return element(
        "tr",
        element("td", _status(facts)),
        element("th", link, " ", _message(facts), scope="row"),
        element("td", words.yes if facts.should_retry else words.no),
    )


def _sections(
    facts: PublishedFacts, explanation: Explanation, language: Language, words: Words
) -> Iterator[Markup]:
    """What is to be said about a code, the most useful first."""
    yield section(words.causes, _list(explanation.causes))
    yield section(words.remedy, element("p", prose(explanation.remedy)))
    yield section(words.charge, element("p", prose(explanation.charge)))
    if facts.recipe is not None:
        yield section(words.recipe, verbatim(facts.recipe))
    yield section(words.facts, _facts_table(facts, language, words))
    yield section(words.body_example, verbatim(facts.body_example))
    if facts.other_messages:
        yield section(words.other_messages, _messages(facts.other_messages))


def _facts_table(facts: PublishedFacts, language: Language, words: Words) -> Markup:
    """What is known of a code, in short."""
    none = words.none
    rows: list[tuple[str, Content]] = [
        (words.status, _status(facts)),
        (words.header, none if facts.header is None else element("code", facts.header)),
        (words.retry, retry_advice(ErrorCode[facts.code], language)),
        (words.charged, words.charges[facts.charged]),
        (words.counted, words.yes if facts.counted_as_failed else words.no),
        (words.log_level, none if facts.log_level is None else element("code", facts.log_level)),
    ]
    lines = [
        element("tr", element("th", label, scope="row"), element("td", value))
        for label, value in rows
    ]
    return element("table", element("tbody", *lines), class_="facts")


def _way_back(words: Words, language: Language) -> Markup:
    link = element("a", words.all_codes, href=f"../{LIST_PATH}?lang={language}")
    return element("p", link, class_="back")


def _neighbours(
    words: Words,
    language: Language,
    previous: PublishedFacts | None,
    following: PublishedFacts | None,
) -> Markup:
    """Links to the codes before and after this one."""
    links = [
        element("a", code_name(facts.code), href=f"{facts.code}?lang={language}", rel=relation)
        for relation, facts in (("prev", previous), ("next", following))
        if facts is not None
    ]
    return element("nav", *links, class_="neighbours", aria_label=words.neighbours)


def section(heading: str, content: Markup) -> Markup:
    """A part of a page under a heading."""
    return element("section", element("h2", heading), content)


def _list(items: Sequence[str]) -> Markup:
    return element("ul", *(element("li", prose(item)) for item in items))


def _messages(messages: Sequence[str]) -> Markup:
    """Sentences of the wire, as they are sent."""
    items = (element("li", message, lang="en", translate="no") for message in messages)
    return element("ul", *items)


def verbatim(text: str) -> Markup:
    """Text as it is sent or typed."""
    return element("pre", element("code", text, translate="no"), lang="en")


def _status(facts: PublishedFacts) -> Markup:
    return element("span", str(facts.status), class_=f"status of-{facts.status // 100}xx")


def _message(facts: PublishedFacts) -> Markup:
    """The sentence of the wire, which is English on every page."""
    return element("span", facts.message, class_="message", lang="en", translate="no")


def heading_row(*headings: str) -> Markup:
    """The first row of a table."""
    return element("tr", *(element("th", heading, scope="col") for heading in headings))
