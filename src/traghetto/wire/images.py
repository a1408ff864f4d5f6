"""Requests for images as values: parsed once, then trusted (contract B.5).

A model's own limits (`constraints` of its listing) are checked beside the published schema, and
every violation is told at once. Images in a request are sources here, text or bytes: reading them
comes later. Invariant: no text of a request is longer than its schema says, apart from sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from traghetto.errors import sentences
from traghetto.wire.image_format import ImageFormat
from traghetto.wire.multipart import typed, without_contents
from traghetto.wire.schema import validator_for
from traghetto.wire.sizes import SIDE_PIXELS_DEFAULT, Size, size_for
from traghetto.wire.zod import Issue, Path, custom_issue, issues_of, refusal

Quality = Literal["low", "medium", "high"]
Source = str | bytes
"""An image as it was sent: the bytes of a file, or text that is a URL, a data URL or base64."""
Constraints = Mapping[str, Any]

VARIANTS_MAX: Final = 4
EDIT_IMAGES_MAX: Final = 3
"""Images of one edit, unless the model's entry says otherwise."""
CREATIVITY_DEFAULT: Final = 0.01
CREATIVITY_MAX: Final = 0.02
_FILES: Final = frozenset({"image", "images"})
"""Where a form may have a file; everything else of it is text."""
USUAL_CONSTRAINTS: Final[Mapping[str, Constraints]] = {
    "image": {
        "promptCharacterLimit": 7500,
        "steps": {"default": 20, "max": 50},
        "widthHeightDivisor": 1,
    },
    "inpaint": {"promptCharacterLimit": 32_768},
}
"""By type: what holds of a model unless its entry says otherwise; strict clients need them."""
_SIZES: Final[Mapping[str, Size]] = {
    name: Size(*map(int, name.split("x")))
    for name in (
        "256x256",
        "512x512",
        "1024x1024",
        "1536x1024",
        "1024x1536",
        "1792x1024",
        "1024x1792",
    )
}


class SourceAt(msgspec.Struct, frozen=True):
    """An image of a request, and where in the body it stands."""

    source: Source
    path: Path

    def __repr__(self) -> str:
        """Without the image."""
        return f"SourceAt({self.path})"


class StyleReference(msgspec.Struct, frozen=True):
    """An image whose style is to be followed, with that much of it."""

    image: SourceAt
    strength: float


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request for images of a description."""

    prompt: str
    negative_prompt: str = ""
    size: Size
    resolution: str | None = None
    quality: Quality | None = None
    variants: int = 1
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    style: str | None = None
    references: tuple[StyleReference, ...] = ()
    format: ImageFormat
    safe_mode: bool = True
    enhance: bool = False
    with_metadata: bool = False
    answer: Literal["images", "binary", "b64_json", "url"]
    """The form of the answer; the last two are those of OpenAI."""


class EditRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request to change images."""

    prompt: str
    images: tuple[SourceAt, ...]
    aspect_ratio: str | None = None
    """None keeps that of the first image."""
    resolution: str | None = None
    """The tier wanted; None keeps the size of the first image."""
    priced_resolution: str | None = None
    """The tier that it is priced by; None for a model without tiers."""
    quality: Quality | None = None
    format: ImageFormat
    safe_mode: bool = True
    enhance: bool = False


class UpscaleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request to enlarge an image."""

    image: SourceAt
    scale: float
    creativity: float


class BackgroundRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request to cut out the foreground of an image."""

    image: SourceAt


