"""Images through every endpoint: real files in, and what comes out is opened and looked at."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.client import Answer, ask, assert_published, get
from support.configuration import (
    IMAGE_MODELS,
    PRICED_MODEL,
    edit_toml,
    image_toml,
)
from support.gateway import RunningGateway, running_gateway
from support.images import (
    base64_text,
    blank_bomb,
    data_url,
    encoded,
    form,
    opened,
    picture,
    png,
    spread,
    turned,
)

GENERATE = "/api/v1/image/generate"
GENERATIONS = "/api/v1/images/generations"
EDIT = "/api/v1/image/edit"
MULTI_EDIT = "/api/v1/image/multi-edit"
UPSCALE = "/api/v1/image/upscale"
BACKGROUND = "/api/v1/image/background-remove"
STYLES = "/api/v1/image/styles"
HEIF = Path(__file__).parents[1] / "media" / "files" / "corners-320x256.heic"
FORMATS = ["png", "jpeg", "webp", "avif", "heif", "gif"]
PROMPT = "make it grayscale"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with one model for every endpoint; failed requests are not the matter here."""
    with running_gateway(
        tmp_path_factory.mktemp("images"),
        IMAGE_MODELS + PRICED_MODEL,
        failed_requests_max=10_000,
        rate_limits="off",
    ) as running:
        yield running


@pytest.fixture
def key(gateway: RunningGateway) -> str:
    return gateway.new_key()


def made(width: int = 320, height: int = 256, form_: str = "png", mode: str = "RGB") -> bytes:
    """A picture in a format; HEIF is a file that was made once."""
    if form_ == "heif":
        return HEIF.read_bytes()
    return encoded(picture(width, height, mode), form_)


def image_of(answer: Answer, media_type: str = "image/png") -> Image.Image:
    """The image that an answer is, decoded whole."""
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == media_type
    image = opened(answer.body)
    assert image.format is not None
    assert f"image/{image.format.lower()}" == media_type
    return image


def images_in(answer: Answer) -> list[Image.Image]:
    """The images within a JSON answer."""
    assert answer.status == 200, answer.body
    body = answer.json
    if "images" in body:
        return [opened(base64.b64decode(text)) for text in body["images"]]
    texts = [item.get("b64_json") or item["url"].partition(",")[2] for item in body["data"]]
    return [opened(base64.b64decode(text)) for text in texts]


# --- made ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form_", ["jpeg", "png", "webp"])
def test_images_are_generated(gateway: RunningGateway, key: str, form_: str) -> None:
    """In the format, size and number asked for, none blank, and all different."""
    answer = ask(
        gateway,
        key,
        {"model": "painter", "prompt": "a red ferry", "format": form_, "width": 512, "height": 384,
         "variants": 3},
        path=GENERATE,
    )  # fmt: skip
    images = images_in(answer)
    assert [(image.format, image.size) for image in images] == [(form_.upper(), (512, 384))] * 3
    assert all(spread(image) > 40 for image in images)
    assert len(set(answer.json["images"])) == 3
    assert answer.json["id"]
    assert answer.json["timing"].keys() == {
        "inferenceDuration", "inferencePreprocessingTime", "inferenceQueueTime", "total",
    }  # fmt: skip
    assert answer.headers["x-venice-model-id"] == "painter"
    for flag in ("is-blurred", "is-content-violation", "contains-minor"):
        assert answer.headers[f"x-venice-{flag}"] == "false"


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_references_are_bounded_by_their_bytes(
    gateway: RunningGateway, key: str, head: str
) -> None:
    """The last one that is taken, also in lines, and the first one that is not."""
    body = {"model": "painter", "prompt": "a lagoon", "width": 128, "height": 128}
    full = png().ljust(8 << 20, b"\0")

    def asked(text: str) -> Answer:
        reference = {"image": head + text}
        return ask(gateway, key, body | {"style_references": [reference]}, path=GENERATE)

    assert images_in(asked(base64_text(full)))
    assert images_in(asked(base64.encodebytes(full).decode()))
    assert_published(asked(base64_text(full + b"\0")), "PAYLOAD_TOO_LARGE")


