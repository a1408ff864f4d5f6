"""Networks from .onnx files: exact numbers, no seams, and words for files that are of no use."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from support.onnx_files import (
    ANY,
    BYTE,
    HALF,
    LONG,
    enlarger,
    expected,
    matting,
    single,
    two_inputs,
)
from support.pixels import decoded, deviation, done, largest_difference, psnr
from support.scenes import photograph, picture
from support.task_process import TaskProcesses
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import BackgroundCall, UpscaleCall
from traghetto.engines.imaging import matting as matting_task
from traghetto.engines.imaging import onnx_backends, superresolution
from traghetto.engines.imaging.networks import NetworkFile, network
from traghetto.engines.imaging.onnx_backends import NetworkRefused, OnnxMatting, OnnxUpscaler
from traghetto.engines.imaging.tiles import spans
from traghetto.workers.limits import WorkerLimits
from traghetto.workers.pool import Workers
from traghetto.workers.task import Refusal

UPSCALE = UpscaleCall(request_id="r", picture=picture(photograph(64)), width=128, height=128)


def upscaled(path: Path, image: Image.Image, width: int, height: int) -> Image.Image:
    call = UpscaleCall(request_id="r", picture=picture(image), width=width, height=height)
    task = superresolution.Upscaling(NetworkFile(str(path)), call)
    return decoded(done(superresolution.upscale, task))


def cut(path: Path, image: Image.Image, **options: tuple[float, ...]) -> Image.Image:
    call = BackgroundCall(request_id="r", picture=picture(image))
    task = matting_task.Matting(NetworkFile(str(path), **options), call)
    return decoded(done(matting_task.cut_out, task))


@pytest.mark.parametrize(
    ("channels", "factor", "mode"), [(3, 2, "RGB"), (3, 4, "RGB"), (1, 2, "L"), (1, 3, "L")]
)
def test_answers_are_those_of_the_network(
    tmp_path: Path, channels: int, factor: int, mode: str
) -> None:
    """Level for level what numpy computes; the factor is found out by trying."""
    path = enlarger(tmp_path / "net.onnx", channels=channels, factor=factor)
    assert done(superresolution.inspect, NetworkFile(str(path))) == factor
    image = photograph(64).convert(mode)
    large = upscaled(path, image, 64 * factor, 64 * factor)
    pixels = np.asarray(image).reshape(64, 64, channels)
    reference = Image.fromarray(np.squeeze(expected(pixels, factor)))
    assert large.mode == mode
    assert largest_difference(large, reference) <= 1


@pytest.mark.parametrize("kind", [BYTE, HALF], ids=["bytes", "half floats"])
def test_other_types_of_values_are_told(tmp_path: Path, kind: int) -> None:
    """Networks of bytes get 0 to 255, and those of half floats 0 to 1."""
    image = photograph(48)
    plain = upscaled(enlarger(tmp_path / "float.onnx"), image, 96, 96)
    other = upscaled(enlarger(tmp_path / "other.onnx", kind=kind), image, 96, 96)
    assert largest_difference(plain, other) <= 2


def test_tiles_leave_no_seams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In windows with a halo, and of a fixed size, the result is that of the whole."""
    image = photograph(200).crop((0, 0, 200, 137))
    path = enlarger(tmp_path / "any.onnx")
    whole = upscaled(path, image, 400, 274)
    loaded = network(NetworkFile(str(path)))
    runs: list[tuple[int, ...]] = []
    run = loaded.run
    monkeypatch.setattr(loaded, "run", lambda pixels: (runs.append(pixels.shape), run(pixels))[1])
    monkeypatch.setattr(superresolution, "_WINDOW_SIDE_PIXELS", 64)
    tiled = upscaled(path, image, 400, 274)
    assert len(runs) == 12
    assert {shape[:2] for shape in runs} == {(64, 64)}
    assert largest_difference(tiled, whole) == 0
    fixed = enlarger(tmp_path / "fixed.onnx", side=(48, 72))
    assert largest_difference(upscaled(fixed, image, 400, 274), whole) <= 1


def test_a_fixed_size_larger_than_the_picture_is_filled_up(tmp_path: Path) -> None:
    """Its edge is repeated, and what is added is cut off again."""
    image = photograph(64).crop((0, 0, 64, 40))
    fixed = enlarger(tmp_path / "fixed.onnx", side=(128, 128))
    large = upscaled(fixed, image, 128, 80)
    reference = upscaled(enlarger(tmp_path / "any.onnx"), image, 128, 80)
    # The network pads with black at the end of the picture, and sees the repeated edge here.
    inside = (0, 0, 126, 78)
    assert largest_difference(large.crop(inside), reference.crop(inside)) <= 1


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 127, 128, 129, 1000])
def test_windows_cover_every_pixel_once(length: int) -> None:
    """Cores lie side by side; a halo is only missing where the picture ends."""
    window, halo = 64, 8
    found = spans(length, window, halo)
    assert found[0].core_start == 0
    assert found[-1].core_end == length
    for before, after in itertools.pairwise(found):
        assert before.core_end == after.core_start
        assert after.core_start - after.start >= halo
        assert before.start + window - before.core_end >= halo
    assert all(0 <= each.start <= max(0, length - window) for each in found)


