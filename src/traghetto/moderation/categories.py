"""What a classifier's answer means: its categories, as the operator takes them.

The answer is OpenAI's (`POST /v1/moderations`): a list of results, each with `flagged`,
`categories` and `category_scores`. What it says is untrusted, so its names are never repeated
unless somebody we trust wrote them first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from traghetto.settings import MINORS_CATEGORY, ModerationEffect

RESULTS_MAX: Final = 64
CATEGORIES_MAX: Final = 1_000

KNOWN_EFFECTS: Final[Mapping[str, ModerationEffect]] = {
    "harassment": "blocked",
    "harassment/threatening": "blocked",
    "hate": "blocked",
    "hate/threatening": "blocked",
    "illicit": "blocked",
    "illicit/violent": "blocked",
    "self-harm": "blocked",
    "self-harm/instructions": "blocked",
    "self-harm/intent": "blocked",
    "sexual": "adult",
    MINORS_CATEGORY: "minor",
    "violence": "blocked",
    "violence/graphic": "blocked",
}
"""OpenAI's categories and what they mean unless the operator says otherwise."""
UNKNOWN_EFFECT: Final[ModerationEffect] = "blocked"
"""What any other category means."""


class AnswerInvalid(ValueError):
    """An answer that is not one of a classifier; its text holds nothing of the answer."""


class _Result(msgspec.Struct):
    flagged: bool
    categories: Annotated[dict[str, bool | None], Meta(max_length=CATEGORIES_MAX)] = {}
    category_scores: Annotated[dict[str, float | None], Meta(max_length=CATEGORIES_MAX)] = {}


class _Answer(msgspec.Struct):
    results: Annotated[list[_Result], Meta(min_length=1, max_length=RESULTS_MAX)]


_DECODER: Final = msgspec.json.Decoder(_Answer)


class Categories:
    """The operator's reading of the categories of a classifier."""

    def __init__(
        self,
        effects: Mapping[str, ModerationEffect] | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        """`effects` go before `KNOWN_EFFECTS`.

        A category with a threshold is found by its score, 0 to 1, where the classifier gives one.
        """
        self._effects: Final = {**KNOWN_EFFECTS, **(effects or {})}
        self._thresholds: Final = dict(thresholds or {})

    def findings(self, body: bytes) -> dict[str, ModerationEffect]:
        """What was found, by the name of its category; a flag without a category is `flagged`.

        Raises AnswerInvalid for what is no answer of a classifier.
        """
        try:
            answer = _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # The decoder's own text may quote the answer.
            raise AnswerInvalid("the answer is not one of a classifier") from None
        return dict(found for result in answer.results for found in self._found(result))

    def _found(self, result: _Result) -> Iterator[tuple[str, ModerationEffect]]:
        if result.flagged and True not in result.categories.values():
            yield "flagged", UNKNOWN_EFFECT
        for name in result.categories.keys() | result.category_scores.keys():
            if self._is_found(name, result):
                is_known = name in self._effects or name in self._thresholds
                yield (
                    name if is_known else "an unknown category",
                    self._effects.get(name, UNKNOWN_EFFECT),
                )

    def _is_found(self, name: str, result: _Result) -> bool:
        threshold = self._thresholds.get(name)
        score = result.category_scores.get(name)
        if threshold is None or score is None:
            return result.categories.get(name) is True
        return score >= threshold
