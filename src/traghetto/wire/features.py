"""What a chat request can ask of a model beyond text, and the limits of media parts (B.1.4).

One table: which capability each feature needs, and the sentence that refuses it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from traghetto.errors import sentences
from traghetto.wire.capabilities import Capabilities
from traghetto.wire.zod import Issue, Path, custom_issue, refusal


@dataclass(frozen=True, slots=True, eq=False)
class Need:
    """The capability that a feature needs; None is what no model is given by this server."""

    capability: str | None
    sentence: str


def _content(kind: str) -> str:
    return sentences.CONTENT_NOT_SUPPORTED.format(kind=kind)


def _parameter(name: str) -> str:
    return sentences.PARAMETER_NOT_SUPPORTED.format(parameter=name)


@enum.unique
class Feature(enum.Enum):
    """What a request uses that a model may lack."""

    VISION = Need("supportsVision", _content("Image"))
    AUDIO = Need("supportsAudioInput", _content("Audio"))
    VIDEO = Need("supportsVideoInput", _content("Video"))
    FILE = Need(None, _content("File"))
    TOOLS = Need("supportsFunctionCalling", _parameter("tools"))
    RESPONSE_SCHEMA = Need("supportsResponseSchema", _parameter("response_format"))
    LOGPROBS = Need("supportsLogProbs", _parameter("logprobs"))
    REASONING_EFFORT = Need("supportsReasoningEffort", _parameter("reasoning_effort"))
    WEB_SEARCH = Need("supportsWebSearch", _parameter("enable_web_search"))
    CHARACTER = Need(None, _parameter("character_slug"))
    WEB_SCRAPING = Need("supportsWebSearch", _parameter("enable_web_scraping"))

    @property
    def sentence(self) -> str:
        """What the client is told where the feature is missing."""
        need: Need = self.value
        return need.sentence

    def is_supported(self, capabilities: Capabilities) -> bool:
        """Whether a model with `capabilities` has the feature."""
        need: Need = self.value
        return need.capability is not None and getattr(capabilities, need.capability)


IMAGES_MAX: Final = 100
"""Images that reach a model in one request, where its entry does not say how many."""


@dataclass(frozen=True, slots=True)
class MediaPart:
    """A kind of media part, and how many of it one message or one whole request may have."""

    feature: Feature
    per_message_max: int | None = None
    per_request_max: int | None = None


MEDIA_PARTS: Final = {
    "image_url": MediaPart(Feature.VISION, per_message_max=10),
    "input_audio": MediaPart(Feature.AUDIO, per_message_max=5),
    "video_url": MediaPart(Feature.VIDEO, per_request_max=3),
    "file": MediaPart(Feature.FILE, per_message_max=5),
}
"""By the `type` of the content part."""


class Parts(msgspec.Struct, frozen=True):
    """How many media parts a request has, by type, and which messages have images."""

    images: int = 0
    audios: int = 0
    videos: int = 0
    files: int = 0
    image_messages: tuple[int, ...] = ()


NO_PARTS: Final = Parts()


def count_parts(messages: list[dict[str, Any]], uses: dict[Feature, Path]) -> Parts:
    """The media parts of valid `messages`; where each kind is first used is noted in `uses`.

    Raises INVALID_REQUEST if a message or the request has more of a kind than the contract lets.
    """
    issues: list[Issue] = []
    totals = dict.fromkeys(MEDIA_PARTS, 0)
    image_messages: list[int] = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if type(content) is not list:
            continue
        here = dict.fromkeys(MEDIA_PARTS, 0)
        for position, part in enumerate(content):
            kind = part["type"]
            if kind in here:
                here[kind] += 1
                uses.setdefault(MEDIA_PARTS[kind].feature, ("messages", index, "content", position))
        if here["image_url"]:
            image_messages.append(index)
        for kind, count in here.items():
            totals[kind] += count
            most = MEDIA_PARTS[kind].per_message_max
            if most is not None and count > most:
                text = sentences.PARTS_PER_MESSAGE.format(bound=most, part=kind)
                issues.append(custom_issue(("messages", index, "content"), text))
    for kind, count in totals.items():
        most = MEDIA_PARTS[kind].per_request_max
        if most is not None and count > most:
            issues.append(too_many(kind, most, ("messages",)))
    if issues:
        raise refusal(issues)
    return Parts(
        images=totals["image_url"],
        audios=totals["input_audio"],
        videos=totals["video_url"],
        files=totals["file"],
        image_messages=tuple(image_messages),
    )


def too_many(kind: str, most: int, path: Path) -> Issue:
    """The issue of a request with more than `most` parts of type `kind`."""
    return custom_issue(path, sentences.PARTS_PER_REQUEST.format(bound=most, part=kind))