def test_a_seed_makes_the_same_image_again(gateway: RunningGateway, key: str) -> None:
    """And another seed another one."""
    body = {"model": "painter", "prompt": "a lagoon", "width": 256, "height": 256, "seed": 7}
    first = ask(gateway, key, body, path=GENERATE).json["images"]
    assert ask(gateway, key, body, path=GENERATE).json["images"] == first
    assert ask(gateway, key, body | {"seed": 8}, path=GENERATE).json["images"] != first


def test_an_image_can_be_the_whole_answer(gateway: RunningGateway, key: str) -> None:
    """`return_binary` answers bytes; without a format they are WebP."""
    body = {"model": "painter", "prompt": "a quay", "return_binary": True, "width": 256}
    image = image_of(ask(gateway, key, body, path=GENERATE), "image/webp")
    assert image.size == (256, 1024)


def test_an_image_tells_how_it_was_made_if_asked(gateway: RunningGateway, key: str) -> None:
    """`embed_exif_metadata` writes the parameters into the file, and nothing else does."""
    body = {"model": "painter", "prompt": "a lock gate", "width": 256, "height": 256, "seed": 3}
    for form_ in ("jpeg", "webp", "png"):
        (plain,) = images_in(ask(gateway, key, body | {"format": form_}, path=GENERATE))
        assert not plain.getexif()
        told = body | {"format": form_, "embed_exif_metadata": True}
        (image,) = images_in(ask(gateway, key, told, path=GENERATE))
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment.startswith(b"UNICODE\0")
        parameters = json.loads(comment[8:].decode("utf-16-be"))
        assert (parameters["prompt"], parameters["seed"]) == ("a lock gate", "3")


def test_references_are_read(gateway: RunningGateway, key: str) -> None:
    """A reference changes the image; a bad one is refused by its own code."""
    body = {"model": "painter", "prompt": "a pier", "width": 256, "height": 256, "seed": 1}
    plain = ask(gateway, key, body, path=GENERATE).json["images"]
    reference = {"image": base64_text(png()), "strength": 0.9}
    styled = ask(gateway, key, body | {"style_references": [reference]}, path=GENERATE)
    assert styled.status == 200
    assert styled.json["images"] != plain
    small = {"image": base64_text(png(63, 100))}
    assert_published(
        ask(gateway, key, body | {"style_references": [small]}, path=GENERATE), "IMAGE_TOO_SMALL"
    )


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_openai_names_work(gateway: RunningGateway, key: str, response_format: str) -> None:
    """An unknown model is the default one; the answer is OpenAI's."""
    body = {"prompt": "a tide", "model": "dall-e-9", "size": "512x512",
            "response_format": response_format}  # fmt: skip
    answer = ask(gateway, key, body, path=GENERATIONS)
    (image,) = images_in(answer)
    assert (image.format, image.size) == ("PNG", (512, 512))
    assert spread(image) > 40
    assert answer.json.keys() == {"created", "data"}
    assert answer.headers["x-venice-model-id"] == "painter"


def test_styles_are_listed_for_anybody(gateway: RunningGateway, key: str) -> None:
    """Every listed style is accepted; the list has the form of the contract."""
    listed = get(gateway, STYLES).json
    assert listed["object"] == "list"
    assert "Anime" in listed["data"]
    body = {"model": "painter", "prompt": "x", "width": 64, "height": 64}
    for style in listed["data"]:
        assert ask(gateway, key, body | {"style_preset": style}, path=GENERATE).status == 200


