"""A workflow: a graph of nodes in ComfyUI's API format, with placeholders for what a caller wants.

A placeholder is a string that is nothing else, such as `"{{width}}"`; the value that takes its
place has its own type. Values are put into the decoded tree and never into JSON text, so that no
prompt can become anything but one string. `"{{steps=20}}"` says what holds where a caller leaves
the choice open.

Invariant: a `Workflow` can be filled for its purpose, whatever a caller leaves out.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

Purpose = Literal["image", "inpaint", "upscale"]
"""What a workflow is used for: the type of the model that it serves."""
Value = str | int | float

WORKFLOW_BYTES_MAX: Final = 1 << 20
NODES_MAX: Final = 1_000
DEPTH_MAX: Final = 16
PICTURES_MAX: Final = 10

_TEXTS: Final = frozenset({"prompt", "negative_prompt"})
_INTEGERS: Final = frozenset({"width", "height", "seed", "steps"})
_NUMBERS: Final = frozenset({"cfg", "creativity"})
_PICTURES: Final = ("image", *(f"image_{number}" for number in range(2, PICTURES_MAX + 1)))
_NAMES: Final = _TEXTS | _INTEGERS | _NUMBERS | set(_PICTURES)
_FILLED: Final[Mapping[Purpose, frozenset[str]]] = {
    "image": frozenset({"prompt", "negative_prompt", "width", "height", "seed"}),
    "inpaint": frozenset({"prompt", "width", "height", "seed", *_PICTURES}),
    "upscale": frozenset({"width", "height", "seed", "creativity", "image"}),
}
"""What has a value in every call; all other placeholders need one of their own."""
_REQUIRED: Final[Mapping[Purpose, tuple[str, ...]]] = {
    "image": ("prompt",),
    "inpaint": ("prompt", "image"),
    "upscale": ("image",),
}
_PLACEHOLDER: Final = re.compile(r"\{\{ *(\w+) *(?:=(.*))?\}\}", re.DOTALL)
_EMBEDDED: Final = re.compile(rf"\{{\{{ *(?:{'|'.join(sorted(_NAMES))}) *(?:=[^}}]*)?\}}\}}")


class WorkflowInvalid(ValueError):
    """A workflow that cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Placeholder:
    name: str
    default: Value | None


class Workflow:
    """A graph with placeholders, checked for its purpose."""

    def __init__(self, name: str, graph: Mapping[str, Any], purpose: Purpose) -> None:
        """`graph` is decoded JSON. Raises WorkflowInvalid."""
        self.name: Final = name
        self.purpose: Final = purpose
        _check_format(graph)
        self._graph: dict[str, Any] = {
            node_id: _with_placeholders(node, f"node {node_id}", DEPTH_MAX)
            for node_id, node in graph.items()
        }
        found = {name: default for node in self._graph.values() for name, default in _found(node)}
        _check_placeholders(found, purpose)
        self.pictures: Final = sum(name in found for name in _PICTURES)
        """How many pictures have to be given."""

    def filled(self, values: Mapping[str, Value | None]) -> dict[str, Any]:
        """The graph with `values` in place of the placeholders, or their own where it is None."""
        return {node_id: _fill(node, values) for node_id, node in self._graph.items()}

    def placeholder_at(self, node_id: str, input_name: str) -> str | None:
        """The placeholder that fills an input of a node; None for what the operator wrote."""
        node = self._graph.get(node_id)
        value = node["inputs"].get(input_name) if node is not None else None
        return value.name if isinstance(value, _Placeholder) else None

    def has_fixed(self, node_id: str, input_name: str) -> bool:
        """Whether the operator wrote an input of a node, which no caller changes."""
        node = self._graph.get(node_id)
        value = None if node is None else node["inputs"].get(input_name)
        return value is not None and not _found(value)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._graph


def read_workflow(path: Path, purpose: Purpose) -> Workflow:
    """The workflow in a file; raises WorkflowInvalid, which names the file, or OSError."""
    with path.open("rb") as file:
        raw = file.read(WORKFLOW_BYTES_MAX + 1)
    if len(raw) > WORKFLOW_BYTES_MAX:
        raise WorkflowInvalid(f"{path}: larger than {WORKFLOW_BYTES_MAX} bytes")
    try:
        graph = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WorkflowInvalid(f"{path}: not JSON; save it in ComfyUI by Export (API)") from None
    try:
        return Workflow(path.stem, graph, purpose)
    except WorkflowInvalid as problem:
        raise WorkflowInvalid(f"{path}: {problem}") from None


