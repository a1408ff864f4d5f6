"""Decoding an image that nobody trusts, into its normal form. Runs in a worker, and only there.

The normal form is one frame, upright, 8 bits per channel, grey, RGB or RGBA, in sRGB. The order is:
what the file says that it is, its size by its own word, its structure, and then its pixels, all of
them: whatever is returned has been decoded whole.

Importing this module does not import Pillow; the first task does.
"""

from __future__ import annotations

import binascii
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from traghetto.media.faults import ImageFault, refusal
from traghetto.media.structure import Admit, Broken, Cut, cut_jpeg, cut_png, cut_webp
from traghetto.wire.image_files import ImageFileFormat, sniff
from traghetto.wire.image_format import SIDE_PIXELS_MAX, ImageFormat
from traghetto.workers.task import Refusal

if TYPE_CHECKING:
    from PIL import Image

ENCODED_BYTES_MAX: Final = 100_663_296
"""An image that had to be encoded anew is not handed on above this size."""
_LARGE_PIXELS: Final = 4_194_304
"""Above it, an opaque picture is handed on as JPEG: a PNG of a photograph would be huge."""
_COLOUR_PROFILE_BYTES_MAX: Final = 1 << 20
_DATA_URL_HEAD_CHARACTERS_MAX: Final = 256
_ORIENTATION: Final = 0x0112
_WHITE_SPACE: Final = b" \t\r\n\f"
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What `read` is given."""

    data: bytes | list[bytes]
    """An image file, or, in pieces, its base64 text."""
    file_bytes_max: int
    side_pixels_min: int
    pixels_min: int
    pixels_max: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What `read` answers."""

    data: bytes | None
    """The normal form, encoded; None where the file that was given is that already."""
    format: ImageFormat
    width: int
    height: int
    has_alpha: bool


def read(payload: dict[str, Any]) -> dict[str, Any]:
    """The task: a `Job` as a dict to an `Answer` as a dict; refuses with an `ImageFault`."""
    job = msgspec.convert(payload, Job)
    data = job.data if isinstance(job.data, bytes) else _from_base64(b"".join(job.data))
    if len(data) > job.file_bytes_max:
        raise refusal(ImageFault.FILE_TOO_LARGE, f"a file of more than {job.file_bytes_max} bytes")

    def admit(width: int, height: int) -> None:
        if min(width, height) < job.side_pixels_min or width * height < job.pixels_min:
            raise refusal(ImageFault.TOO_SMALL, f"{width} x {height} pixels are too few")

    image, encoded = decode(data, pixels_max=job.pixels_max, admit=admit)
    if encoded is not None:
        name = _format_name(encoded)
    else:
        encoded, name = _encode(image)
    is_as_given = isinstance(job.data, bytes) and encoded == job.data
    answer = Answer(
        data=None if is_as_given else encoded,
        format=name,
        width=image.width,
        height=image.height,
        has_alpha=image.mode == "RGBA",
    )
    return msgspec.structs.asdict(answer)


