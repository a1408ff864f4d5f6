"""Requests for images: what they become, and every way in which they are refused."""

from typing import Any

import pytest

from traghetto.errors import ApiError, ErrorCode
from traghetto.wire.images import (
    SourceAt,
    parse_background,
    parse_edit,
    parse_generate,
    parse_generations,
    parse_multi_edit,
    parse_upscale,
)
from traghetto.wire.multipart import Form
from traghetto.wire.sizes import Size, size_for, tier_pixels

FULL = {
    "promptCharacterLimit": 40,
    "steps": {"default": 20, "max": 30},
    "widthHeightDivisor": 16,
    "aspectRatios": ["1:1", "16:9"],
    "defaultAspectRatio": "1:1",
    "resolutions": ["1K", "2K"],
    "defaultResolution": "1K",
    "qualities": ["low", "high"],
    "defaultQuality": "low",
    "maxStyleReferences": 1,
    "supportsStyleReferenceStrength": True,
    "maxInputImages": 3,
}
STYLES = ("Anime",)
GENERATE = {"model": "m", "prompt": "a ferry"}
EDIT = {"image": "aGk=", "prompt": "make it grey"}
MULTI = {"images": ["aGk=", "aGk="], "prompt": "combine"}


def generate(constraints: dict[str, Any] = FULL, **members: Any) -> Any:
    return parse_generate(GENERATE | members, constraints, STYLES)


def issues_of(parse: Any) -> list[tuple[str, str]]:
    """The place and the message of everything that was found."""
    with pytest.raises(ApiError) as caught:
        parse()
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.issues
    return [(".".join(map(str, i["path"])), i["message"]) for i in caught.value.issues]


def test_a_plain_request_has_the_defaults_of_its_model() -> None:
    """Format, size, steps and tiers are those of the contract and of the model's entry."""
    request = generate()
    assert (request.format, request.safe_mode, request.variants) == ("webp", True, 1)
    assert request.size == Size(1024, 1024)
    assert (request.steps, request.resolution, request.quality) == (20, "1K", "low")
    bare = generate(constraints={})
    assert (bare.steps, bare.resolution, bare.quality) == (None, None, None)
    assert bare.seed is None, "an omitted seed is a random one"


@pytest.mark.parametrize(
    ("members", "size"),
    [
        ({"width": 640, "height": 480}, Size(640, 480)),
        ({"width": 640}, Size(640, 1024)),
        ({"aspect_ratio": "16:9"}, Size(1360, 768)),
        ({"aspect_ratio": "16:9", "resolution": "2K"}, Size(2736, 1536)),
        ({"resolution": "2K"}, Size(2048, 2048)),
        ({"width": 64, "height": 64, "aspect_ratio": "1:1"}, Size(1024, 1024)),
    ],
)
def test_sizes(members: dict[str, Any], size: Size) -> None:
    """Proportions and tiers win over sides; all sides are multiples of the model's divisor."""
    assert generate(**members).size == size


def test_a_long_prompt_is_refused_once() -> None:
    """By the schema or by the model, whichever finds it; other prompts have the schema's bound."""
    refused = issues_of(lambda: generate(prompt="x" * 7501))
    assert refused == [("prompt", "String must contain at most 7500 character(s)")]
    refused = issues_of(lambda: parse_generations({"prompt": "x" * 1501}, {}))
    assert refused == [("prompt", "String must contain at most 1500 character(s)")]
    assert generate(negative_prompt="x" * 41).negative_prompt == "x" * 41