def parse_generate(
    body: dict[str, Any], constraints: Constraints, styles: Sequence[str]
) -> GenerateRequest:
    """The body of `POST /image/generate` for a model with `constraints`.

    Raises ApiError: INVALID_REQUEST with every violation.
    """
    issues = _schema_issues("GenerateImageRequest", body)
    check = _Check(body, constraints, issues)
    check.prompt_length()
    check.listed("aspect_ratio", "aspectRatios")
    check.listed("resolution", "resolutions")
    check.listed("quality", "qualities")
    check.steps()
    check.divisible("width", "height")
    check.references()
    style = body.get("style_preset")
    if isinstance(style, str) and style not in styles:
        check.add(_not_listed(("style_preset",), styles, style))
    if body.get("inpaint") is not None:
        check.add_unsupported("inpaint")
    if body.get("enable_web_search") is True:
        check.add_unsupported("enable_web_search")
    if body.get("return_binary") is True and body.get("variants", 1) != 1:
        text = sentences.NOT_TOGETHER.format(parameter="variants", other="return_binary")
        check.add(custom_issue(("variants",), text))
    check.refuse()
    return GenerateRequest(
        prompt=body["prompt"],
        negative_prompt=body.get("negative_prompt", ""),
        size=_size(body, constraints),
        resolution=check.chosen("resolution", "resolutions", "defaultResolution"),
        quality=check.chosen("quality", "qualities", "defaultQuality"),
        variants=int(body.get("variants", 1)),
        seed=None if body.get("seed") is None else int(body["seed"]),
        steps=check.effective_steps(),
        guidance=body.get("cfg_scale"),
        style=style,
        references=tuple(
            StyleReference(
                SourceAt(reference["image"], ("style_references", index, "image")),
                reference.get("strength", 0.5),
            )
            for index, reference in enumerate(body.get("style_references", ()))
        ),
        format=body.get("format", "webp"),
        safe_mode=body.get("safe_mode", True),
        enhance=body.get("enhance_prompt", False),
        with_metadata=body.get("embed_exif_metadata", False),
        answer="binary" if body.get("return_binary") else "images",
    )


def parse_generations(body: dict[str, Any], constraints: Constraints) -> GenerateRequest:
    """The body of `POST /images/generations`: quality, style and background are not acted on.

    Raises ApiError: INVALID_REQUEST with every violation.
    """
    issues = _schema_issues("SimpleGenerateImageRequest", body)
    check = _Check(body, constraints, issues)
    check.prompt_length()
    check.refuse()
    size = _SIZES.get(body.get("size") or "auto")
    divisor = _divisor(constraints)
    return GenerateRequest(
        prompt=body["prompt"],
        size=_size({}, constraints) if size is None else size.multiple_of(divisor),
        resolution=check.chosen("", "resolutions", "defaultResolution"),
        quality=check.chosen("", "qualities", "defaultQuality"),
        steps=check.effective_steps(),
        format=body.get("output_format", "png"),
        safe_mode=body.get("moderation") != "low",
        answer=body.get("response_format") or "b64_json",
    )


def parse_edit(body: dict[str, Any], constraints: Constraints) -> EditRequest:
    """The body of `POST /image/edit`, JSON or form, for a model with `constraints`.

    Raises ApiError: INVALID_REQUEST with every violation.
    """
    body = _known_format(_typed("EditImageRequest", body))
    check = _Check(body, constraints, _schema_issues("EditImageRequest", body))
    check.listed("resolution", "resolutions")
    return _edit(body, check, images=[SourceAt(body.get("image", ""), ("image",))])


def parse_multi_edit(body: dict[str, Any], constraints: Constraints) -> EditRequest:
    """The body of `POST /image/multi-edit`, JSON or form, for a model with `constraints`.

    A resolution is ignored by a model that has none. Raises ApiError: INVALID_REQUEST with every
    violation.
    """
    body = _known_format(_typed("MultiEditImageRequest", body))
    issues = _schema_issues("MultiEditImageRequest", body)
    check = _Check(body, constraints, issues)
    if constraints.get("resolutions"):
        check.listed("resolution", "resolutions")
    check.listed("quality", "qualities")
    images = body.get("images")
    sources = images if isinstance(images, list) else []
    most = 1 if constraints.get("combineImages") is False else _input_images_max(constraints)
    if len(sources) > most:
        check.add(_too_big(("images",), "array", most, sentences.ARRAY_TOO_LONG))
    return _edit(
        body,
        check,
        images=[SourceAt(source, ("images", index)) for index, source in enumerate(sources)],
    )