# --- changed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form_", FORMATS)
@pytest.mark.parametrize("way", ["base64", "data URL", "form"])
def test_an_image_of_every_format_is_edited(
    gateway: RunningGateway, key: str, form_: str, way: str
) -> None:
    """However it is sent: the result is grey, of the same size, and not blank."""
    sent = made(form_=form_)
    answer = send(gateway, key, EDIT, "image", sent, way, prompt=PROMPT)
    image = image_of(answer)
    assert image.size == (320, 256)
    assert spread(image) > 40
    red, green, blue = image.convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert max(red, green, blue) - min(red, green, blue) <= 2
    assert answer.headers["x-venice-is-content-violation"] == "false"


def send(
    gateway: RunningGateway,
    key: str,
    path: str,
    member: str,
    image: bytes,
    way: str,
    **members: Any,
) -> Answer:
    """An image to an endpoint, in one of the ways there are."""
    if way == "form":
        fields = {name: str(value) for name, value in members.items()}
        body, headers = form(fields, [(member, image)])
        return ask(gateway, key, body, path=path, headers=headers)
    text = base64_text(image) if way == "base64" else data_url(image, "image/anything")
    value: Any = [text] if member == "images" else text
    return ask(gateway, key, {member: value, **members}, path=path)


@pytest.mark.parametrize("output_format", ["jpeg", "jpg", "png", "webp"])
def test_an_edit_has_the_format_asked_for(
    gateway: RunningGateway, key: str, output_format: str
) -> None:
    """`jpg` is another name for JPEG."""
    answer = send(
        gateway, key, EDIT, "image", png(), "base64", prompt=PROMPT, output_format=output_format
    )
    image_of(answer, f"image/{output_format.replace('jpg', 'jpeg')}")


def test_an_edit_has_the_proportions_asked_for(gateway: RunningGateway, key: str) -> None:
    """By ratio at the area of the image, or by tier."""
    square = send(gateway, key, EDIT, "image", png(), "form", prompt=PROMPT, aspect_ratio="1:1")
    width, height = image_of(square).size
    assert width == height
    assert abs(width * height - 320 * 256) < 2000
    tier = send(gateway, key, EDIT, "image", png(), "form", prompt=PROMPT, resolution="1K")
    assert abs(image_of(tier).size[0] * image_of(tier).size[1] - 1024**2) < 5000


