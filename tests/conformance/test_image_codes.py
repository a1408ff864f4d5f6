"""Every error of every endpoint for images, over a socket: its bytes, log and books."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.image_recipes import (
    CANARY,
    FORBIDDEN,
    IMAGE_RECIPES,
    PLACES,
    ImageRecipe,
    Scene,
)
from support.client import PUBLISHED, Answer, assert_recognised
from support.gateway import running_gateway
from traghetto.clock import ManualClock


@pytest.mark.parametrize("recipe", IMAGE_RECIPES, ids=lambda recipe: recipe.name)
def test_code(recipe: ImageRecipe, tmp_path: Path) -> None:
    """The code is provoked for real; its answer is exact, it is logged as published, and free."""
    words = tmp_path / "words.txt"
    words.write_text(f"[blocked]\n{FORBIDDEN}\n")
    with running_gateway(
        tmp_path, recipe.toml(words), clock=ManualClock(), **recipe.settings
    ) as gateway:
        scene = Scene(gateway, recipe.place, "")
        scene.key_of(account={"usd": "10"})
        answer = recipe.provoke(scene)
        assert_answer(recipe, answer)
        assert_recognised(answer)
        mine = gateway.perform("keys.list")["keys"][-1]
        assert (mine["spent_usd"], mine["spent_diem"]) == ("0", "0")
        assert gateway.gateway.book.open_holds == 0
        assert gateway.differences() == []
        records = gateway.records()
    assert_log(recipe, answer, records)
    written = gateway.log.getvalue()
    assert CANARY not in written
    assert FORBIDDEN not in written
    assert scene.key not in written


def assert_answer(recipe: ImageRecipe, answer: Answer) -> None:
    """Status, body and the headers that clients act on."""
    status, body = recipe.expected(answer.request_id)
    assert answer.status == status, answer.body[:300]
    if body is not None:
        assert answer.body == body
    else:
        assert answer.json["error"] == PUBLISHED["INVALID_REQUEST"].message
        assert answer.json["issues"]
        assert answer.json["details"]["_errors"] is not None
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-error-code"] == (recipe.sent_name or recipe.code)
    assert answer.headers["x-should-retry"] == ("true" if recipe.retry else "false")
    if recipe.retry_after:
        assert int(answer.headers["retry-after"]) >= 1
    model = answer.headers.get("x-venice-model-id")
    assert model == (recipe.place.model if recipe.names_model else None)


def assert_log(recipe: ImageRecipe, answer: Answer, records: list[dict[str, object]]) -> None:
    """One record at the published level, or none at all."""
    mine = [record for record in records if record.get("request_id") == answer.request_id]
    row = PUBLISHED.get(recipe.code)
    if row is None or row.log_level is None:
        assert mine == []
        return
    (record,) = mine
    assert (record["level"], record["code"]) == (row.log_level, recipe.code)
    assert record["endpoint"] == recipe.place.endpoint


IMAGE_CODES = {
    "CORRUPTED_IMAGE",
    "IMAGE_TOO_SMALL",
    "IMAGE_TOO_LARGE",
    "UPSCALE_FAILED",
    "IMAGE_EDIT_ERROR",
    "CONTENT_POLICY_VIOLATION",
    "INVALID_MODEL",
    "PAYLOAD_TOO_LARGE",
    "INVALID_CONTENT_TYPE",
}


def test_every_code_of_images_has_a_row() -> None:
    """And every endpoint has rows for the failures that all of them share."""
    assert {recipe.code for recipe in IMAGE_RECIPES} >= IMAGE_CODES
    shared = {
        "INVALID_CONTENT_TYPE", "PAYLOAD_TOO_LARGE", "AUTHENTICATION_FAILED", "PRO_ONLY_MODEL",
        "UNAUTHORIZED", "MODEL_OFFLINE", "INVALID_REQUEST", "INSUFFICIENT_BALANCE",
        "RATE_LIMIT_EXCEEDED", "MODEL_AT_CAPACITY", "MODEL_OVERLOADED",
    }  # fmt: skip
    for place in PLACES:
        assert shared <= {recipe.code for recipe in IMAGE_RECIPES if recipe.place is place}
