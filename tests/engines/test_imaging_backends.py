"""The adapters of the built-in engines: what they hand over, and what they make of failures."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.pixels import decoded
from support.scenes import photograph, picture, products
from support.task_process import TaskProcesses
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import (
    BackgroundCall,
    BackgroundRemover,
    EditCall,
    EngineImage,
    GenerateCall,
    ImageEditor,
    ImageGenerator,
    ImageUpscaler,
    Reference,
    UpscaleCall,
)
from traghetto.engines.imaging import extras
from traghetto.engines.imaging.backends import (
    IMAGE_FAULTS,
    BuiltInEngine,
    ClassicalEditor,
    ClassicalUpscaler,
    GrabCutRemover,
    SimulatedGenerator,
)
from traghetto.engines.imaging.extras import ExtraMissing, is_available
from traghetto.engines.imaging.onnx_backends import OnnxMatting, OnnxUpscaler
from traghetto.engines.simulator.faults import Fault, FaultPlan, PlannedFault
from traghetto.workers.failures import (
    TaskFailed,
    TaskRefused,
    TaskTimedOut,
    WorkerDied,
    WorkerError,
    WorkersBusy,
)

SOURCE = picture(photograph(96))
UPSCALE = UpscaleCall(request_id="r", picture=SOURCE, width=192, height=192)
EDIT = EditCall(request_id="r", prompt="sepia", pictures=(SOURCE,))
CUT = BackgroundCall(request_id="r", picture=SOURCE)
GENERATE = GenerateCall(request_id="r", prompt="a red boat", width=160, height=96, seed=5)

Call = Callable[[Any], Any]
ENGINES: dict[str, tuple[Callable[..., BuiltInEngine], Call]] = {
    "upscale": (ClassicalUpscaler, lambda engine: engine.upscale(UPSCALE)),
    "edit": (ClassicalEditor, lambda engine: engine.edit(EDIT)),
    "cut out": (GrabCutRemover, lambda engine: engine.remove_background(CUT)),
    "generate": (
        lambda *arguments, **options: SimulatedGenerator(
            *arguments, rng=random.Random(3), **options
        ),
        lambda engine: engine.generate(GENERATE),
    ),
}


class Scripted:
    """Workers that end every task as they are told: nothing else can have one fail at will."""

    def __init__(self, ending: BaseException | bytes) -> None:
        self.ending = ending
        self.calls: list[tuple[str, Any, float]] = []

    async def run(self, task: str, payload: Any, *, seconds_max: float, principal: str = "") -> Any:
        self.calls.append((task, payload, seconds_max))
        if isinstance(self.ending, bytes):
            return self.ending
        raise self.ending


def failure_of(
    workers: Any, name: str = "upscale", faults: FaultPlan | None = None
) -> EngineFailure:
    make, call = ENGINES[name]
    with pytest.raises(EngineFailure) as failure:
        asyncio.run(call(make(workers, name="x", faults=faults)))
    return failure.value


def test_engines_fulfil_their_protocols() -> None:
    """The type checker says so, and so does every engine's model."""
    workers = Scripted(b"")
    upscalers: list[ImageUpscaler] = [ClassicalUpscaler(workers, name="a")]
    editors: list[ImageEditor] = [ClassicalEditor(workers, name="b")]
    removers: list[BackgroundRemover] = [GrabCutRemover(workers, name="c")]
    generators: list[ImageGenerator] = [SimulatedGenerator(workers, name="d", rng=random.Random(1))]
    for engine, kind in zip(
        (*upscalers, *editors, *removers, *generators),
        ("upscale", "inpaint", "inpaint", "image"),
        strict=True,
    ):
        (model,) = asyncio.run(engine.models())
        assert (model.id, model.type) == (engine.name, kind)
        asyncio.run(engine.aclose())


def test_real_processes_make_real_images() -> None:
    """Each engine once, across a process boundary, in the format and size asked for."""

    async def run() -> None:
        workers = TaskProcesses()
        large = await ClassicalUpscaler(workers, name="u").upscale(UPSCALE)
        assert decoded(large.data).size == (192, 192)
        changed = await ClassicalEditor(workers, name="e").edit(
            EditCall(request_id="r", prompt="blur", pictures=(SOURCE,), format="jpeg")
        )
        assert decoded(changed.data).format == "JPEG"
        mug = picture(products(240, 200)["mug on a white sweep"].image)
        seen = await GrabCutRemover(workers, name="c").remove_background(
            BackgroundCall(request_id="r", picture=mug)
        )
        assert decoded(seen.data).mode == "RGBA"
        generator = SimulatedGenerator(workers, name="g", rng=random.Random(1))
        images = await generator.generate(
            GenerateCall(
                request_id="r",
                prompt="a red boat",
                width=160,
                height=96,
                count=2,
                seed=-999_999_999,
                references=(Reference(SOURCE, 0.5),),
                format="webp",
            )
        )
        assert [decoded(each.data).size for each in images] == [(160, 96)] * 2
        assert {decoded(each.data).format for each in images} == {"WEBP"}
        assert images[0].data != images[1].data
        assert all(each.is_own for each in (large, changed, seen, *images))

    asyncio.run(run())