@pytest.mark.parametrize("size", [(96, 72), (150, 113), (192, 144), (256, 192)])
def test_any_size_is_exact(tmp_path: Path, size: tuple[int, int]) -> None:
    """Below, at and above what the network makes of the picture."""
    image = photograph(96).crop((0, 0, 96, 72))
    large = upscaled(enlarger(tmp_path / "net.onnx"), image, *size)
    assert large.size == size
    assert psnr(large, image.resize(size, Image.Resampling.LANCZOS)) > 20


def test_what_the_network_has_no_channels_for_is_kept(tmp_path: Path) -> None:
    """Alpha with any network, and hues with one of one channel."""
    image = photograph(64).convert("RGBA")
    alpha = Image.new("L", image.size)
    ImageDraw.Draw(alpha).ellipse((8, 8, 56, 56), fill=255)
    image.putalpha(alpha)
    for channels in (1, 3):
        large = upscaled(
            enlarger(tmp_path / f"{channels}.onnx", channels=channels), image, 128, 128
        )
        assert large.mode == "RGBA"
        assert psnr(large.getchannel("A"), alpha.resize((128, 128), Image.Resampling.LANCZOS)) > 30
        seen = Image.composite(
            large.convert("RGB"), Image.new("RGB", (128, 128)), large.getchannel("A")
        )
        plain = image.resize((128, 128), Image.Resampling.LANCZOS)
        other = Image.composite(
            plain.convert("RGB"), Image.new("RGB", (128, 128)), plain.getchannel("A")
        )
        assert psnr(seen, other) > 22
        assert deviation(seen.convert("YCbCr").getchannel("Cb")) > 5


