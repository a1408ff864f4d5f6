"""Networks from the operator's .onnx files, in a worker process: loading, checking, running.

Expected is one input of shape (1, channels, height, width) with 1 or 3 channels, RGB, of any size
or of a fixed one: floats from 0 to 1 (or shifted and scaled as `NetworkFile` says), or bytes. An
.onnx file is a program of sorts: it is only ever opened here, under the limits of a worker, and
with nothing but the operators of ONNX Runtime itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from traghetto.engines.imaging.work import MISCONFIGURED
from traghetto.workers.task import Refusal

_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
_SIDE_PIXELS_MAX: Final = 2048
"""Of a network with a fixed size."""
_BRIGHTEST: Final = 2.0
"""A network that answers a picture of 0 to 1 with more does not keep that range."""
_SILENT: Final = 4

Pixels = NDArray[Any]
"""Of float32, 0 to 1: (height, width, channels)."""


class NetworkFile(msgspec.Struct, frozen=True):
    """Where a network is, and what its input is like: (value - mean) / deviation, per channel."""

    path: str
    version: str = ""
    """Another one for each file that has been there: a loaded one is not taken for the next."""
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)


class Network:
    """A loaded network with one picture as its input."""

    def __init__(self, file: NetworkFile) -> None:
        """Load it; raises Refusal for anything but a network of the expected form."""
        self._session = _session(file.path)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise unfit(f"it has {len(inputs)} inputs, and one picture is all there is")
        shape, self._name = inputs[0].shape, inputs[0].name
        if inputs[0].type not in _TYPES:
            raise unfit(f"its input is a {inputs[0].type}, and not of float or uint8")
        self._type = _TYPES[inputs[0].type]
        if len(shape) != 4 or shape[1] not in {1, 3}:
            raise unfit(
                f"its input has the shape {_shape(shape)}, and not (1, 3 or 1, height, width)"
            )
        self.channels: int = shape[1]
        """1 or 3."""
        self.height = shape[2] if isinstance(shape[2], int) else None
        """The only height it takes, in pixels, or None if it takes any."""
        self.width = shape[3] if isinstance(shape[3], int) else None
        if max(self.height or 0, self.width or 0) > _SIDE_PIXELS_MAX:
            raise unfit(f"its input has the shape {_shape(shape)}, which is too large")
        self._mean = np.asarray(file.mean, np.float32)
        self._deviation = np.asarray(file.deviation, np.float32)

    def run(self, pixels: Pixels) -> list[Pixels]:
        """What it answers to `pixels`, which have its channels and size: one array per output.

        Floats from about 0 to 1, in the shape that the network gives them.
        """
        values = pixels
        if self._type is np.uint8:
            values = np.rint(values * 255)
        else:
            values = (values - self._mean) / self._deviation
        batch = np.ascontiguousarray(values.transpose(2, 0, 1)[None], self._type)
        return [_as_share(each) for each in self._session.run(None, {self._name: batch})]


def _as_share(values: Pixels) -> Pixels:
    shares = values.astype(np.float32)
    return shares / 255 if values.dtype == np.uint8 else shares


@lru_cache(maxsize=2)
def network(file: NetworkFile) -> Network:
    """The network of `file`, loaded once per process; raises Refusal."""
    return Network(file)


def probe(loaded: Network, side_pixels: int) -> list[Pixels]:
    """What a network answers to a small gradient; raises Refusal if it cannot be run."""
    height, width = loaded.height or side_pixels, loaded.width or side_pixels
    ramp = np.linspace(0.1, 0.9, height * width, dtype=np.float32).reshape(height, width, 1)
    try:
        answers = loaded.run(np.repeat(ramp, loaded.channels, axis=2))
    except Exception as error:  # the exceptions of the library have no common base
        raise unfit("it fails on a picture") from error
    if not answers or not all(np.all(np.isfinite(each)) for each in answers[:1]):
        raise unfit("it answers with something that is no picture")
    return answers


def check_range(values: Pixels) -> None:
    """Raises Refusal if `values` do not lie between about 0 and 1."""
    low, high = float(values.min()), float(values.max())
    if high > _BRIGHTEST or low < 1 - _BRIGHTEST:
        raise unfit(f"it answers with values from {low:.3g} to {high:.3g}, and not from 0 to 1")


def unfit(reason: str) -> Refusal:
    """The refusal of a network."""
    return Refusal(MISCONFIGURED, f"the network cannot be used: {reason}")


def _shape(shape: Sequence[object]) -> str:
    return f"({', '.join('any' if isinstance(side, str) else str(side) for side in shape)})"


def _session(path: str) -> Any:
    if not Path(path).is_file():
        raise unfit("it is not a file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # The arena would keep the memory of the largest picture for good.
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = _SILENT
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of the library have no common base
        raise unfit("ONNX Runtime cannot load it; is it an .onnx file?") from error
