"""Real images for tests, made with Pillow, and the forms that carry them.

A picture has a gradient with a different colour in each corner, so that a test can see that it
was turned, cut or emptied.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

CORNERS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220), "white": (240,) * 3}
"""Top left, top right, bottom left, bottom right."""
BOUNDARY = "a-boundary-of-the-tests"


def picture(width: int = 320, height: int = 256, mode: str = "RGB") -> Image.Image:
    """A gradient between four colours."""
    corners = Image.new("RGB", (2, 2))
    corners.putdata(list(CORNERS.values()))
    image = corners.resize((width, height), Image.Resampling.BILINEAR)
    if mode in {"RGBA", "LA"}:
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize((width, height)))
        return image
    return image.convert(mode)


def encoded(image: Image.Image, form: str = "png", **options: Any) -> bytes:
    """The bytes of an image in a format such as `png` or `avif`."""
    file = io.BytesIO()
    image.save(file, form.upper(), **options)
    return file.getvalue()


def png(width: int = 320, height: int = 256, mode: str = "RGB") -> bytes:
    """A picture as PNG."""
    return encoded(picture(width, height, mode))


def turned(width: int, height: int, orientation: int) -> bytes:
    """A JPEG that is upright only by its EXIF orientation; its sides are those of the pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(width, height), "jpeg", exif=exif, quality=95)


def blank_bomb(width: int, height: int) -> bytes:
    """A PNG of one colour, which is small whatever its size."""
    return encoded(Image.new("L", (width, height)), compress_level=9)


def opened(data: bytes) -> Image.Image:
    """An image decoded whole."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def base64_text(data: bytes) -> str:
    """Plain base64."""
    return base64.b64encode(data).decode()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """A data URL."""
    return f"data:{media_type};base64,{base64_text(data)}"


def spread(image: Image.Image) -> float:
    """How far the brightest and the darkest pixels are apart: 0 for a blank image."""
    low, high = image.convert("L").getextrema()
    return float(high) - float(low)


def form(
    fields: Mapping[str, str], files: Iterable[tuple[str, bytes]]
) -> tuple[bytes, dict[str, str | None]]:
    """A form's body, and the header that goes with it."""
    body = b""
    for name, value in fields.items():
        body += (
            f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        ).encode()
    for name, content in files:
        head = (
            f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"; '
            f'filename="picture"\r\ncontent-type: application/octet-stream\r\n\r\n'
        )
        body += head.encode() + content + b"\r\n"
    body += f"--{BOUNDARY}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