@pytest.mark.parametrize(
    ("output_format", "width", "most"), [("webp", 16_384, 16_383), ("jpeg", 70_000, 65_500)]
)
def test_an_edit_fits_into_the_format_asked_for(
    gateway: RunningGateway, key: str, output_format: str, width: int, most: int
) -> None:
    """What no file of it can hold is refused before anything is paid for; PNG holds it."""
    before = spent(gateway, key)
    long = encoded(Image.new("P", (width, 64)))
    answer = send(
        gateway, key, EDIT, "image", long, "base64", prompt=PROMPT, output_format=output_format
    )
    assert answer.status == 400
    assert answer.json["issues"] == [
        {
            "code": "custom",
            "path": ["output_format"],
            "message": f"The image would be {width} x 64 pixels, and a side of {output_format} "
            f"has at most {most}",
        }
    ]
    body, headers = form(
        {"prompt": PROMPT, "output_format": output_format}, [("images", long), ("images", png())]
    )
    answer = ask(gateway, key, body, path=MULTI_EDIT, headers=headers)
    assert answer.status == 400
    assert spent(gateway, key) == before
    kept = image_of(send(gateway, key, EDIT, "image", long, "base64", prompt=PROMPT))
    assert kept.size == (width, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_whatever_its_orientation(
    gateway: RunningGateway, key: str, orientation: int
) -> None:
    """The sides of the result are those that a person sees."""
    answer = send(
        gateway, key, EDIT, "image", turned(320, 256, orientation), "base64", prompt="flip it"
    )
    expected = (320, 256) if orientation <= 4 else (256, 320)
    assert image_of(answer).size == expected


@pytest.mark.parametrize(
    "image",
    [
        encoded(picture(mode="CMYK"), "jpeg"),
        encoded(picture(mode="L")),
        encoded(picture(mode="P")),
        encoded(picture(mode="RGBA")),
        encoded(picture(mode="LA")),
        encoded(picture(mode="1")),
        encoded(Image.new("I;16", (320, 256), 30_000)),
        encoded(
            picture(), "webp", save_all=True, append_images=[picture().rotate(90)], duration=100
        ),
        encoded(picture(), "gif", save_all=True, append_images=[picture().rotate(90)]),
        encoded(picture(), "png", save_all=True, append_images=[picture().rotate(90)]),
        encoded(picture(), "jpeg", progressive=True),
    ],
    ids=["CMYK", "grey", "palette", "alpha", "grey with alpha", "bits", "16 bits", "animated WebP",
         "animated GIF", "animated PNG", "progressive"],
)  # fmt: skip
def test_unusual_images_are_taken(gateway: RunningGateway, key: str, image: bytes) -> None:
    """Colour models, depths and the first frame of several."""
    for path, members in ((EDIT, {"prompt": "make it darker"}), (UPSCALE, {})):
        answer = send(gateway, key, path, "image", image, "form", **members)
        assert image_of(answer).size == ((320, 256) if path == EDIT else (640, 512))


def test_several_images_are_combined(gateway: RunningGateway, key: str) -> None:
    """Side by side; every image beyond the first costs what the price list says."""
    before = spent(gateway, key)
    sent = [data_url(png()), base64_text(encoded(picture(256, 256), "webp"))]
    answer = ask(gateway, key, {"images": sent, "prompt": "put them side by side"}, path=MULTI_EDIT)
    assert spread(image_of(answer)) > 40
    assert spent(gateway, key) - before == pytest.approx(0.045)
    body, headers = form({"prompt": PROMPT}, [("images", png()), ("images", png())])
    assert image_of(ask(gateway, key, body, path=MULTI_EDIT, headers=headers))


def spent(gateway: RunningGateway, key: str) -> float:
    """What a key has paid, in USD."""
    keys = gateway.perform("keys.list")["keys"]
    return float(next(row["spent_usd"] for row in keys if row["last_six"] == key[-6:]))


# --- enlarged -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form_", FORMATS)
@pytest.mark.parametrize("way", ["base64", "form"])
def test_an_image_of_every_format_is_enlarged(
    gateway: RunningGateway, key: str, form_: str, way: str
) -> None:
    """Twice the sides, as PNG, and of the same content."""
    answer = send(gateway, key, UPSCALE, "image", made(form_=form_), way)
    image = image_of(answer).convert("RGB")
    assert image.size == (640, 512)
    assert spread(image) > 40


@pytest.mark.parametrize(
    ("scale", "size", "cost"),
    [("2.0", (640, 512), 0.02), ("3", (960, 768), 0.08), ("4", (1280, 1024), 0.08)],
)
def test_the_scale_decides_size_and_price(
    gateway: RunningGateway, key: str, scale: str, size: tuple[int, int], cost: float
) -> None:
    """Up to twice has one price, more another."""
    before = spent(gateway, key)
    answer = send(gateway, key, UPSCALE, "image", png(), "form", scale=scale)
    assert image_of(answer).size == size
    assert spent(gateway, key) - before == pytest.approx(cost)


def test_an_enlargement_is_reduced_to_what_an_answer_may_have(
    gateway: RunningGateway, key: str
) -> None:
    """At most 16,777,216 pixels; an image that is as large already cannot be enlarged."""
    wide = encoded(picture(3000, 2000), "jpeg", quality=60)
    image = image_of(send(gateway, key, UPSCALE, "image", wide, "form", scale="4"))
    assert 16_700_000 < image.width * image.height <= 16_777_216
    full = encoded(picture(4096, 4096), "jpeg", quality=20)
    answer = send(gateway, key, UPSCALE, "image", full, "form", scale="2")
    assert answer.status == 400
    assert answer.json["issues"][0]["path"] == ["image"]


# --- cut out ------------------------------------------------------------------------------------


def product(form_: str = "png") -> bytes:
    """A disc on a plain ground: what is in front is not in doubt."""
    disc = Image.new("L", (320, 256))
    disc.paste(255, (100, 60, 220, 180))
    shot = Image.new("RGB", (320, 256), (225, 228, 230))
    shot.paste(picture(), mask=disc)
    return encoded(shot, form_)


@pytest.mark.parametrize("form_", ["png", "jpeg", "webp", "avif"])
@pytest.mark.parametrize("way", ["base64", "data URL", "form"])
def test_a_background_is_removed(gateway: RunningGateway, key: str, form_: str, way: str) -> None:
    """The corners are transparent, the middle is not."""
    image = image_of(send(gateway, key, BACKGROUND, "image", product(form_), way))
    assert (image.mode, image.size) == ("RGBA", (320, 256))
    alpha = image.getchannel("A")
    assert alpha.getpixel((160, 120)) == 255
    assert [alpha.getpixel(at) for at in ((2, 2), (317, 2), (2, 253), (317, 253))] == [0] * 4


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [EDIT, MULTI_EDIT, UPSCALE])
@pytest.mark.parametrize("way", ["base64", "form"])
@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((256, 256), None),
        ((255, 257), "IMAGE_TOO_SMALL"),
        ((63, 2000), "IMAGE_TOO_SMALL"),
        ((64, 1024), None),
        ((7681, 4320), "IMAGE_TOO_LARGE"),
    ],
)
def test_sizes_at_the_limits(
    gateway: RunningGateway, key: str, path: str, way: str, size: tuple[int, int], code: str | None
) -> None:
    """65,536 pixels, 64 a side and 33,177,600 in all are allowed; one less or more is not."""
    image = blank_bomb(*size) if code == "IMAGE_TOO_LARGE" else png(*size)
    member, members = ("image", {}) if path == UPSCALE else ("image", {"prompt": PROMPT})
    member = "images" if path == MULTI_EDIT else member
    answer = send(gateway, key, path, member, image, way, **members)
    if code is None:
        image_of(answer)
    else:
        assert_published(answer, code)


