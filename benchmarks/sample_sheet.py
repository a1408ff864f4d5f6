"""Draws what every built-in image engine makes on one sheet, for eyes: sample_sheet.py SHEET.png

Runs the tasks of the engines in this process. Without a picture of its own (--picture) it uses a
painted landscape. It also says how many megapixels a second each engine makes on one core.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.scenes import picture, products
from traghetto.engines.image_protocols import BackgroundCall, EditCall, UpscaleCall
from traghetto.engines.imaging import editing, rendering, upscaling
from traghetto.engines.imaging.extras import is_available

TILE = 320
COLUMNS = 6
PROMPTS = (
    "a gondola on a calm lagoon at sunset",
    "snowy mountains in the morning",
    "a cyberpunk city at night, neon",
    "misty pine forest under a teal sky",
    "desert dunes",
    "a field of red tulips",
    "a purple galaxy and planets",
    "portrait of an old man with a green hat",
    "autumn hills with a golden sun",
    "a red sports car",
    "ocean waves, orange boat",
    "a quiet idea",
)
EDITS = (
    "grayscale",
    "sepia",
    "invert",
    "brighter",
    "darker",
    "more contrast",
    "more vibrant",
    "warmer",
    "cooler",
    "tint it blue",
    "blur",
    "sharpen",
    "pixelate",
    "posterize",
    "solarize",
    "pencil sketch",
    "edges",
    "emboss",
    "vignette",
    "film grain",
    "add a gold border",
    "mirror",
    "rotate 90 degrees",
    "crop to square",
)


class Sheet:
    """Tiles with a line of text each, in rows."""

    def __init__(self) -> None:
        self._tiles: list[tuple[str, Image.Image]] = []

    def add(self, text: str, image: Image.Image) -> None:
        """One more tile; transparency is shown on a chequered ground."""
        tile = Image.new("RGB", (TILE, TILE), (24, 26, 30))
        fitted = image.copy()
        fitted.thumbnail((TILE, TILE))
        ground = Image.new("RGB", fitted.size, (255, 255, 255))
        for top in range(0, fitted.height, 16):
            for left in range(top % 32, fitted.width, 32):
                ground.paste((190, 80, 190), (left, top, left + 16, top + 16))
        ground.paste(fitted, mask=fitted.getchannel("A") if fitted.mode == "RGBA" else None)
        tile.paste(ground, ((TILE - fitted.width) // 2, (TILE - fitted.height) // 2))
        self._tiles.append((text, tile))

    def save(self, path: Path) -> None:
        rows = -(-len(self._tiles) // COLUMNS)
        high = TILE + 26
        sheet = Image.new("RGB", (COLUMNS * (TILE + 8), rows * high), (60, 62, 68))
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
        for index, (text, tile) in enumerate(self._tiles):
            row, column = divmod(index, COLUMNS)
            sheet.paste(tile, (column * (TILE + 8), row * high + 22))
            pen.text((column * (TILE + 8) + 4, row * high + 3), text, font=font, fill="white")
        sheet.save(path)


def made(task: Callable[[Any], bytes], payload: Any) -> tuple[Image.Image, float]:
    """The image that `task` makes, and the seconds of processor time it took."""
    plain = msgspec.to_builtins(payload, builtin_types=(bytes,))
    begin = time.process_time()
    data = task(plain)
    spent = time.process_time() - begin
    return Image.open(io.BytesIO(data)), spent


def draw(sheet: Sheet, source: Image.Image) -> dict[str, tuple[float, float]]:
    """Fill the sheet; returns megapixels and seconds by engine."""
    totals: dict[str, tuple[float, float]] = {}

    def count(engine: str, image: Image.Image, seconds: float) -> None:
        pixels, spent = totals.get(engine, (0.0, 0.0))
        totals[engine] = (pixels + image.width * image.height / 1e6, spent + seconds)

    for prompt in PROMPTS:
        wanted = rendering.Rendering(prompt=prompt, width=1024, height=1024, seed=7)
        image, seconds = made(rendering.render, wanted)
        count("render, PNG", image, seconds)
        sheet.add(prompt, image)
    given = picture(source)
    sheet.add("the source of the edits", source)
    for prompt in EDITS:
        call = EditCall(request_id="sheet", prompt=prompt, pictures=(given,))
        image, seconds = made(editing.edit, call)
        count("edit, PNG", image, seconds)
        sheet.add(prompt, image)
    others = [picture(source.rotate(90 * turn, expand=True)) for turn in range(4)]
    for prompt, number in (("side by side", 2), ("stack", 2), ("grid", 4), ("overlay", 2)):
        call = EditCall(request_id="sheet", prompt=prompt, pictures=tuple(others[:number]))
        sheet.add(f"{number} pictures: {prompt}", made(editing.edit, call)[0])
    _upscaled(sheet, source, count)
    if is_available("vision"):
        from traghetto.engines.imaging import cutout  # noqa: PLC0415 - an extra

        for name, scene in products(1200, 1000).items():
            cut = BackgroundCall(request_id="sheet", picture=picture(scene.image))
            image, seconds = made(cutout.cut_out, cut)
            count("cut out, PNG", image, seconds)
            sheet.add(f"cut out: {name}", image)
    return totals


def _upscaled(
    sheet: Sheet, source: Image.Image, count: Callable[[str, Image.Image, float], None]
) -> None:
    """A detail four times as large, beside what simpler filters make of it."""
    small = source.resize((source.width // 4, source.height // 4), Image.Resampling.BOX)
    detail = (300, 200, 300 + TILE, 200 + TILE)
    for text, filtered in (
        ("4x by neighbours", Image.Resampling.NEAREST),
        ("4x by Lanczos", Image.Resampling.LANCZOS),
    ):
        sheet.add(text, small.resize((small.width * 4, small.height * 4), filtered).crop(detail))
    for creativity in (0.0, 0.02):
        call = UpscaleCall(
            request_id="sheet",
            picture=picture(small),
            width=small.width * 4,
            height=small.height * 4,
            creativity=creativity,
        )
        sheet.add(
            f"4x by us, creativity {creativity}", made(upscaling.upscale, call)[0].crop(detail)
        )
    sheet.add("the original", source.crop(detail))
    large = picture(source.resize((1024, 1024), Image.Resampling.LANCZOS))
    for image_format in ("png", "jpeg", "webp"):
        call = UpscaleCall(
            request_id="sheet", picture=large, width=4096, height=4096, format=image_format
        )
        image, seconds = made(upscaling.upscale, call)
        count(f"upscale to 16.8 megapixels, {image_format.upper()}", image, seconds)


def painted() -> Image.Image:
    """A landscape with structure of all scales; nothing of anybody's is in it."""
    wanted = rendering.Rendering(prompt="autumn forest", width=1024, height=1100, seed=11, steps=50)
    return rendering.draw(wanted).crop((0, 200, 1024, 968))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sheet", type=Path, help="where the sheet goes, a .png")
    parser.add_argument("--picture", type=Path, help="the picture that is edited and enlarged")
    arguments = parser.parse_args()
    if arguments.picture:
        with Image.open(arguments.picture) as opened:
            source = opened.convert("RGB")
    else:
        source = painted()
    sheet = Sheet()
    for engine, (megapixels, seconds) in draw(sheet, source).items():
        print(f"{engine:34} {megapixels / seconds:6.1f} megapixels/s")
    sheet.save(arguments.sheet)


if __name__ == "__main__":
    main()
