"""Every error a client can get, provoked over a socket: its bytes, headers, log and books."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import pytest

from conformance.recipes import (
    CANARY,
    NOT_REACHABLE_YET,
    PROVOKED_ELSEWHERE,
    RECIPES,
    Recipe,
    Scene,
    upstream_and_toml,
)
from support.client import PUBLISHED, Answer, assert_recognised
from support.gateway import running_gateway
from traghetto.clock import ManualClock
from traghetto.errors import Adjunct, ErrorCode

NOW = 1_767_225_600
"""Where a manual clock begins, in Unix seconds."""

EVERYWHERE = {
    "date",
    "content-length",
    "content-type",
    "cf-ray",
    "x-request-id",
    "x-venice-version",
    "x-venice-timestamp",
    "x-content-type-options",
    "x-error-code",
    "x-should-retry",
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_code(recipe: Recipe, stream: bool, tmp_path: Path) -> None:
    """The code is provoked for real; its answer is exact, it is logged as published, and free."""
    with (
        upstream_and_toml() as (upstream, toml),
        running_gateway(tmp_path, toml, clock=ManualClock(), **recipe.settings) as gateway,
    ):
        scene = Scene(gateway, upstream, "first", "", stream)
        scene.key_of(account={"usd": "10"})
        answer = recipe.provoke(scene)
        assert_bytes(recipe, answer)
        assert_headers(recipe, answer)
        assert_recognised(answer)
        assert_books(recipe, scene)
        records = gateway.records()
    assert_log(recipe, answer, records)
    written = gateway.log.getvalue()
    assert CANARY not in written
    assert scene.key not in written


def assert_bytes(recipe: Recipe, answer: Answer) -> None:
    """Status line and body, byte for byte."""
    assert answer.body == recipe.expected_body(answer.request_id)
    assert answer.status == recipe.status
    assert answer.reason == HTTPStatus(recipe.status).phrase


def assert_headers(recipe: Recipe, answer: Answer) -> None:
    """The headers that this answer has, and no others."""
    expected = {
        "content-type": "application/json; charset=utf-8",
        "content-length": str(len(answer.body)),
        "cf-ray": answer.request_id,
        "x-content-type-options": "nosniff",
        "x-venice-version": "20260821.193530",
        "x-venice-timestamp": "2026-01-01T00:00:00.000Z",
        "x-error-code": recipe.sent_name or recipe.code,
        "x-should-retry": "true" if recipe.should_retry else "false",
    }
    if recipe.reached != "edge":
        expected["x-ratelimit-remaining"] = "20"
        expected["x-ratelimit-resets"] = "+0"
        if recipe.balance is not None:
            expected["x-venice-balance-usd"] = recipe.balance
    if recipe.model is not None:
        expected |= {
            "x-venice-model-id": recipe.model,
            "x-venice-model-name": recipe.model,
            "x-venice-model-router": "traghetto",
        }
    if recipe.reached == "admitted":
        # A request that failed has given its tokens back.
        expected |= {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "+60",
            "x-ratelimit-limit-tokens": "1000000",
            "x-ratelimit-remaining-tokens": "1000000",
            "x-ratelimit-reset-tokens": "60",
        }
    expected |= recipe.headers
    for name, value in expected.items():
        exact = str(NOW + int(value)) if value.startswith("+") else value
        assert (name, answer.headers.get(name)) == (name, exact)
    # Whether the connection goes on depends on how much of an unread body has arrived.
    optional = {"connection"} if recipe.code == "PAYLOAD_TOO_LARGE" else set()
    assert answer.headers.keys() - optional == expected.keys() | EVERYWHERE
    assert len(answer.request_id) == 32


def assert_books(recipe: Recipe, scene: Scene) -> None:
    """The failure was not charged, nothing is held, and the journal agrees."""
    for key in scene.gateway.perform("keys.list")["keys"]:
        spent = "0" if key["kind"] == "ADMIN" else recipe.spent
        assert (key["spent_usd"], key["spent_diem"]) == (spent, "0")
    assert scene.gateway.gateway.book.open_holds == 0
    assert scene.gateway.differences() == []


def assert_log(recipe: Recipe, answer: Answer, records: list[dict[str, object]]) -> None:
    """One record at the published level, or none at all."""
    mine = [record for record in records if record.get("request_id") == answer.request_id]
    if recipe.log is None:
        assert mine == []
        return
    (record,) = mine
    assert record["level"] == recipe.log
    assert record["event"] == "request_failed"
    assert record["code"] == recipe.code
    assert record["endpoint"] == "chat_completions"
    assert record["model"] == recipe.model
    assert record.keys() == {
        "time", "level", "event", "request_id", "code", "endpoint", "model", "causes",
    }  # fmt: skip


def test_every_published_code_is_provoked_or_has_no_endpoint_yet() -> None:
    """The table is total over the 40 published codes, and no row is in two lists."""
    provoked = {recipe.code for recipe in RECIPES} | PROVOKED_ELSEWHERE
    assert provoked & NOT_REACHABLE_YET == set()
    assert (provoked & PUBLISHED.keys()) | NOT_REACHABLE_YET == PUBLISHED.keys()
    assert len(PUBLISHED) == 40
    assert len(NOT_REACHABLE_YET) == 13


def test_every_row_of_the_catalogue_is_provoked_or_listed() -> None:
    """A new code of the product cannot come without a row here."""
    provoked = {recipe.code for recipe in RECIPES} | PROVOKED_ELSEWHERE
    known = {code.name for table in (ErrorCode, Adjunct) for code in table}
    assert known - provoked == NOT_REACHABLE_YET
    assert provoked <= known


def test_no_text_of_the_publication_is_altered() -> None:
    """Rows of published codes carry the published status, text and level."""
    for recipe in RECIPES:
        if recipe.code in PUBLISHED:
            row = PUBLISHED[recipe.code]
            assert (recipe.status, recipe.text, recipe.log) == (
                row.status,
                row.message,
                row.log_level,
            )