def test_the_largest_image_is_edited(gateway: RunningGateway, key: str) -> None:
    """7680 x 4320 pixels go through; the classical editor answers with at most 16,777,216."""
    sent = encoded(picture(7680, 4320), "jpeg", quality=30)
    answer = send(gateway, key, EDIT, "image", sent, "form", prompt=PROMPT, output_format="jpeg")
    assert image_of(answer, "image/jpeg").size == (5461, 3072)


@pytest.mark.parametrize("path", [EDIT, MULTI_EDIT, UPSCALE, BACKGROUND])
@pytest.mark.parametrize("way", ["base64", "form"])
@pytest.mark.parametrize(
    "junk",
    [b"", b"junk", png()[:200], png()[:-30], b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
     b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"BM" + b"\0" * 100, b"%PDF-1.7"],
    ids=["empty", "junk", "begun", "cut", "hollow", "SVG", "BMP", "PDF"],
)  # fmt: skip
def test_what_is_no_image_is_corrupted(
    gateway: RunningGateway, key: str, path: str, way: str, junk: bytes
) -> None:
    """Whatever is wrong with it, and wherever it is sent."""
    members = {"prompt": PROMPT} if path in {EDIT, MULTI_EDIT} else {}
    member = "images" if path == MULTI_EDIT else "image"
    answer = send(gateway, key, path, member, junk, way, **members)
    assert_published(answer, "CORRUPTED_IMAGE")


@pytest.mark.parametrize("path", [EDIT, UPSCALE, BACKGROUND])
@pytest.mark.parametrize("way", ["base64", "form"])
def test_a_file_has_a_largest_size(gateway: RunningGateway, key: str, path: str, way: str) -> None:
    """25 MB are taken, a byte more is not; the junk behind the image is not the matter."""
    members = {"prompt": PROMPT} if path == EDIT else {}
    allowed = product().ljust(26_214_400, b"\0")
    answer = send(gateway, key, path, "image", allowed, way, **members)
    assert answer.status == 200, answer.body[:200]
    answer = send(gateway, key, path, "image", allowed + b"\0", way, **members)
    assert_published(answer, "PAYLOAD_TOO_LARGE")