def test_further_images_have_the_next_seeds() -> None:
    """The second image of a call is the first of a call with the next seed."""
    workers = Scripted(b"image")
    engine = SimulatedGenerator(workers, name="g", rng=random.Random(1))
    asyncio.run(
        engine.generate(
            GenerateCall(request_id="r", prompt="x", width=64, height=64, count=3, seed=7)
        )
    )
    assert [payload["seed"] for _, payload, _ in workers.calls] == [7, 8, 9]


def test_seeds_left_open_are_drawn_from_what_was_given() -> None:
    """Two engines with the same generator choose the same seeds, one after the other others."""
    call = GenerateCall(request_id="r", prompt="x", width=64, height=64)
    chosen = []
    for _ in range(2):
        workers = Scripted(b"image")
        engine = SimulatedGenerator(workers, name="g", rng=random.Random(5))
        for _ in range(2):
            asyncio.run(engine.generate(call))
        chosen.append([payload["seed"] for _, payload, _ in workers.calls])
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 2


ENDINGS: dict[str, tuple[Exception, FailureKind]] = {
    "busy": (WorkersBusy("x"), FailureKind.AT_CAPACITY),
    "late": (TaskTimedOut("x"), FailureKind.TIMED_OUT),
    "refused": (TaskRefused("prompt", "because"), FailureKind.REJECTED_INPUT),
    "nobody's fault": (TaskRefused("fruitless", "because"), FailureKind.FRUITLESS),
    "operator's fault": (TaskRefused("misconfigured", "because"), FailureKind.MISCONFIGURED),
    "failed": (TaskFailed("x"), FailureKind.BROKEN),
    "died": (WorkerDied("x"), FailureKind.BROKEN),
    "another": (WorkerError("x"), FailureKind.BROKEN),
    "too large to cross": (ValueError("x"), FailureKind.TOO_LARGE),
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_of_a_task_has_a_kind(ending: str, name: str) -> None:
    """Whatever workers raise, an engine raises EngineFailure, with the reason of a refusal."""
    error, kind = ENDINGS[ending]
    failure = failure_of(Scripted(error), name)
    assert failure.kind is kind
    assert failure.__cause__ is error
    if isinstance(error, TaskRefused):
        assert failure.reason == "because"


def test_refusals_cross_the_process_boundary() -> None:
    """What a task says of its input arrives as a failure of the input, without the input."""
    call = EditCall(request_id="r", prompt="add a dragon", pictures=(SOURCE,))
    with pytest.raises(EngineFailure) as failure:
        asyncio.run(ClassicalEditor(TaskProcesses(), name="e").edit(call))
    assert failure.value.kind is FailureKind.REJECTED_INPUT
    assert "dragon" not in failure.value.reason


def test_tasks_have_the_time_that_was_set() -> None:
    """A bound of an engine is that of its tasks."""
    workers = Scripted(b"image")
    asyncio.run(ClassicalUpscaler(workers, name="u", seconds_max=7.0).upscale(UPSCALE))
    assert workers.calls[0][2] == 7.0


KINDS = {
    Fault.OVERLOADED: FailureKind.OVERLOADED,
    Fault.AT_CAPACITY: FailureKind.AT_CAPACITY,
    Fault.OFFLINE: FailureKind.OFFLINE,
    Fault.UNREACHABLE: FailureKind.UNREACHABLE,
    Fault.CONTENT_POLICY: FailureKind.REJECTED_CONTENT,
    Fault.REJECTED_INPUT: FailureKind.REJECTED_INPUT,
    Fault.BROKEN: FailureKind.BROKEN,
    Fault.CUT_AFTER: FailureKind.BROKEN,
    Fault.INVALID_UTF8: FailureKind.BROKEN,
    Fault.IN_BAND_ERROR: FailureKind.BROKEN,
    Fault.IN_BAND_OVERLOAD: FailureKind.OVERLOADED,
}
SILENT = (Fault.HANG, Fault.STALL_AFTER)
WITHOUT_EFFECT = [fault for fault in Fault if fault not in IMAGE_FAULTS]


def test_every_fault_is_accounted_for() -> None:
    """Each is raised, waited for, junk, slow, or has nothing to do with images."""
    assert {*KINDS, *SILENT, Fault.MALFORMED, Fault.SLOW} == IMAGE_FAULTS


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("fault", KINDS, ids=lambda fault: fault.value)
def test_planned_faults_are_raised(fault: Fault, name: str) -> None:
    """By every engine, before a worker is asked."""
    workers = Scripted(b"image")
    failure = failure_of(workers, name, FaultPlan(PlannedFault(fault)))
    assert failure.kind is KINDS[fault]
    assert workers.calls == []


@pytest.mark.parametrize("fault", SILENT, ids=lambda fault: fault.value)
def test_an_engine_can_hang(fault: Fault) -> None:
    """Until the call is cancelled."""
    engine = ClassicalUpscaler(Scripted(b"image"), name="u", faults=FaultPlan(PlannedFault(fault)))

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await engine.upscale(UPSCALE)

    asyncio.run(run())


def test_an_engine_can_be_slow_and_answer_junk() -> None:
    """Late by so many seconds; and bytes that are no image, which nobody may pass on."""

    async def run() -> None:
        plan = FaultPlan(PlannedFault(Fault.SLOW, seconds=0.05))
        engine = ClassicalUpscaler(Scripted(b"image"), name="u", faults=plan)
        begin = asyncio.get_running_loop().time()
        assert (await engine.upscale(UPSCALE)).data == b"image"
        assert asyncio.get_running_loop().time() - begin >= 0.05
        plan.set(PlannedFault(Fault.MALFORMED), calls=1)
        junk = await engine.upscale(UPSCALE)
        assert not junk.is_own
        with pytest.raises(OSError):
            decoded(junk.data)
        generator = SimulatedGenerator(
            Scripted(b"image"),
            name="g",
            rng=random.Random(1),
            faults=FaultPlan(PlannedFault(Fault.MALFORMED)),
        )
        images = await generator.generate(
            GenerateCall(request_id="r", prompt="x", width=64, height=64, count=3)
        )
        assert [each.is_own for each in images] == [False] * 3

    asyncio.run(run())


@pytest.mark.parametrize("fault", WITHOUT_EFFECT, ids=lambda fault: fault.value)
def test_faults_of_texts_have_no_effect(fault: Fault) -> None:
    """An image has no usage, no reason to stop and no context."""
    engine = ClassicalUpscaler(Scripted(b"image"), name="u", faults=FaultPlan(PlannedFault(fault)))
    assert asyncio.run(engine.upscale(UPSCALE)) == EngineImage(b"image", is_own=True)


def test_faults_can_be_planned_for_some_calls() -> None:
    """As labs do: two calls fail, the third does not."""
    engine = ClassicalEditor(Scripted(b"image"), name="e")
    engine.faults.set(PlannedFault(Fault.BROKEN), calls=2)
    for _ in range(2):
        with pytest.raises(EngineFailure):
            asyncio.run(engine.edit(EDIT))
    assert asyncio.run(engine.edit(EDIT)).data == b"image"


@pytest.mark.parametrize("fault", [Fault.OFFLINE, Fault.UNREACHABLE], ids=lambda fault: fault.value)
def test_engines_that_are_down_fail_their_health_check(fault: Fault) -> None:
    """As the simulator of texts does."""
    engine = ClassicalUpscaler(Scripted(b""), name="u", faults=FaultPlan(PlannedFault(fault)))
    with pytest.raises(EngineFailure) as failure:
        asyncio.run(engine.models())
    assert failure.value.kind is FailureKind.UNREACHABLE


def test_missing_libraries_are_named_with_the_way_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """When an engine is made, and not when it is first used."""
    assert is_available("vision")
    assert is_available("onnx")
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissing, match=r"pip install 'traghetto\[vision\]'"):
        GrabCutRemover(Scripted(b""), name="c")
    for engine in (OnnxUpscaler, OnnxMatting):
        with pytest.raises(ExtraMissing, match=r"pip install 'traghetto\[onnx\]'"):
            engine(Scripted(b""), tmp_path / "net.onnx", name="o")


def test_adapters_load_no_image_library() -> None:
    """A gateway that only has these engines, and uses none, pays nothing for them."""
    script = (
        "import sys, traghetto.engines.imaging.backends, traghetto.engines.imaging.onnx_backends\n"
        "import traghetto.cli\n"
        "print(*sorted({'PIL', 'cv2', 'numpy', 'onnxruntime', 'pi_heif'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []
