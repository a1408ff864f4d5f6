"""Tiny .onnx files: networks that enlarge, that answer with mattes, and that are of no use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, BYTE, LONG = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.INT64,
)
ANY = ("height", "width")
_OPSET = 17
_IR_VERSION = 10


def kernel(channels: int, factor: int, size: int = 3) -> NDArray[Any]:
    """Weights of a convolution for DepthToSpace: smoothing, with a little chance, summing to 1."""
    rng = np.random.default_rng(channels * 10 + factor)
    weights = np.zeros((channels * factor**2, channels, size, size), np.float32)
    for output in range(len(weights)):
        # In the order that DepthToSpace takes: positions first, then channels.
        part = rng.random((size, size)) + 4 * (np.indices((size, size)) == size // 2).all(0)
        weights[output, output % channels] = part / part.sum()
    return weights


def enlarger(
    path: Path,
    *,
    channels: int = 3,
    factor: int = 2,
    side: tuple[Any, Any] = ANY,
    kind: int = FLOAT,
    gain: float = 1.0,
) -> Path:
    """A network that convolves and rearranges to `factor` times the size."""
    weights = kernel(channels, factor) * np.float32(gain)
    nodes = [
        helper.make_node("Conv", ["values", "weights"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["deep"], ["shares"], blocksize=factor),
    ]
    if kind == FLOAT:
        nodes[0].input[0], nodes[1].output[0] = "picture", "enlarged"
    else:
        scale = 255.0 if kind == BYTE else 1.0
        nodes = [
            helper.make_node("Cast", ["picture"], ["floats"], to=FLOAT),
            helper.make_node("Div", ["floats", "scale"], ["values"]),
            *nodes,
            helper.make_node("Mul", ["shares", "scale"], ["levels"]),
            helper.make_node("Cast", ["levels"], ["enlarged"], to=kind),
        ]
        extra = numpy_helper.from_array(np.float32(scale), "scale")
        return _save(path, nodes, kind, [1, channels, *side], [weights], [extra])
    return _save(path, nodes, kind, [1, channels, *side], [weights])


def matting(path: Path, *, side: tuple[Any, Any] = ANY, channels: int = 3) -> Path:
    """A network whose matte is 1 where the picture is bright, with a soft passage."""
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["grey"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["grey", "half"], ["apart"]),
        helper.make_node("Mul", ["apart", "steep"], ["steeper"]),
        helper.make_node("Sigmoid", ["steeper"], ["matte"]),
    ]
    constants = [
        numpy_helper.from_array(np.float32(0.5), "half"),
        numpy_helper.from_array(np.float32(40), "steep"),
    ]
    return _save(path, nodes, FLOAT, [1, channels, *side], [], constants, output="matte")


def single(path: Path, operator: str, shape: list[Any], kind: int = FLOAT) -> Path:
    """A network of one operator, of which little can be expected."""
    node = helper.make_node(operator, ["picture"], ["enlarged"])
    return _save(path, [node], kind, shape, [])


def two_inputs(path: Path) -> Path:
    """A network that wants two pictures."""
    inputs = [
        helper.make_tensor_value_info(name, FLOAT, [1, 3, *ANY]) for name in ("picture", "other")
    ]
    node = helper.make_node("Add", ["picture", "other"], ["enlarged"])
    return _write(path, [node], inputs, "enlarged", FLOAT, [])


def _save(
    path: Path,
    nodes: list[Any],
    kind: int,
    shape: list[Any],
    weights: list[NDArray[Any]],
    constants: list[Any] | None = None,
    output: str = "enlarged",
) -> Path:
    picture = helper.make_tensor_value_info("picture", kind, shape)
    constants = [numpy_helper.from_array(each, "weights") for each in weights] + (constants or [])
    return _write(path, nodes, [picture], output, kind, constants)


def _write(
    path: Path, nodes: list[Any], inputs: list[Any], output: str, kind: int, constants: list[Any]
) -> Path:
    result = helper.make_tensor_value_info(output, kind, None)
    graph = helper.make_graph(nodes, "tiny", inputs, [result], constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    onnx.save(model, path)
    return path


def expected(pixels: NDArray[Any], factor: int) -> NDArray[Any]:
    """What `enlarger` makes of `pixels` (height, width, channels; uint8), computed with numpy."""
    height, width, channels = pixels.shape
    weights = kernel(channels, factor)
    padded = np.pad(pixels.astype(np.float64) / 255, ((1, 1), (1, 1), (0, 0)))
    deep = np.zeros((len(weights), height, width))
    for y in range(3):
        for x in range(3):
            shifted = padded[y : y + height, x : x + width]
            deep += np.einsum("oc,hwc->ohw", weights[:, :, y, x], shifted)
    blocks = deep.reshape(factor, factor, channels, height, width)
    large = blocks.transpose(3, 0, 4, 1, 2).reshape(height * factor, width * factor, channels)
    return np.asarray(np.rint(np.clip(large, 0, 1) * 255), np.uint8)