# --- money --------------------------------------------------------------------------------------


def test_variants_cost_as_many_images(gateway: RunningGateway, key: str) -> None:
    """Three images of a cent each; the usage is told by its line."""
    body = {"model": "painter", "prompt": "x", "width": 64, "height": 64, "variants": 3}
    assert ask(gateway, key, body, path=GENERATE).status == 200
    assert spent(gateway, key) == pytest.approx(0.03)
    assert gateway.differences() == []


def test_work_that_is_prepaid_needs_its_price_and_no_floor(gateway: RunningGateway) -> None:
    """Five cents pay for one image of a cent, though no chat would be admitted with them."""
    key = gateway.new_key(account={"usd": "0.05"})
    body = {"model": "painter", "prompt": "x", "width": 64, "height": 64}
    assert ask(gateway, key, body, path=GENERATE).status == 200
    four = body | {"variants": 4}
    assert ask(gateway, key, four, path=GENERATE).status == 200
    assert_published(ask(gateway, key, body, path=GENERATE), "INSUFFICIENT_BALANCE")
    assert gateway.differences() == []


def test_a_repeated_request_is_answered_once(gateway: RunningGateway, key: str) -> None:
    """Also one that was sent as a form: the same bytes come back, and nothing is charged."""
    body, headers = form({"prompt": PROMPT}, [("image", png())])
    named = headers | {"idempotency-key": "edit-1"}
    first = ask(gateway, key, body, path=EDIT, headers=named)
    paid = spent(gateway, key)
    again = ask(gateway, key, body, path=EDIT, headers=named)
    assert image_of(again)
    assert again.body == first.body
    assert again.headers["idempotent-replayed"] == "true"
    assert spent(gateway, key) == paid
    other, _ = form({"prompt": "invert it"}, [("image", png())])
    assert ask(gateway, key, other, path=EDIT, headers=named).status == 400


def test_images_count_as_many_requests(tmp_path: Path) -> None:
    """A limit of four requests a minute is used up by four variants."""
    toml = "[rate_limits.image]\nrequests_per_minute = 4\n" + image_toml("painter")
    with running_gateway(tmp_path, toml) as gateway:
        key = gateway.new_key()
        body = {"model": "painter", "prompt": "x", "width": 64, "height": 64, "variants": 3}
        answer = ask(gateway, key, body, path=GENERATE)
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
        assert_published(ask(gateway, key, body, path=GENERATE), "RATE_LIMIT_EXCEEDED")
        single = body | {"variants": 1}
        assert ask(gateway, key, single, path=GENERATE).status == 200


def test_bills_name_images(gateway: RunningGateway) -> None:
    """The history of an account has a line for each kind of unit, at its price."""
    admin = gateway.new_key(admin=True)
    body = {"model": "painter", "prompt": "x", "width": 64, "height": 64, "variants": 2}
    assert ask(gateway, admin, body, path=GENERATE).status == 200
    (row,) = get(gateway, "/api/v1/billing/usage-history", admin).json["data"]
    assert (row["sku"], row["units"]) == ("painter-image-unit", 2)
    assert row["amount"] == pytest.approx(-0.02)


# --- models -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (GENERATE, {"model": "nobody", "prompt": "x"}, "MODEL_NOT_FOUND"),
        (GENERATE, {"model": "priced", "prompt": "x"}, "INVALID_MODEL"),
        (GENERATE, {"model": "editor", "prompt": "x"}, "INVALID_MODEL"),
        (GENERATIONS, {"model": "priced", "prompt": "x"}, "INVALID_MODEL"),
        (EDIT, {"model": "nobody", "prompt": "x", "image": "x"}, "INVALID_MODEL"),
        (EDIT, {"model": "painter", "prompt": "x", "image": "x"}, "INVALID_MODEL"),
        (EDIT, {"modelId": "cutter", "prompt": "x", "image": "x"}, "INVALID_MODEL"),
        (MULTI_EDIT, {"modelId": "upscaler", "prompt": "x", "images": ["x"]}, "INVALID_MODEL"),
    ],
)
def test_models_that_do_not_suit(
    gateway: RunningGateway, key: str, path: str, body: dict[str, Any], code: str
) -> None:
    """Unknown ids are not found, except where the contract enumerates them."""
    assert_published(ask(gateway, key, body, path=path), code)