def parse_upscale(body: dict[str, Any]) -> UpscaleRequest:
    """The body of `POST /image/upscale`, JSON or form; unknown members are ignored.

    Raises ApiError: INVALID_REQUEST with every violation.
    """
    body = _typed("UpscaleImageRequest", body)
    if issues := _schema_issues("UpscaleImageRequest", body):
        raise refusal(issues)
    creativity = body.get("creativity")
    return UpscaleRequest(
        image=SourceAt(body["image"], ("image",)),
        scale=float(body.get("scale", 2)),
        creativity=min(
            max(CREATIVITY_DEFAULT if creativity is None else float(creativity), 0.0),
            CREATIVITY_MAX,
        ),
    )


def parse_background(body: dict[str, Any]) -> BackgroundRequest:
    """The body of `POST /image/background-remove`, JSON or form.

    Raises ApiError: INVALID_REQUEST with every violation.
    """
    issues = _schema_issues("BackgroundRemoveImageRequest", body)
    if ("image" in body) == ("image_url" in body):
        text = sentences.EXACTLY_ONE_OF.format(first="image", second="image_url")
        issues.append(custom_issue((), text))
    if issues:
        raise refusal(issues)
    member = "image" if "image" in body else "image_url"
    return BackgroundRequest(image=SourceAt(body[member], (member,)))


def _edit(body: dict[str, Any], check: _Check, *, images: Sequence[SourceAt]) -> EditRequest:
    check.prompt_length()
    if body.get("aspect_ratio") != "auto":
        check.listed("aspect_ratio", "aspectRatios")
    check.refuse()
    aspect_ratio = body.get("aspect_ratio")
    return EditRequest(
        prompt=body["prompt"],
        images=tuple(images),
        aspect_ratio=None if aspect_ratio == "auto" else aspect_ratio,
        resolution=body.get("resolution") if check.has("resolutions") else None,
        priced_resolution=check.chosen("resolution", "resolutions", "defaultResolution"),
        quality=check.chosen("quality", "qualities", "defaultQuality"),
        format=body.get("output_format", "png"),
        safe_mode=body.get("safe_mode", True),
        enhance=body.get("enhance_prompt", False),
    )


class _Check:
    """The limits that a model sets, on top of the schema; collects what they are violated by."""

    def __init__(self, body: dict[str, Any], constraints: Constraints, issues: list[Issue]) -> None:
        self._body = body
        self._constraints = constraints
        self._issues = issues

    def add(self, issue: Issue) -> None:
        """Note a violation."""
        self._issues.append(issue)

    def add_unsupported(self, parameter: str) -> None:
        """Note a parameter that the model does not have."""
        text = sentences.PARAMETER_NOT_SUPPORTED.format(parameter=parameter)
        self.add(custom_issue((parameter,), text))

    def refuse(self) -> None:
        """Raise INVALID_REQUEST if there are violations."""
        if self._issues:
            raise refusal(self._issues)

    def prompt_length(self) -> None:
        """The prompt has at most as many characters as the model takes; one that is too long for
        the schema is not refused twice."""
        most = self._constraints.get("promptCharacterLimit")
        text = self._body.get("prompt")
        is_refused = any(issue["path"] == ["prompt"] for issue in self._issues)
        if isinstance(most, int) and isinstance(text, str) and len(text) > most and not is_refused:
            self.add(_too_big(("prompt",), "string", most, sentences.STRING_TOO_LONG))

    def listed(self, member: str, constraint: str) -> None:
        """The member is one of those that the model lists."""
        value = self._body.get(member)
        if not isinstance(value, str):
            return
        options = self._constraints.get(constraint)
        if not options:
            text = sentences.MODEL_LACKS.format(parameter=member)
            self.add(custom_issue((member,), text))
        elif value not in options:
            self.add(_not_listed((member,), options, value))

    def has(self, constraint: str) -> bool:
        """Whether the model has such a choice."""
        return bool(self._constraints.get(constraint))

    def chosen(self, member: str, constraint: str, default: str) -> Any:
        """What was asked for, else the model's default; None for a model without a choice."""
        options = self._constraints.get(constraint)
        if not options:
            return None
        return self._body.get(member) or self._constraints.get(default) or options[0]

    def steps(self) -> None:
        """Not more steps than the model makes."""
        steps = self._body.get("steps")
        usual = USUAL_CONSTRAINTS["image"]["steps"]
        most = self._constraints.get("steps", usual).get("max")
        if isinstance(most, int) and isinstance(steps, int | float) and steps > most:
            self.add(_too_big(("steps",), "number", most, sentences.NUMBER_TOO_BIG))

    def effective_steps(self) -> int | None:
        """The steps to make; None leaves them to the engine, where neither says how many."""
        steps = self._body.get("steps", self._constraints.get("steps", {}).get("default"))
        return None if steps is None else max(1, int(steps))

    def divisible(self, *members: str) -> None:
        """Sides are multiples of what the model works in."""
        divisor = _divisor(self._constraints)
        for member in members:
            side = self._body.get(member)
            if isinstance(side, int | float) and side % divisor:
                self.add(
                    {
                        "code": "not_multiple_of",
                        "multipleOf": divisor,
                        "path": [member],
                        "message": sentences.NUMBER_NOT_A_MULTIPLE.format(step=divisor),
                    }
                )

    def references(self) -> None:
        """Not more style references than the model takes, and no strength it cannot apply."""
        references = self._body.get("style_references")
        if not isinstance(references, list) or not references:
            return
        most = self._constraints.get("maxStyleReferences", 0)
        if not most:
            self.add_unsupported("style_references")
        elif len(references) > most:
            self.add(_too_big(("style_references",), "array", most, sentences.ARRAY_TOO_LONG))
        elif not self._constraints.get("supportsStyleReferenceStrength"):
            text = sentences.MODEL_LACKS.format(parameter="strength")
            for index, reference in enumerate(references):
                if isinstance(reference, dict) and "strength" in reference:
                    self.add(custom_issue(("style_references", index, "strength"), text))


