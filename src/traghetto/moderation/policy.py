"""The policy: what the operator allows to be asked for and to be shown.

Invariants: `minor` implies `blocked`; a verdict says which list or category matched, never what
matched; where the classifier cannot be asked, the operator's `on_failure` decides, and the log
tells when that begins and ends.
"""

from __future__ import annotations

import asyncio
import functools
import operator
import os
from collections.abc import Mapping, Set
from typing import Final, Literal

import msgspec

from traghetto.moderation.categories import Categories
from traghetto.moderation.classifier import Classifier, PolicyUnavailable
from traghetto.moderation.words import SECTIONS, Section, WordList, read_words
from traghetto.settings import Moderation, ModerationEffect, SettingInvalid
from traghetto.telemetry import log_event

_INLINE_CHARACTERS_MAX: Final = 2_048
"""Longer texts are compared in a thread, so that other requests go on meanwhile."""

Kind = Literal["prompts", "images"]


class Verdict(msgspec.Struct, frozen=True):
    """What a policy says of a prompt or an image; `|` is what it says of several together."""

    blocked: bool = False
    """Forbidden, whatever the caller wants."""
    adult: bool = False
    """Allowed, but not for those who want to be spared."""
    minor: bool = False
    """It sexualises minors, or might; always blocked too."""
    reason: str = ""
    """Which lists and categories matched, in the operator's words; nothing of the text or image."""
    names_minors: bool = False
    """It speaks of minors. That is nothing by itself: a child may play football. Together with
    anything adult, of the same text or of another part of the request, it is `minor`."""

    def __post_init__(self) -> None:
        assert self.blocked or not self.minor, "what is found about minors is blocked"

    def __or__(self, other: Verdict) -> Verdict:
        """The stricter of both in every respect, and what only both together mean."""
        adult = self.adult or other.adult
        names_minors = self.names_minors or other.names_minors
        minor = self.minor or other.minor
        reasons = [*self.reason.split(", "), *other.reason.split(", ")]
        if adult and names_minors and not minor:
            minor = True
            reasons.append("words [minor]")
        return Verdict(
            blocked=self.blocked or other.blocked or minor,
            adult=adult,
            minor=minor,
            reason=", ".join(filter(None, dict.fromkeys(reasons))),
            names_minors=names_minors,
        )


_ALLOWED: Final = Verdict()
_OF_SECTION: Final[Mapping[Section, Verdict]] = {
    "blocked": Verdict(blocked=True, reason="words [blocked]"),
    "adult": Verdict(adult=True, reason="words [adult]"),
    "minor": Verdict(names_minors=True),
}


class Policy:
    """What the operator allows; without words and classifier, everything."""

    def __init__(
        self,
        words: WordList | None = None,
        classifier: Classifier | None = None,
        *,
        judges: Set[Kind] = frozenset({"prompts", "images"}),
        on_failure: Literal["refuse", "allow"] = "refuse",
    ) -> None:
        """`judges` is what the classifier is asked about; words are compared with prompts only."""
        self._words: Final = words
        self._classifier: Final = classifier
        self._prompt_classifier: Final = classifier if "prompts" in judges else None
        self._image_classifier: Final = classifier if "images" in judges else None
        self._on_failure: Final = on_failure
        self._is_failing = False

    @property
    def is_empty(self) -> bool:
        """Whether it allows everything, so that nothing need be asked."""
        return self._words is None and self._classifier is None

    @property
    def judges_images(self) -> bool:
        """Whether it looks at images at all."""
        return self._image_classifier is not None

    async def judge_prompt(self, text: str) -> Verdict:
        """The verdict on a prompt. Raises PolicyUnavailable.

        The classifier is not asked about what a word list forbids already.
        """
        verdict = await self._compared(text)
        if verdict.blocked or self._prompt_classifier is None:
            return verdict
        try:
            found = await self._prompt_classifier.judge_text(text)
        except PolicyUnavailable as failure:
            self._failed(failure)
            return verdict
        self._answered()
        return verdict | _verdict_of(found)

    async def judge_image(self, data: bytes, media_type: str) -> Verdict:
        """The verdict on an encoded image, `image/png` or the like. Raises PolicyUnavailable.

        Only a classifier can see what is in an image; without one everything is allowed.
        """
        if self._image_classifier is None:
            return _ALLOWED
        try:
            found = await self._image_classifier.judge_image(data, media_type)
        except PolicyUnavailable as failure:
            self._failed(failure)
            return _ALLOWED
        self._answered()
        return _verdict_of(found)

    async def aclose(self) -> None:
        """Close connections; the classifier cannot be asked any more."""
        if self._classifier is not None:
            await self._classifier.aclose()

    async def _compared(self, text: str) -> Verdict:
        """What the word list says of a text."""
        if self._words is None:
            return _ALLOWED
        if len(text) <= _INLINE_CHARACTERS_MAX:
            sections = self._words.sections_in(text)
        else:
            sections = await asyncio.to_thread(self._words.sections_in, text)
        found = (_OF_SECTION[section] for section in SECTIONS if section in sections)
        return functools.reduce(operator.or_, found, _ALLOWED)

    def _failed(self, failure: PolicyUnavailable) -> None:
        """Tell the operator once; raises `failure` where unjudged work is refused."""
        if not self._is_failing:
            self._is_failing = True
            self._say("error", "classifier_failing", reason=failure.reason)
        if self._on_failure == "refuse":
            raise failure

    def _answered(self) -> None:
        if self._is_failing:
            self._is_failing = False
            self._say("info", "classifier_answers")

    def _say(self, level: Literal["info", "error"], event: str, **fields: str) -> None:
        assert self._classifier is not None, "only a classifier fails"
        log_event(level, event, url=self._classifier.origin, **fields)


def policy_of(moderation: Moderation, environ: Mapping[str, str] = os.environ) -> Policy:
    """The policy that the settings describe; nothing is contacted.

    Raises SettingInvalid for a variable that is not set or not a key, WordsInvalid (both are
    ValueError) for a word list that cannot be used, and OSError for one that cannot be read.
    """
    words = None if moderation.words_file is None else read_words(moderation.words_file)
    return Policy(
        words,
        _classifier_of(moderation, environ),
        judges=frozenset(moderation.judges),
        on_failure=moderation.on_failure,
    )


def _classifier_of(moderation: Moderation, environ: Mapping[str, str]) -> Classifier | None:
    if moderation.classifier_url is None:
        return None
    key = None
    if moderation.classifier_key_env is not None:
        key = environ.get(moderation.classifier_key_env)
        if key is None:
            raise SettingInvalid(
                ("moderation", "classifier_key_env"),
                f"{moderation.classifier_key_env} is not set: export it, or remove the setting",
            )
    try:
        return Classifier(
            moderation.classifier_url,
            Categories(moderation.categories, moderation.thresholds),
            api_key=key,
            model=moderation.classifier_model,
            seconds_max=moderation.classifier_seconds_max,
        )
    except ValueError as error:
        raise SettingInvalid(("moderation", "classifier_key_env"), str(error)) from None


def _verdict_of(found: Mapping[str, ModerationEffect]) -> Verdict:
    """What the categories that a classifier found mean."""
    effects = set(found.values())
    return Verdict(
        blocked=bool(effects & {"blocked", "minor"}),
        adult="adult" in effects,
        minor="minor" in effects,
        reason=", ".join(sorted(name for name, effect in found.items() if effect != "allow")),
    )