def test_large_pictures_are_shrunk_before_they_are_enlarged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a network answers for the whole picture is bounded."""
    monkeypatch.setattr(superresolution, "_ANSWER_PIXELS_MAX", 64 * 64)
    large = upscaled(enlarger(tmp_path / "net.onnx"), photograph(96), 120, 120)
    assert large.size == (120, 120)


@pytest.mark.parametrize(
    "side", [ANY, (96, 160)], ids=["any size", "a fixed size with other proportions"]
)
def test_mattes_become_alpha(tmp_path: Path, side: tuple[int, int]) -> None:
    """Where the picture is bright it is opaque, in its own size and colours."""
    image = Image.new("RGB", (300, 200), (20, 30, 40))
    ImageDraw.Draw(image).ellipse((80, 40, 220, 160), fill=(230, 220, 210))
    result = cut(matting(tmp_path / "net.onnx", side=side), image)
    assert (result.format, result.mode, result.size) == ("PNG", "RGBA", (300, 200))
    truth = np.zeros((200, 300), np.bool_)
    truth[np.asarray(image.convert("L")) > 128] = True
    found = np.asarray(result.getchannel("A")) > 127
    assert (found & truth).sum() / (found | truth).sum() > 0.97
    assert result.getpixel((150, 100)) == (230, 220, 210, 255)
    assert result.getpixel((5, 5))[3] == 0


def test_mean_and_deviation_are_those_of_the_network(tmp_path: Path) -> None:
    """A network that wants values around zero gets them."""
    grey = Image.new("RGB", (64, 64), (160, 160, 160))
    path = matting(tmp_path / "net.onnx")
    assert cut(path, grey).getchannel("A").getextrema()[0] > 240
    shifted = cut(path, grey, mean=(0.15,), deviation=(1.0,)).getchannel("A")
    assert shifted.getextrema()[1] < 150


def test_a_matte_of_nothing_is_refused(tmp_path: Path) -> None:
    """A wholly transparent picture is not sold as a cutout."""
    with pytest.raises(Refusal) as refusal:
        cut(matting(tmp_path / "net.onnx"), Image.new("RGB", (64, 64), (10, 10, 10)))
    assert refusal.value.kind == "fruitless"


def _junk(path: Path) -> Path:
    path.write_bytes(b"no protobuf at all")
    return path


UNFIT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda path: path, "not a file"),
    "junk": (_junk, r"is it an \.onnx file"),
    "two inputs": (two_inputs, "2 inputs"),
    "integers": (lambda path: single(path, "Identity", [1, 3, *ANY], LONG), "int64"),
    "channels last": (lambda path: single(path, "Identity", [1, *ANY, 3]), r"\(1, any, any, 3\)"),
    "four channels": (lambda path: single(path, "Identity", [1, 4, *ANY]), r"\(1, 4, any, any\)"),
    "huge": (lambda path: enlarger(path, side=(4096, 4096)), "too large"),
    "same size": (lambda path: single(path, "Identity", [1, 3, *ANY]), "does not enlarge"),
    "other range": (lambda path: enlarger(path, gain=255.0), "and not from 0 to 1"),
    "not finite": (lambda path: enlarger(path, gain=float("nan")), "no picture"),
    "classifier": (lambda path: single(path, "GlobalAveragePool", [1, 3, *ANY]), "enlarge"),
    "flat": (lambda path: single(path, "Flatten", [1, 3, *ANY]), "not a picture"),
}
"""Files that are no network for enlarging, and a word of why."""


@pytest.mark.parametrize("name", UNFIT)
def test_files_of_no_use_are_refused(tmp_path: Path, name: str) -> None:
    """The reason says what is wrong, for the operator who must mend it."""
    make, words = UNFIT[name]
    with pytest.raises(Refusal, match=words) as refusal:
        done(superresolution.inspect, NetworkFile(str(make(tmp_path / "net.onnx"))))
    assert refusal.value.kind == "misconfigured"


@pytest.mark.parametrize(
    ("operator", "words"), [("Identity", "not a matte"), ("Flatten", "not a matte")]
)
def test_networks_without_a_matte_are_refused(tmp_path: Path, operator: str, words: str) -> None:
    """A picture of three channels is none, and neither is a vector."""
    path = single(tmp_path / "net.onnx", operator, [1, 3, *ANY])
    with pytest.raises(Refusal, match=words):
        done(matting_task.inspect, NetworkFile(str(path)))


def test_engines_check_their_file_and_use_it(tmp_path: Path) -> None:
    """In processes with bounded memory, from a file that is named relative to another directory."""

    async def run() -> None:
        workers = TaskProcesses()
        larger = OnnxUpscaler(workers, enlarger(tmp_path / "sr.onnx"), name="sr")
        cutter = OnnxMatting(workers, matting(tmp_path / "matte.onnx"), name="matte", mean=[0.1])
        await larger.check()
        await cutter.check()
        source = picture(photograph(96))
        large = await larger.upscale(
            UpscaleCall(request_id="r", picture=source, width=192, height=192, format="webp")
        )
        assert (decoded(large.data).size, large.is_own) == ((192, 192), True)
        seen = await cutter.remove_background(BackgroundCall(request_id="r", picture=source))
        assert decoded(seen.data).mode == "RGBA"
        for engine in (OnnxUpscaler, OnnxMatting):
            with pytest.raises(NetworkRefused, match=r"nowhere\.onnx: .*not a file"):
                await engine(workers, tmp_path / "nowhere.onnx", name="x").check()
        (tmp_path / "sr.onnx").unlink()
        with pytest.raises(EngineFailure) as failure:
            await larger.upscale(UpscaleCall(request_id="r", picture=source, width=192, height=192))
        assert failure.value.kind is FailureKind.MISCONFIGURED

    asyncio.run(run())


def test_a_network_is_not_refused_because_workers_are_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried as soon as a worker is free; only if none ever is, the operator is told so."""
    path = enlarger(tmp_path / "sr.onnx")

    async def run() -> None:
        limits = WorkerLimits(wait_seconds_max=0.05)
        workers = Workers(limits, processes_max=1, idle_seconds_max=60)
        try:
            engine = OnnxUpscaler(workers, path, name="sr")
            spin = workers.run("traghetto.workers.trials:spin", None, seconds_max=60)
            computing = asyncio.ensure_future(spin)
            await asyncio.sleep(0)
            with pytest.raises(EngineFailure) as busy:
                await engine.upscale(UPSCALE)
            assert busy.value.kind is FailureKind.AT_CAPACITY
            with monkeypatch.context() as patch:
                patch.setattr(onnx_backends, "BUSY_SECONDS_MAX", 0.0)
                with pytest.raises(NetworkRefused, match=r"sr\.onnx: .*busy"):
                    await engine.check()
            checking = asyncio.ensure_future(engine.check())
            await asyncio.sleep(0.2)  # it has been told that they are busy, and asks again
            assert not checking.done()
            computing.cancel()
            await checking
        finally:
            await workers.aclose()

    asyncio.run(run())
