"""The built-in engines as backends: each hands its calls to a task in a worker process.

They are in every gateway and never far, but a worker can be busy, die or take too long, and a plan
of faults can have them fail on purpose, as the simulator of texts does.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import (
    BackgroundCall,
    EditCall,
    EngineImage,
    GenerateCall,
    UpscaleCall,
)
from traghetto.engines.imaging.extras import require
from traghetto.engines.imaging.work import SECONDS_MAX, Workers, carry_out
from traghetto.engines.protocols import BackendModel
from traghetto.engines.simulator.faults import Fault, FaultPlan

_TASKS: Final = "traghetto.engines.imaging"
_SEED_END: Final = 1_000_000_000
"""Seeds that callers may choose end before it."""

IMAGE_FAULTS: Final = frozenset(Fault) - {
    Fault.CONTEXT_EXCEEDED,
    Fault.NO_FINISH_REASON,
    Fault.NO_DONE,
    Fault.NO_USAGE,
}
"""The faults that an image engine can have. The others are about texts, and have no effect here.

Those of a stream do to an image what they do to a whole answer: STALL_AFTER never comes,
CUT_AFTER and INVALID_UTF8 break off, IN_BAND_ERROR and IN_BAND_OVERLOAD are noticed by an adapter,
and MALFORMED is bytes that are no image.
"""
_NOTICED: Final = {
    Fault.CUT_AFTER: FailureKind.BROKEN,
    Fault.INVALID_UTF8: FailureKind.BROKEN,
    Fault.IN_BAND_ERROR: FailureKind.BROKEN,
    Fault.IN_BAND_OVERLOAD: FailureKind.OVERLOADED,
}
_JUNK: Final = EngineImage(data=b"\x89PNG\r\n\x1a\nsimulated: no image")


class BuiltInEngine:
    """What the built-in engines have in common: a name, faults, and workers to compute in."""

    model_type: str
    """Of the models it serves, as in the listing."""

    def __init__(
        self,
        workers: Workers,
        *,
        name: str,
        faults: FaultPlan | None = None,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        """`seconds_max` bounds each task; `name` is also the name of its model."""
        self._workers = workers
        self._name = name
        self._seconds_max = seconds_max
        self.faults = faults or FaultPlan()
        """What is to go wrong; tests and labs change it while calls are served."""

    @property
    def name(self) -> str:
        return self._name

    async def models(self) -> list[BackendModel]:
        fault = self.faults.current()
        if fault is not None and fault.fails_health_check:
            raise EngineFailure(FailureKind.UNREACHABLE, f"simulated fault: {fault.fault.value}")
        return [BackendModel(id=self._name, type=self.model_type)]

    async def aclose(self) -> None:
        """Nothing to release: the workers belong to whoever made them."""

    async def _run(self, task: str, payload: Any) -> Any:
        return await carry_out(
            self._workers, f"{_TASKS}.{task}", payload, seconds_max=self._seconds_max
        )

    async def _image(self, task: str, payload: Any) -> EngineImage:
        """The image that `task` makes, in the format asked for; raises EngineFailure."""
        if await self._is_spoilt():
            return _JUNK
        return EngineImage(data=await self._run(task, payload), is_own=True)

    async def _is_spoilt(self) -> bool:
        """Meet the fault of the call that starts now; whether its images are to be junk."""
        fault = self.faults.take()
        if fault is None:
            return False
        if (refusal := fault.refusal()) is not None and fault.fault in IMAGE_FAULTS:
            raise refusal
        if (kind := _NOTICED.get(fault.fault)) is not None:
            raise EngineFailure(kind, f"simulated fault: {fault.fault.value}")
        if fault.fault in {Fault.HANG, Fault.STALL_AFTER}:
            await asyncio.get_running_loop().create_future()
        if fault.fault is Fault.SLOW:
            await asyncio.sleep(fault.seconds)
        return fault.fault is Fault.MALFORMED


class ClassicalUpscaler(BuiltInEngine):
    """An `ImageUpscaler` that needs no model: Lanczos, sharpened, without ringing."""

    model_type = "upscale"

    async def upscale(self, call: UpscaleCall) -> EngineImage:
        return await self._image("upscaling:upscale", call)


class ClassicalEditor(BuiltInEngine):
    """An `ImageEditor` that follows a small vocabulary of instructions, and refuses the rest."""

    model_type = "inpaint"

    async def edit(self, call: EditCall) -> EngineImage:
        return await self._image("editing:edit", call)


class GrabCutRemover(BuiltInEngine):
    """A `BackgroundRemover` that takes the border of a picture for its background.

    Raises `ExtraMissing` when it is made without OpenCV.
    """

    model_type = "inpaint"

    def __init__(
        self,
        workers: Workers,
        *,
        name: str,
        faults: FaultPlan | None = None,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        require("vision")
        super().__init__(workers, name=name, faults=faults, seconds_max=seconds_max)

    async def remove_background(self, call: BackgroundCall) -> EngineImage:
        return await self._image("cutout:cut_out", call)


class SimulatedGenerator(BuiltInEngine):
    """An `ImageGenerator` that paints by rules, and says so in every image."""

    model_type = "image"

    def __init__(
        self,
        workers: Workers,
        *,
        name: str,
        rng: random.Random,
        faults: FaultPlan | None = None,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        """`rng` chooses the seeds that callers leave open."""
        super().__init__(workers, name=name, faults=faults, seconds_max=seconds_max)
        self._rng = rng

    async def generate(self, call: GenerateCall) -> list[EngineImage]:
        if await self._is_spoilt():
            return [_JUNK] * call.count
        seed = self._rng.randrange(_SEED_END) if call.seed is None else call.seed
        styles = [
            [await self._run("rendering:sample_colours", each.picture), each.strength]
            for each in call.references
        ]
        # One after the other: a call for four images takes no more workers than a call for one.
        return [
            EngineImage(data=await self._run("rendering:render", rendering), is_own=True)
            for rendering in (
                {
                    "prompt": call.prompt,
                    "negative_prompt": call.negative_prompt,
                    "width": call.width,
                    "height": call.height,
                    "seed": seed + number,
                    "steps": call.steps,
                    "styles": styles,
                    "format": call.format,
                }
                for number in range(call.count)
            )
        ]