def _schema_issues(name: str, body: dict[str, Any]) -> list[Issue]:
    """What the published schema finds wrong with a body, its images apart."""
    validator = validator_for(name)
    light = without_contents(body, _FILES)
    return [] if validator.is_valid(light) else issues_of(validator, light)


def _typed(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """`body`, with the types of its schema if it is a form."""
    return typed(body, validator_for(name).document)


def _known_format(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "output_format": "jpeg"} if body.get("output_format") == "jpg" else body


def _size(body: dict[str, Any], constraints: Constraints) -> Size:
    """The size asked for: by proportions and tier where there are some, else by its sides."""
    divisor = _divisor(constraints)
    resolution = body.get("resolution") or constraints.get("defaultResolution")
    ratio = body.get("aspect_ratio")
    if ratio is None and "width" not in body and "height" not in body:
        ratio = constraints.get("defaultAspectRatio")
    if ratio is None and "resolution" not in body:
        width = int(body.get("width", SIDE_PIXELS_DEFAULT))
        height = int(body.get("height", SIDE_PIXELS_DEFAULT))
        return Size(width, height)
    return size_for(ratio, resolution, divisor)


def _divisor(constraints: Constraints) -> int:
    divisor = constraints.get("widthHeightDivisor", 1)
    return divisor if isinstance(divisor, int) and divisor > 0 else 1


def _input_images_max(constraints: Constraints) -> int:
    return int(constraints.get("maxInputImages", EDIT_IMAGES_MAX))


def _not_listed(path: Path, options: Sequence[str], received: str) -> Issue:
    expected = " | ".join(f"'{option}'" for option in options)
    short = received[: sentences.ECHO_CHARACTERS_MAX]
    return {
        "code": "invalid_enum_value",
        "options": list(options),
        "received": short,
        "path": list(path),
        "message": sentences.NOT_IN_ENUM.format(expected=expected, received=short),
    }


def _too_big(path: Path, kind: str, most: int, sentence: str) -> Issue:
    return {
        "code": "too_big",
        "type": kind,
        "maximum": most,
        "inclusive": True,
        "exact": False,
        "path": list(path),
        "message": sentence.format(bound=most),
    }