def decode(
    data: bytes, *, pixels_max: int, admit: Admit = lambda *_: None
) -> tuple[Image.Image, bytes | None]:
    """The picture in its normal form, and, where it is in it already, its file cut to the picture.

    `admit` is called with the size before anything is decoded, and may raise. Refuses with an
    ImageFault.
    """

    def check(width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise refusal(ImageFault.UNREADABLE, "an image without pixels")
        if width * height > pixels_max:
            raise refusal(ImageFault.TOO_LARGE, f"{width} x {height} pixels are too many")
        admit(width, height)

    file_format = sniff(data)
    if file_format is None:
        raise refusal(ImageFault.UNREADABLE, "not an image of a format that is read here")
    cut = _cut(file_format, data, check)
    opened = _open(file_format, cut.decodable, pixels_max)
    check(*opened.size)
    with _foreign_code():
        opened.load()  # the first frame
        check(*opened.size)
        image = _normal(opened)
    return image, cut.bare if image is opened else None


def _from_base64(text: bytes) -> bytes:
    """What raw base64 or a data URL holds; the media type of a data URL decides nothing."""
    text = text.lstrip(_WHITE_SPACE)
    if text[:5].lower() == b"data:":
        head, comma, text = text.partition(b",")
        if not comma or len(head) > _DATA_URL_HEAD_CHARACTERS_MAX:
            raise refusal(ImageFault.UNREADABLE, "not a data URL")
        if not head.lower().rstrip(_WHITE_SPACE).endswith(b";base64"):
            raise refusal(ImageFault.UNREADABLE, "a data URL that is not in base64")
    text = text.translate(_URL_SAFE, delete=_WHITE_SPACE)
    text += b"=" * (-len(text) % 4) if not text.endswith(b"=") else b""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise refusal(ImageFault.UNREADABLE, "not base64") from None


def _cut(file_format: ImageFileFormat, data: bytes, admit: Admit) -> Cut:
    try:
        match file_format:
            case ImageFileFormat.PNG:
                return cut_png(data, admit)
            case ImageFileFormat.JPEG:
                return cut_jpeg(data, admit)
            case ImageFileFormat.WEBP:
                return cut_webp(data)
    except Broken as error:
        raise refusal(ImageFault.UNREADABLE, str(error)) from None
    return Cut(decodable=data, bare=None)


def _open(file_format: ImageFileFormat, data: bytes, pixels_max: int) -> Image.Image:
    """The file, its header read; only the decoder of its own format is tried."""
    from PIL import AvifImagePlugin, Image, ImageFile  # noqa: PLC0415 - only workers pay for it

    if file_format is ImageFileFormat.HEIF:
        try:
            import pi_heif  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
        except ImportError:
            reason = "HEIF is read with `pip install 'traghetto[heif]'`"
            raise refusal(ImageFault.UNSUPPORTED_HEIF, reason) from None
        pi_heif.register_heif_opener(
            thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
        )
    Image.MAX_IMAGE_PIXELS = pixels_max
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    warnings.simplefilter("ignore")  # about odd metadata: nobody would see them
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    with _foreign_code():
        return Image.open(io.BytesIO(data), formats=[file_format.value])


@contextmanager
def _foreign_code() -> Iterator[None]:
    """Whatever a decoder raises within means that it cannot read the image."""
    try:
        yield
    except (MemoryError, Refusal):
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise everything
        if type(error).__name__.startswith("DecompressionBomb"):
            raise refusal(ImageFault.TOO_LARGE, "more pixels than are read") from None
        reason = f"the decoder raised {type(error).__name__}"
        raise refusal(ImageFault.UNREADABLE, reason) from None


def _normal(opened: Image.Image) -> Image.Image:
    """The normal form of a decoded image: `opened` itself if it has it."""
    profile = opened.info.get("icc_profile")
    orientation = _orientation(opened)
    # Colours of print are converted by their profile if they can be: the plain formula is poor.
    image = opened if opened.mode == "CMYK" else _eight_bits(opened)
    image = _eight_bits(_in_srgb(image, profile))
    image = _upright(image, orientation)
    image.info.clear()
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a picture with odd notes on it is still a picture
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """As mode L, RGB or RGBA."""
    if image.mode.startswith("I;16"):
        # A transparent shade of grey in 16 bits is not kept: nobody makes such files.
        return image.point(lambda shade: shade * (1 / 256)).convert("L")
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in ("1", "I", "F"):
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _in_srgb(image: Image.Image, profile: object) -> Image.Image:
    """`image` with its colours as its profile means them; itself if that changes nothing.

    A profile that is not understood is dropped, as it is by everybody else.
    """
    if not isinstance(profile, bytes) or not 0 < len(profile) <= _COLOUR_PROFILE_BYTES_MAX:
        return image
    from PIL import ImageCms  # noqa: PLC0415 - rarely needed

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != image.mode.removesuffix("A"):
            return image
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        target = ImageCms.createProfile("sRGB")
        mode = "RGB" if image.mode == "CMYK" else image.mode
        converted = ImageCms.profileToProfile(image, source, target, outputMode=mode)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - profiles are broken in more ways than images
        return image
    return converted or image


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    from PIL.Image import Transpose  # noqa: PLC0415 - only workers pay for it

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation)
    return image if turn is None else image.transpose(turn)


def _encode(image: Image.Image) -> tuple[bytes, ImageFormat]:
    """For the next one in line, who may not read what we read: fast, and as good as lossless."""
    target = io.BytesIO()
    fits_jpeg = image.mode != "RGBA" and max(image.size) <= SIDE_PIXELS_MAX["jpeg"]
    if fits_jpeg and image.width * image.height > _LARGE_PIXELS:
        image.save(target, "JPEG", quality=95, subsampling=0)
        return target.getvalue(), "jpeg"
    image.save(target, "PNG", compress_level=1)
    if target.tell() > ENCODED_BYTES_MAX:
        raise refusal(ImageFault.FILE_TOO_LARGE, "too large in a format that backends read")
    return target.getvalue(), "png"


def _format_name(data: bytes) -> ImageFormat:
    """What a file that is in the normal form already is called."""
    file_format = sniff(data)
    assert file_format is not None
    return cast("ImageFormat", file_format.value.lower())
