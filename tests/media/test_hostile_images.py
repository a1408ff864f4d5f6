"""Every hostile file ends as it has to, within the limits, and without the gateway noticing."""

from __future__ import annotations

import base64
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from media.hostile import PAYLOAD, SOUND, UNREADABLE, Case, cases, sound_files
from support.pictures import decoded
from traghetto.media.images import ImageRefused, ImageRules, ReadImage

RULES = ImageRules()
WORKER_BYTES_MAX = 1_610_612_736
GATEWAY_BYTES_MAX = 67_108_864
"""What reading one image may add to the gateway's memory, for a moment."""

CASES = cases()


def kind_of(case: Case) -> str:
    return case.name.split("-")[0]


def memory_bytes(key: str) -> int:
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024


def outcome(desk, reading: Coroutine[Any, Any, ReadImage]) -> ReadImage | str:
    """The image, or the name of its fault."""
    try:
        return desk.run(reading)
    except ImageRefused as refused:
        return refused.fault.value


def ending(found: ReadImage | str) -> str:
    """The name of a fault, or SOUND for an image that is what it says."""
    if isinstance(found, str):
        return found
    assert PAYLOAD not in found.data
    image = decoded(found.data)
    assert image.format == found.format.upper()
    assert image.size == (found.width, found.height)
    assert image.mode in ("L", "RGB", "RGBA")
    assert found.has_alpha is (image.mode == "RGBA")
    assert getattr(image, "n_frames", 1) == 1
    return SOUND


def test_the_corpus_is_the_same_each_time():
    """So that a failure can be looked at."""
    again = cases()
    assert [case.name for case in again] == [case.name for case in CASES]
    assert len({case.name for case in CASES}) == len(CASES) > 500
    for case, twin in zip(CASES, again, strict=True):
        if "damaged" in case.name:
            assert case.make() == twin.make()


def test_the_sound_files_are_sound(desk):
    """What is damaged in the corpus was good before."""
    for name, data in sound_files().items():
        assert ending(outcome(desk, desk.reader.read(data, RULES))) == SOUND, name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", sorted({kind_of(case) for case in CASES}))
def test_hostile_files_end_as_they_have_to(desk, kind):
    """In their fault or as a sound image; the memory of worker and gateway stays bounded."""
    wrong = []
    for case in CASES:
        if kind_of(case) != kind:
            continue
        data = case.make()
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest use so far
        before = memory_bytes("VmRSS")
        found = outcome(desk, desk.reader.read(data, RULES))
        grown = memory_bytes("VmHWM") - before
        if ending(found) not in case.ends:
            wrong.append(f"{case.name}: {ending(found)} instead of {sorted(case.ends)}")
        if grown > GATEWAY_BYTES_MAX:
            wrong.append(f"{case.name}: the gateway grew by {grown} bytes")
        if desk.workers.process_ids and desk.worker_bytes_max() > WORKER_BYTES_MAX:
            wrong.append(f"{case.name}: the worker had {desk.worker_bytes_max()} bytes")
    assert wrong == []


def test_base64_changes_nothing(desk):
    """A hostile file in a data URL ends as it does alone."""
    for case in CASES[:: len(CASES) // 40]:
        text = "data:image/png;base64," + base64.b64encode(case.make()).decode()
        assert ending(outcome(desk, desk.reader.read_base64(text, RULES))) in case.ends, case.name


def test_a_backends_hostile_files_are_refused_too(desk):
    """What finishes images refuses what reads them."""
    for case in CASES:
        if case.ends == {UNREADABLE}:
            with pytest.raises(ImageRefused):
                desk.finish(case.make())


def test_a_bomb_behind_the_pixels_is_not_handed_on(desk):
    """Some decoders unpack everything that is there, and not only what the image needs."""
    for name in ("png-more-data-than-pixels", "png-bomb-behind-its-pixels"):
        (case,) = (case for case in CASES if case.name == name)
        data = case.make()
        assert len(desk.read(data).data) < len(data) // 2