@pytest.mark.parametrize(
    ("members", "place", "message"),
    [
        ({"thinking": 1}, "", "Unrecognized key(s) in object: 'thinking'"),
        ({"prompt": ""}, "prompt", "String must contain at least 1 character(s)"),
        ({"prompt": "x" * 41}, "prompt", "String must contain at most 40 character(s)"),
        (
            {"negative_prompt": "x" * 7501},
            "negative_prompt",
            "String must contain at most 7500 character(s)",
        ),
        ({"width": 0}, "width", "Number must be greater than 0"),
        ({"width": 1281}, "width", "Number must be less than or equal to 1280"),
        ({"height": 1000}, "height", "Number must be a multiple of 16"),
        ({"steps": 31}, "steps", "Number must be less than or equal to 30"),
        ({"cfg_scale": 0}, "cfg_scale", "Number must be greater than 0"),
        ({"cfg_scale": 20.1}, "cfg_scale", "Number must be less than or equal to 20"),
        ({"variants": 5}, "variants", "Number must be less than or equal to 4"),
        (
            {"variants": 2, "return_binary": True},
            "variants",
            "variants cannot be combined with return_binary",
        ),
        (
            {"format": "gif"},
            "format",
            "Invalid enum value. Expected 'jpeg' | 'png' | 'webp', received 'gif'",
        ),
        (
            {"aspect_ratio": "4:3"},
            "aspect_ratio",
            "Invalid enum value. Expected '1:1' | '16:9', received '4:3'",
        ),
        (
            {"resolution": "8K"},
            "resolution",
            "Invalid enum value. Expected '1K' | '2K', received '8K'",
        ),
        (
            {"quality": "medium"},
            "quality",
            "Invalid enum value. Expected 'low' | 'high', received 'medium'",
        ),
        (
            {"style_preset": "anime"},
            "style_preset",
            "Invalid enum value. Expected 'Anime', received 'anime'",
        ),
        (
            {"style_references": [{"image": "a"}, {"image": "b"}]},
            "style_references",
            "Array must contain at most 1 element(s)",
        ),
        (
            {"style_references": [{"image": "a", "strength": 2}]},
            "style_references.0.strength",
            "Number must be less than or equal to 1",
        ),
        ({"inpaint": {}}, "inpaint", "inpaint is not supported by this model"),
        (
            {"enable_web_search": True},
            "enable_web_search",
            "enable_web_search is not supported by this model",
        ),
        ({"safe_mode": "yes"}, "safe_mode", "Expected boolean, received string"),
    ],
)
def test_what_a_generation_is_refused_for(
    members: dict[str, Any], place: str, message: str
) -> None:
    """The schema's bounds and the model's, each in the words of the contract."""
    assert (place, message) in issues_of(lambda: generate(**members))


@pytest.mark.parametrize("member", ["aspect_ratio", "resolution", "quality"])
def test_a_model_without_a_choice_says_so(member: str) -> None:
    """The sentence is the contract's own."""
    value = "low" if member == "quality" else "1:1"
    refused = issues_of(lambda: generate(constraints={}, **{member: value}))
    assert refused == [(member, f"This model does not support {member}")]


def test_steps_are_the_callers_the_models_or_the_engines() -> None:
    """In this order; without a word of the model's entry there are at most fifty."""
    assert generate(steps=7).steps == 7
    assert generate().steps == 20
    assert generate(constraints={}, steps=50).steps == 50
    assert generate(constraints={}).steps is None
    assert generate(steps=-3).steps == 1
    assert issues_of(lambda: generate(constraints={}, steps=51))[0][0] == "steps"


def test_every_violation_is_told_at_once() -> None:
    """Those of the schema and those of the model."""
    found = issues_of(lambda: generate(width=0, steps=99, thinking=1))
    assert {place for place, _ in found} == {"width", "steps", ""}


def test_references_are_taken_with_their_strength() -> None:
    """Half of it, unless the request says more; a model that cannot weigh them refuses that."""
    taken = generate(style_references=[{"image": "aGk="}]).references
    assert [(r.image, r.strength) for r in taken] == [
        (SourceAt("aGk=", ("style_references", 0, "image")), 0.5)
    ]
    plain = {"maxStyleReferences": 1}
    one = [{"image": "aGk=", "strength": 0.7}]
    assert issues_of(lambda: generate(constraints=plain, style_references=one)) == [
        ("style_references.0.strength", "This model does not support strength")
    ]
    assert issues_of(lambda: generate(constraints={}, style_references=one))[0] == (
        "style_references",
        "style_references is not supported by this model",
    )


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, (Size(1024, 1024), "png", "b64_json", True)),
        ({"size": "1792x1024"}, (Size(1792, 1024), "png", "b64_json", True)),
        ({"size": "auto", "response_format": "url"}, (Size(1024, 1024), "png", "url", True)),
        (
            {"moderation": "low", "output_format": "jpeg"},
            (Size(1024, 1024), "jpeg", "b64_json", False),
        ),
        (
            {
                "size": None,
                "response_format": None,
                "moderation": None,
                "quality": "hd",
                "user": "u",
            },
            (Size(1024, 1024), "png", "b64_json", True),
        ),
    ],
)
def test_what_openai_names_mean(members: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """Quality, style, background and user are taken, and not acted on."""
    request = parse_generations({"prompt": "a ferry"} | members, {})
    assert (request.size, request.format, request.answer, request.safe_mode) == expected


@pytest.mark.parametrize(
    "members",
    [
        {"prompt": "x" * 1501},
        {"n": 2},
        {"n": 0},
        {"size": "1x1"},
        {"output_compression": 101},
        {"steps": 3},
    ],
)
def test_what_a_generation_of_openai_is_refused_for(members: dict[str, Any]) -> None:
    """Its own bounds are narrower."""
    assert issues_of(lambda: parse_generations({"prompt": "a ferry"} | members, {}))


def test_edits() -> None:
    """Proportions `auto` are those of the image; `jpg` is a name of JPEG."""
    request = parse_edit(EDIT | {"aspect_ratio": "auto", "output_format": "jpg"}, FULL)
    assert (request.aspect_ratio, request.format, request.safe_mode) == (None, "jpeg", True)
    assert request.images == (SourceAt("aGk=", ("image",)),)
    form = parse_edit(Form(image=b"\x89PNG", prompt="grey", safe_mode="false"), FULL)
    assert (form.images[0].source, form.safe_mode) == (b"\x89PNG", False)


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"quality": "low"}, ""),
        ({"prompt": "x" * 32_769}, "prompt"),
        ({"aspect_ratio": "4:5"}, "aspect_ratio"),
        ({"aspect_ratio": "5:4"}, "aspect_ratio"),
        ({"resolution": "9K"}, "resolution"),
        ({"image": 7}, "image"),
        ({"output_format": "gif"}, "output_format"),
    ],
)
def test_what_an_edit_is_refused_for(members: dict[str, Any], place: str) -> None:
    """Also for a quality, which only edits of several images have."""
    assert place in [where for where, _ in issues_of(lambda: parse_edit(EDIT | members, FULL))]