def test_an_edit_without_a_model_takes_the_default(tmp_path: Path) -> None:
    """The one that the contract names if there is one, else the one that the operator chose."""
    sent = {"image": base64_text(png()), "prompt": PROMPT}
    toml = edit_toml("first") + edit_toml("second", traits='["default"]')
    with running_gateway(tmp_path, toml) as gateway:
        answer = ask(gateway, gateway.new_key(), sent, path=EDIT)
        assert answer.headers["x-venice-model-id"] == "second"


def test_models_for_images_are_listed(gateway: RunningGateway) -> None:
    """By type, with the constraints and prices that clients read."""
    (listed,) = get(gateway, "/api/v1/models?type=image").json["data"]
    spec = listed["model_spec"]
    assert spec["constraints"]["steps"] == {"default": 8, "max": 50}
    assert spec["pricing"]["generation"] == {"usd": 0.01, "diem": 0.01}
    kinds = {m["id"]: m["type"] for m in get(gateway, "/api/v1/models?type=all").json["data"]}
    assert kinds == {
        "painter": "image", "editor": "inpaint", "upscaler": "upscale", "cutter": "inpaint",
        "priced": "text",
    }  # fmt: skip


def test_images_work_without_configuration(tmp_path: Path) -> None:
    """The first start serves every endpoint for images, for nothing, and says what it is."""
    with running_gateway(tmp_path) as gateway:
        key = gateway.new_key()
        body = {"model": "default", "prompt": "a ferry at dusk"}
        (image,) = images_in(ask(gateway, key, body, path=GENERATE))
        assert image.size == (1024, 1024)
        for path, member, members in (
            (EDIT, "image", {"prompt": PROMPT}),
            (UPSCALE, "image", {}),
            (BACKGROUND, "image", {}),
        ):
            answer = send(gateway, key, path, member, product(), "form", **members)
            assert image_of(answer), path
        assert spent(gateway, key) == 0


def test_blank_pictures_do_nobody_else_harm(gateway: RunningGateway) -> None:
    """A picture without a foreground fails for its sender alone; the remover works on."""
    for shade in range(6):
        blank = encoded(Image.new("RGB", (256, 256), (shade, shade, shade)))
        answer = send(gateway, gateway.new_key(), BACKGROUND, "image", blank, "base64")
        assert_published(answer, "INFERENCE_FAILED")
        assert answer.headers["x-should-retry"] == "false", "it fails again tomorrow"
    assert image_of(send(gateway, gateway.new_key(), BACKGROUND, "image", product(), "form"))


@pytest.mark.parametrize("path", [UPSCALE, BACKGROUND])
def test_a_server_without_a_model_for_it_says_that_no_retry_helps(
    tmp_path: Path, path: str
) -> None:
    """Nobody knows when its operator will configure one."""
    with running_gateway(tmp_path, PRICED_MODEL) as gateway:
        answer = send(gateway, gateway.new_key(), path, "image", png(), "form")
        assert_published(answer, "MODEL_OFFLINE")
        assert answer.headers["x-should-retry"] == "false"


def test_words_that_are_not_understood_are_named(gateway: RunningGateway, key: str) -> None:
    """The caller is told that it was the prompt, and an operator's reason stays here."""
    answer = send(gateway, key, EDIT, "image", png(), "form", prompt="add a dragon")
    assert (answer.status, answer.headers["x-error-code"]) == (400, "INVALID_REQUEST")
    assert answer.json["error"].endswith(f"{answer.request_id}: prompt")
