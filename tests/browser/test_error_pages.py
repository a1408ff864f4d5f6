"""The pages of `/errors` in a real browser: what is seen, reached with the keyboard, and fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from support.gateway import RunningGateway, running_gateway
from traghetto.errors import ErrorCode
from traghetto.guide.explanations import explanation_of

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="there is no Chromium here (on Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway as it is without configuration."""
    with running_gateway(tmp_path_factory.mktemp("pages")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, which is driven and not downloaded."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


@pytest.fixture
def context(browser: Browser, gateway: RunningGateway) -> Iterator[BrowserContext]:
    """An English reader's window, with a wide screen."""
    opened = browser.new_context(
        base_url=gateway.url, locale="en-GB", viewport={"width": 1200, "height": 900}
    )
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def page(context: BrowserContext, gateway: RunningGateway) -> Iterator[Page]:
    """A page that must not complain, nor fetch anything but documents of the gateway."""
    opened = context.new_page()
    complaints: list[str] = []
    fetched: list[tuple[str, str]] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: fetched.append((request.resource_type, request.url)))
    yield opened
    assert complaints == []
    assert {kind for kind, _ in fetched} == {"document"}
    assert all(url.startswith(gateway.url) for _, url in fetched)


def is_within_width(page: Page) -> bool:
    """Whether the page can be read without scrolling sideways."""
    fits: bool = page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    return fits


def focused(page: Page) -> str:
    """The text of what has the focus."""
    text: str = page.evaluate("document.activeElement.textContent")
    return text


def test_a_reader_finds_what_an_error_means(page: Page, tmp_path: Path) -> None:
    """From the list a click leads to the code, which says everything, and a click leads back."""
    page.goto("/errors")
    assert page.title() == "Errors - Traghetto"
    assert page.get_by_role("row").count() == 1 + len(ErrorCode)
    assert page.get_by_role("columnheader").all_inner_texts() == [
        "Status",
        "Code and message",
        "Retry",
    ]
    page.screenshot(path=tmp_path / "list.png", full_page=True)
    page.get_by_role("link", name="MODEL_NOT_FOUND").click()
    explanation = explanation_of(ErrorCode.MODEL_NOT_FOUND)
    main = page.get_by_role("main")
    assert main.get_by_role("heading", level=1).inner_text() == "MODEL_NOT_FOUND"
    for text in (explanation.meaning, explanation.remedy, *explanation.causes):
        assert text.replace("`", "") in main.inner_text()
    assert main.locator("pre").last.inner_text() == '{"error":"Specified model not found"}'
    assert page.get_by_role("row", name="Status").inner_text().split() == ["Status", "404"]
    page.screenshot(path=tmp_path / "code.png", full_page=True)
    page.get_by_role("link", name="All errors").click()
    assert page.get_by_role("heading", level=1).inner_text() == "Errors"


def test_the_style_is_applied(page: Page) -> None:
    """The policy lets the page's own style sheet through, and the reader's colours decide."""
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto("/errors")
        papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == {"rgb(251, 250, 247)", "rgb(16, 24, 28)"}


def test_the_keyboard_is_enough(page: Page) -> None:
    """The first Tab offers to skip to the content, where the next leads to the first code."""
    page.goto("/errors")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    skip = page.locator(".skip").bounding_box()
    assert skip is not None
    assert skip["y"] >= 0, "what has the focus is visible"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused(page) == "AUTHENTICATION_FAILED"
    outline: str = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus shows"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/errors/AUTHENTICATION_FAILED_INACTIVE_KEY*")
    heading = page.get_by_role("heading", level=1)
    assert heading.inner_text() == "AUTHENTICATION_FAILED_INACTIVE_KEY"


def test_the_language_can_be_switched(page: Page) -> None:
    """A link makes the page Italian, and those after it; what is on the wire stays English."""
    page.goto("/errors/RATE_LIMIT_EXCEEDED")
    assert page.locator("html").get_attribute("lang") == "en"
    page.get_by_role("link", name="Italiano").click()
    assert page.locator("html").get_attribute("lang") == "it"
    main = page.get_by_role("main")
    assert explanation_of(ErrorCode.RATE_LIMIT_EXCEEDED, "it").meaning in main.inner_text()
    message = main.locator(".message")
    assert (message.inner_text(), message.get_attribute("lang")) == ("Rate limit exceeded", "en")
    page.get_by_role("link", name="Tutti gli errori").click()
    assert page.get_by_role("heading", level=1).inner_text() == "Errori"
    assert page.get_by_role("link", name="Italiano").get_attribute("aria-current") == "true"


def test_an_italian_reader_gets_italian(browser: Browser, gateway: RunningGateway) -> None:
    """The browser says what its user reads."""
    context = browser.new_context(locale="it-IT")
    try:
        page = context.new_page()
        page.goto(f"{gateway.url}/errors")
        assert page.get_by_role("heading", level=1).inner_text() == "Errori"
    finally:
        context.close()


@pytest.mark.parametrize("language", ["en", "it"])
def test_a_telephone_is_wide_enough(page: Page, tmp_path: Path, language: str) -> None:
    """No page has to be scrolled sideways on a screen of 360 pixels."""
    page.set_viewport_size(PHONE)
    for path in ("errors", *(f"errors/{code.name}" for code in ErrorCode)):
        page.goto(f"/{path}?lang={language}")
        assert is_within_width(page), path
        if path in {"errors", "errors/INSUFFICIENT_BALANCE"}:
            page.screenshot(path=tmp_path / f"{path.replace('/', '-')}.png", full_page=True)


def test_the_api_can_be_read_and_reached_with_the_keyboard(page: Page) -> None:
    """From the index to an operation, and from there to what one of its errors means."""
    page.goto("/docs")
    assert page.title() == "API - Traghetto"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    link = page.get_by_role("link", name="/image/upscale")
    link.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#image_upscale")
    upscale = page.locator("#image_upscale")
    assert upscale.get_by_role("heading", name="POST /image/upscale").is_visible()
    upscale.get_by_role("link", name="UPSCALE_FAILED").click()
    assert page.title().startswith("UPSCALE_FAILED")


def test_the_api_fits_a_phone(page: Page, tmp_path: Path) -> None:
    """Without scrolling sideways."""
    page.set_viewport_size(PHONE)
    page.goto("/docs")
    assert is_within_width(page)
    page.screenshot(path=tmp_path / "docs.png", full_page=True)
    assert (tmp_path / "docs.png").stat().st_size > 50_000