def digest_of_workflow(path: Path) -> bytes:
    """What changes when the file at `path` does; raises OSError."""
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(WORKFLOW_BYTES_MAX + 1)).digest()


def picture_name(number: int) -> str:
    """The placeholder of a call's picture `number`, from 0."""
    return _PICTURES[number]


def _check_format(graph: Any) -> None:
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise WorkflowInvalid("this is the editor's format; save it in ComfyUI by Export (API)")
    if not isinstance(graph, dict) or not graph:
        raise WorkflowInvalid("not a workflow; save one in ComfyUI by Export (API)")
    if len(graph) > NODES_MAX:
        raise WorkflowInvalid(f"more than {NODES_MAX} nodes")
    for node_id, node in graph.items():
        if not (
            isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), dict)
        ):
            raise WorkflowInvalid(
                f"node {node_id} has no `class_type` and `inputs`; save it by Export (API)"
            )


def _check_placeholders(found: Mapping[str, Value | None], purpose: Purpose) -> None:
    for name in _REQUIRED[purpose]:
        if name not in found:
            raise WorkflowInvalid(
                f'no "{{{{{name}}}}}"; write it in place of the value that a caller gives'
            )
    for name, default in found.items():
        if name in _PICTURES and name not in _FILLED[purpose]:
            raise WorkflowInvalid(f'"{{{{{name}}}}}": there is no such picture for this model type')
        if name not in _FILLED[purpose] and default is None:
            raise WorkflowInvalid(
                f'"{{{{{name}}}}}" has no value of its own for callers that give none; '
                f'write "{{{{{name}=...}}}}"'
            )
    given = [name in found for name in _PICTURES]
    if any(given[sum(given) :]):
        raise WorkflowInvalid('pictures are "{{image}}", "{{image_2}}" and so on, without a gap')


def _with_placeholders(value: Any, where: str, depth: int) -> Any:
    """`value` with its placeholders recognised; raises WorkflowInvalid for one that is none."""
    if depth == 0:
        raise WorkflowInvalid(f"{where} is nested too deeply")
    if isinstance(value, dict):
        return {
            name: _with_placeholders(inner, f"{where}, {name}", depth - 1)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_with_placeholders(inner, where, depth - 1) for inner in value]
    if isinstance(value, str):
        return _placeholder_of(value, where)
    return value


def _placeholder_of(text: str, where: str) -> str | _Placeholder:
    match = _PLACEHOLDER.fullmatch(text.strip())
    if match is None:
        if _EMBEDDED.search(text):
            raise WorkflowInvalid(
                f"{where}: a placeholder stands alone; join it with other text in a node"
            )
        return text
    name, written = match.groups()
    if name not in _NAMES:
        nearest = difflib.get_close_matches(name, sorted(_NAMES), n=1, cutoff=0.5)
        advice = f"; did you mean {nearest[0]}?" if nearest else ""
        raise WorkflowInvalid(f'{where}: no placeholder is called "{name}"{advice}')
    return _Placeholder(name, _default(name, written, where))


def _default(name: str, written: str | None, where: str) -> Value | None:
    if written is None:
        return "" if name == "negative_prompt" else None
    if name in _PICTURES:
        raise WorkflowInvalid(f"{where}: a picture has no value of its own; write {{{{{name}}}}}")
    if name in _TEXTS:
        return written
    try:
        return int(written) if name in _INTEGERS else float(written)
    except ValueError:
        raise WorkflowInvalid(f"{where}: the value of {{{{{name}=...}}}} is no number") from None


def _found(value: Any) -> list[tuple[str, Value | None]]:
    """Every placeholder in `value`, with its own value."""
    if isinstance(value, _Placeholder):
        return [(value.name, value.default)]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [pair for part in inner for pair in _found(part)]


def _fill(value: Any, values: Mapping[str, Value | None]) -> Any:
    if isinstance(value, _Placeholder):
        given = values.get(value.name)
        return value.default if given is None else given
    if isinstance(value, dict):
        return {name: _fill(inner, values) for name, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, values) for inner in value]
    return value
