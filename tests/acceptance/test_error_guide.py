"""`/errors` over a socket: the contract explains itself, to programs and to browsers, without a key."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from support.gateway import RunningGateway, running_gateway
from support.repository import ROOT
from traghetto.errors import ErrorCode, row_of
from traghetto.guide.explanations import Language, explanation_of

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CREDITS_URL = 'https://pay.example/?for="you"&now=<1>'
"""An operator's address with everything that HTML would take amiss."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway whose operator sends people elsewhere for funds."""
    with running_gateway(tmp_path_factory.mktemp("guide"), credits_url=CREDITS_URL) as running:
        yield running


def call(
    gateway: RunningGateway, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, str]:
    """An answer and its body; `accept_language` is the header `Accept-Language`."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


class Text(HTMLParser):
    """The text of a page, and the elements that it is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def __str__(self) -> str:
        return "".join(self.pieces)


def test_programs_get_the_contract_with_its_explanations(gateway: RunningGateway) -> None:
    """The list holds the rows of spec/errors.json, and for each what there is to know."""
    answer, body = call(gateway, "/errors")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    listed = json.loads(body)
    published = json.loads((ROOT / "spec" / "errors.json").read_text())
    own = {row["code"]: row["message"] for row in listed if row["code"] == "INSUFFICIENT_BALANCE"}
    assert [
        {name: row[name] for name in ("code", "status", "message", "log_level")} for row in listed
    ] == [row | {"message": own.get(row["code"], row["message"])} for row in published]
    for row in listed:
        assert row["explanation"].keys() == {"en", "it"}
        assert json.loads(row["body_example"])["error"]
        assert row["retry"].startswith("yes" if row["should_retry"] else "no")
        assert row["charged"] in {"never", "sometimes"}


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_every_code_has_an_address(gateway: RunningGateway, code: ErrorCode) -> None:
    """Its JSON is its entry of the list; its pages have everything, in the language asked for."""
    _, everything = call(gateway, "/errors")
    answer, body = call(gateway, f"/errors/{code.name}")
    assert answer.status == 200
    assert json.loads(body) in json.loads(everything)
    languages: list[tuple[Language, Language]] = [("en", "it"), ("it", "en")]
    for language, other in languages:
        answer, page = call(gateway, f"/errors/{code.name}?lang={language}", Accept=BROWSER)
        assert (answer.status, answer.headers["content-language"]) == (200, language)
        shown = str(Text(page))
        assert json.loads(body)["message"] in shown
        assert json.loads(body)["body_example"] in shown
        explanation = explanation_of(code, language)
        for text in (explanation.meaning, *explanation.causes, explanation.remedy):
            assert text.replace("`", "") in shown
        assert explanation_of(code, other).meaning not in shown


@pytest.mark.parametrize(
    ("query", "accept_language", "language"),
    [
        ("", "", "en"),
        ("", "de-DE, fr;q=0.9", "en"),
        ("", "it-IT, it;q=0.9, en;q=0.8", "it"),
        ("", "en-GB, it;q=0.5", "en"),
        ("", "en;q=0.4, it-CH;q=0.5", "it"),
        ("?lang=it", "en", "it"),
        ("?lang=en", "it", "en"),
        ("?lang=tlh", "it", "it"),
        ("?" + "&".join(f"a{n}=1" for n in range(50)), "it", "it"),
    ],
)
def test_language_is_negotiated(
    gateway: RunningGateway, query: str, accept_language: str, language: str
) -> None:
    """The address decides, else the reader's preference, else it is English."""
    answer, page = call(gateway, f"/errors{query}", Accept=BROWSER, accept_language=accept_language)
    assert answer.headers["content-language"] == language
    assert ("html", {"lang": language}) in Text(page).elements


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (BROWSER, "text/html"),
        ("text/html", "text/html"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("*/*", "application/json"),
        ("", "application/json"),
        ("nonsense;;q=,", "application/json"),
    ],
)
def test_form_is_negotiated(gateway: RunningGateway, accept: str, media: str) -> None:
    """Who prefers HTML gets it; everybody else gets JSON, and caches are told what it hangs on."""
    answer, _ = call(gateway, "/errors/MODEL_NOT_FOUND", Accept=accept)
    assert answer.headers.get_content_type() == media
    assert answer.headers["vary"] == "accept, accept-language"