@pytest.mark.parametrize("member", ["prompt", "resolution", "aspect_ratio", "output_format"])
def test_a_file_is_no_text(member: str) -> None:
    """It would pass by everything that looks at texts: lengths, tiers, and forbidden words."""
    for parse, image in ((parse_edit, "image"), (parse_multi_edit, "images")):
        form = Form({image: b"\x89PNG", "prompt": "grey"} | {member: b"1K"})
        assert issues_of(lambda form=form, parse=parse: parse(form, FULL))[0][0] == member  # type: ignore[misc]


def test_edits_of_several_images() -> None:
    """As many as the model combines; a tier of resolution is ignored by a model without any."""
    request = parse_multi_edit(MULTI | {"quality": "high"}, FULL)
    assert [image.path for image in request.images] == [("images", 0), ("images", 1)]
    assert parse_multi_edit(MULTI | {"resolution": "2K"}, {}).resolution is None
    four = {"images": ["a"] * 4, "prompt": "p"}
    assert issues_of(lambda: parse_multi_edit(four, {}))[0][0] == "images"
    assert issues_of(lambda: parse_multi_edit(MULTI, {"combineImages": False}))[0][0] == "images"
    assert issues_of(lambda: parse_multi_edit(MULTI | {"model": "m"}, FULL)) == [
        ("", "Unrecognized key(s) in object: 'model'")
    ]
    assert parse_multi_edit(Form(images=b"1", prompt="p"), FULL).images[0].source == b"1"


def test_enlargements() -> None:
    """The scale is bounded, the creativity cut to its range, and unknown members are ignored."""
    request = parse_upscale({"image": "aGk=", "creativity": 0.5, "enhance": True})
    assert (request.scale, request.creativity) == (2.0, 0.02)
    assert parse_upscale({"image": "a", "creativity": None}).creativity == 0.01
    assert parse_upscale(Form(image=b"x", scale="2.0")).scale == 2.0
    for scale in (1, 1.99, 4.01):
        assert issues_of(lambda scale=scale: parse_upscale({"image": "a", "scale": scale}))  # type: ignore[misc]


def test_a_background_is_removed_from_one_image() -> None:
    """A file or a URL, and never both or none."""
    assert parse_background({"image_url": "https://a.example/x.png"}).image.path == ("image_url",)
    for body in ({}, {"image": "a", "image_url": "https://a.example/x.png"}):
        assert issues_of(lambda body=body: parse_background(body)) == [  # type: ignore[misc]
            ("", "Exactly one of image and image_url is required")
        ]
    assert issues_of(lambda: parse_background({"image_url": "nowhere"})) == [
        ("image_url", "Invalid url")
    ]


def test_large_images_cost_the_schema_nothing() -> None:
    """Thirty megabytes of text are looked at by their beginning only."""
    source = "A" * (30 << 20)
    assert parse_edit(EDIT | {"image": source}, FULL).images[0].source is source


def test_proportions_at_a_tier_keep_its_area() -> None:
    """To within the rounding of the sides."""
    for ratio in ("1:1", "3:2", "16:9", "21:9", "9:16"):
        for tier in ("1K", "2K", "4K"):
            size = size_for(ratio, tier, 8)
            assert abs(size.pixels - tier_pixels(tier)) < 0.02 * tier_pixels(tier)
            assert size.width % 8 == size.height % 8 == 0
