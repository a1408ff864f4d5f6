"""Each of the 40 codes is everywhere where codes are, and nothing else is."""

from __future__ import annotations

import re

import pytest

from support.client import PUBLISHED
from support.repository import ROOT
from traghetto.client import exceptions
from traghetto.errors import ErrorCode
from traghetto.guide.coverage import NOT_SERVED_YET
from traghetto.guide.explanations import LANGUAGES, explanation_of
from traghetto.guide.recipes import RECIPES

NOT_SERVED = {
    "X402_INVALID_SIGN_IN",
    "X402_WALLET_MISMATCH",
    "REQUEST_ID_NOT_FOUND",
    "INVALID_AUDIO_FORMAT",
    "INVALID_VIDEO_FORMAT",
    "MEDIA_NOT_FOUND",
    "VIDEO_DURATION_TOO_LONG",
    "VIDEO_DURATION_TOO_SHORT",
    "ASR_UPSTREAM_VALIDATION_FAILED",
    "ASR_UPSTREAM_FAILED",
    "TEE_ATTESTATION_FAILED",
    "TEE_SIGNATURE_FAILED",
    "CHARACTER_NOT_FOUND",
}
"""This list may only become shorter: an endpoint that comes takes its codes out."""


def test_the_codes_are_those_of_the_publication() -> None:
    """40, in their order; those that no endpoint gives yet are known."""
    assert [code.name for code in ErrorCode] == list(PUBLISHED)
    assert len(ErrorCode) == 40
    assert {code.name for code in NOT_SERVED_YET} == NOT_SERVED


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_a_code_has_all_that_a_code_has(code: ErrorCode) -> None:
    """A section in the reference, words in every language, an exception, and a recipe if it can
    be provoked. (That it is raised somewhere, and an answer of some operation, others see to.)"""
    reference = (ROOT / "docs" / "reference" / "errors.md").read_text()
    assert len(re.findall(rf"^### `?{code.name}`?$", reference, re.MULTILINE)) == 1
    for language in LANGUAGES:
        assert explanation_of(code, language).meaning
    classes = [
        member
        for member in vars(exceptions).values()
        if isinstance(member, type) and vars(member).get("published") is code
    ]
    assert len(classes) == 1
    recipes = [recipe for recipe in RECIPES if recipe.code is code]
    assert len(recipes) == (0 if code in NOT_SERVED_YET else 1)