def test_head_says_what_get_would(gateway: RunningGateway) -> None:
    """HEAD has the headers of GET and no body."""
    for accept in (BROWSER, "application/json"):
        got, body = call(gateway, "/errors/MODEL_OFFLINE", Accept=accept)
        head, nothing = call(gateway, "/errors/MODEL_OFFLINE", "HEAD", Accept=accept)
        assert (head.status, nothing) == (200, "")
        for name in ("content-length", "content-type", "etag", "cache-control"):
            assert head.headers[name] == got.headers[name], name
        assert int(head.headers["content-length"]) == len(body.encode())


def test_what_is_known_is_not_sent_again(gateway: RunningGateway) -> None:
    """A body that the client has is answered by 304, each form having a tag of its own."""
    page, _ = call(gateway, "/errors", Accept=BROWSER)
    data, _ = call(gateway, "/errors")
    assert page.headers["etag"] != data.headers["etag"]
    assert data.headers["cache-control"] == "public, max-age=60"
    for known in (data.headers["etag"], f'"other", W/{data.headers["etag"]}', "*"):
        answer, body = call(gateway, "/errors", If_None_Match=known)
        assert (answer.status, body) == (304, "")
        assert answer.headers["etag"] == data.headers["etag"]
    answer, _ = call(gateway, "/errors", If_None_Match=page.headers["etag"])
    assert answer.status == 200


@pytest.mark.parametrize("path", ["/errors/NO_SUCH_CODE", "/errors/", "/errors/model_not_found"])
def test_an_unknown_code_is_an_error_of_the_contract(gateway: RunningGateway, path: str) -> None:
    """What is none of the 40 is a route that does not exist, also to a browser."""
    answer, body = call(gateway, path, Accept=BROWSER)
    assert (answer.status, body) == (404, '{"error":"Not found"}')
    assert answer.headers["x-error-code"] == "ROUTE_NOT_FOUND"


def test_other_methods_are_refused(gateway: RunningGateway) -> None:
    """The guide is only to be read."""
    answer, _ = call(gateway, "/errors", "POST")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_the_operators_address_is_shown_as_it_is_sent(gateway: RunningGateway) -> None:
    """INSUFFICIENT_BALANCE shows this server's own text, escaped where it stands in HTML."""
    _, body = call(gateway, "/errors/INSUFFICIENT_BALANCE")
    assert json.loads(body)["message"] == row_of(ErrorCode.INSUFFICIENT_BALANCE).message.replace(
        "https://venice.ai/settings/api", CREDITS_URL
    )
    for path in ("/errors", "/errors/INSUFFICIENT_BALANCE"):
        _, page = call(gateway, path, Accept=BROWSER)
        assert f"Visit {CREDITS_URL} to add credits." in str(Text(page))
        assert "<1>" not in page


@pytest.mark.parametrize("path", ["/errors", "/errors/INVALID_REQUEST"])
def test_a_page_may_do_nothing_but_look_as_it_does(gateway: RunningGateway, path: str) -> None:
    """The policy allows the one style sheet by its hash; there is no script and nothing to fetch."""
    answer, page = call(gateway, path, Accept=BROWSER)
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert answer.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style
    names = {name for name, _ in Text(page).elements}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not [
        attributes
        for _, attributes in Text(page).elements
        if {"style", "onclick"} & set(attributes)
    ]


@pytest.mark.parametrize("path", ["/errors", "/errors/TOO_MANY_TOKENS"])
def test_a_page_is_well_made(gateway: RunningGateway, path: str) -> None:
    """One main heading, no level left out, table headers with a scope, and English marked in Italian."""
    _, page = call(gateway, f"{path}?lang=it", Accept=BROWSER)
    elements = Text(page).elements
    levels = [int(name[1]) for name, _ in elements if re.fullmatch("h[1-6]", name)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert {attributes.get("scope") for name, attributes in elements if name == "th"} <= {
        "col",
        "row",
    }
    english = [attributes for _, attributes in elements if attributes.get("class") == "message"]
    assert english
    assert all(attributes["lang"] == "en" for attributes in english)
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    first_link = next(attributes for name, attributes in elements if name == "a")
    assert first_link["href"] == "#content"
    assert "content" in ids
