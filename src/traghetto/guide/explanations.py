"""What each published code means: the texts for those who meet one, in English and Italian.

The texts are data, in `explanations.toml`; a test holds them total, in both languages. They never
repeat what the catalogue says: advice on retries is derived from its rows.
"""

from __future__ import annotations

import tomllib
import typing
from functools import cache
from importlib import resources
from typing import Final, Literal

import msgspec

from traghetto.errors import ApiError, Code, ErrorCode, row_of, says_when

Language = Literal["en", "it"]
LANGUAGES: Final[tuple[Language, ...]] = typing.get_args(Language)

Charged = Literal["never", "sometimes"]


class Explanation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One code in one language; text between backquotes is code."""

    meaning: str
    causes: tuple[str, ...]
    remedy: str
    charge: str
    """What is charged when it happens."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file."""

    charged: Charged
    """Whether an answer or a stream with this code can cost anything."""
    en: Explanation
    it: Explanation


@cache
def entries() -> dict[str, Entry]:
    """The whole file, by the name of the code; read when it is first asked for.

    Raises msgspec.ValidationError for a file that is not of this form.
    """
    text = resources.files("traghetto.guide").joinpath("explanations.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Entry])


def explanation_of(code: ErrorCode, language: Language = "en") -> Explanation:
    """What is to be said about `code` in `language`."""
    entry = entries()[code.name]
    return entry.it if language == "it" else entry.en


def charged(code: ErrorCode) -> Charged:
    """Whether an answer with `code` can cost anything; its explanation says when."""
    return entries()[code.name].charged


class _RetryAdvice(msgspec.Struct, frozen=True):
    """The three things that `x-should-retry` and `Retry-After` can tell a client."""

    never: str
    at_will: str
    after_a_wait: str


_RETRY_ADVICE: Final[dict[Language, _RetryAdvice]] = {
    "en": _RetryAdvice(
        never="no: the same request fails again until something is changed",
        at_will="yes",
        after_a_wait="yes, after the seconds in Retry-After",
    ),
    "it": _RetryAdvice(
        never="no: la stessa richiesta fallisce di nuovo finché non cambia qualcosa",
        at_will="sì",
        after_a_wait="sì, dopo i secondi indicati in Retry-After",
    ),
}


def retry_advice(code: Code, language: Language = "en") -> str:
    """What the row of `code` has the server tell a client about another attempt."""
    advice = _RETRY_ADVICE[language]
    if not row_of(code).should_retry:
        return advice.never
    return advice.after_a_wait if says_when(ApiError(code)) else advice.at_will
