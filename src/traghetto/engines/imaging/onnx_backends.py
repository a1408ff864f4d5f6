"""Networks from the operator's .onnx files as backends: super-resolution and matting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import BackgroundCall, EngineImage, UpscaleCall
from traghetto.engines.imaging.backends import BuiltInEngine
from traghetto.engines.imaging.extras import require
from traghetto.engines.imaging.work import SECONDS_MAX, Workers
from traghetto.engines.simulator.faults import FaultPlan

BUSY_SECONDS_MAX: Final = 120.0
"""How long the check of a network waits for a worker, all attempts together."""
_BETWEEN_ATTEMPTS_SECONDS: Final = 0.5


def version_of(path: Path) -> str:
    """What changes when another file takes the place of the one at `path`; empty without one."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


class NetworkRefused(ValueError):
    """A file is no network for its purpose; the text tells the operator why."""


class OnnxEngine(BuiltInEngine):
    """An engine that runs one network; `check` is for the start of the gateway.

    Colours and brightness go in as they are, 0 to 1, unless `mean` and `deviation` (one value, or
    one for each of red, green and blue) say that the network expects (value - mean) / deviation.
    """

    _module: str

    def __init__(
        self,
        workers: Workers,
        path: Path,
        *,
        name: str,
        mean: Sequence[float] = (0.0,),
        deviation: Sequence[float] = (1.0,),
        faults: FaultPlan | None = None,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        """`seconds_max` bounds each image; raises `ExtraMissing` without ONNX Runtime."""
        require("onnx")
        super().__init__(workers, name=name, faults=faults, seconds_max=seconds_max)
        # A worker has a working directory of its own.
        self._file = {
            "path": str(path.absolute()),
            "version": version_of(path),
            "mean": tuple(mean),
            "deviation": tuple(deviation),
        }

    async def check(self) -> None:
        """Have the file opened and tried in a worker; raises `NetworkRefused`.

        That workers are busy says nothing of the network: it is tried again, within a bound.
        """
        now = asyncio.get_running_loop().time
        end = now() + BUSY_SECONDS_MAX
        while True:
            try:
                await self._run(f"{self._module}:inspect", self._file)
            except EngineFailure as failure:
                if failure.kind is not FailureKind.AT_CAPACITY or now() >= end:
                    raise NetworkRefused(f"{self._file['path']}: {failure.reason}") from failure
            else:
                return
            await asyncio.sleep(_BETWEEN_ATTEMPTS_SECONDS)


class OnnxUpscaler(OnnxEngine):
    """An `ImageUpscaler` that runs a super-resolution network, and resizes to what is asked for.

    How much the network enlarges is found out by trying. Alpha, and the hues where the
    network has one channel, are enlarged without it; `creativity` has no effect.
    """

    model_type = "upscale"
    _module = "superresolution"

    async def upscale(self, call: UpscaleCall) -> EngineImage:
        return await self._image("superresolution:upscale", {"network": self._file, "call": call})


class OnnxMatting(OnnxEngine):
    """A `BackgroundRemover` that runs a matting or segmentation network.

    Its first output is the matte, 0 to 1. Fixed sizes are honoured by resizing the picture.
    """

    model_type = "inpaint"
    _module = "matting"

    async def remove_background(self, call: BackgroundCall) -> EngineImage:
        return await self._image("matting:cut_out", {"network": self._file, "call": call})
