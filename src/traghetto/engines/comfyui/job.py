"""What ComfyUI says of a job, read without trusting it: refusals, ends, and the files it made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from traghetto.engines.comfyui.workflow import Workflow
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.wire.completion import decode_answer

NAME_CHARACTERS_MAX: Final = 255

_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_KINDS_OF_FILES: Final = frozenset({"output", "temp", "input"})
_FIELD_OF_PLACEHOLDER: Final = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "seed": "seed",
    "steps": "steps",
    "cfg": "cfg_scale",
    "creativity": "creativity",
}
"""Placeholders, as callers call them. A picture is not among them: it was checked before."""
_OPERATORS_ERRORS: Final = frozenset({"missing_node_type", "invalid_prompt", "prompt_no_outputs"})
"""Refusals of a workflow as such: a node that is not installed, or no node that saves."""


def is_named(job_id: str) -> bool:
    """Whether a server's id of a job may go into a path."""
    return _ID.fullmatch(job_id) is not None


def refusal_of_graph(body: bytes, workflow: Workflow) -> EngineFailure:
    """What a 400 means that refuses a filled workflow.

    REJECTED_INPUT where every complaint is about values that the caller gave; MISCONFIGURED where
    one is about the operator's own part, such as a missing node or model file. What is neither
    for certain is BROKEN, so that no caller's value can take the model away from everybody.
    """
    try:
        answer = decode_answer(body)
    except ValueError:
        answer = None
    complaints = list(_complaints(answer))
    given = [workflow.placeholder_at(node, name) for node, name in complaints]
    if given and None not in given:
        fields = (_FIELD_OF_PLACEHOLDER.get(str(name)) for name in given)
        return EngineFailure(
            FailureKind.REJECTED_INPUT,
            "the server refused values of a caller",
            fields=tuple(dict.fromkeys(field for field in fields if field is not None)),
        )
    operators = [node for node, name in complaints if workflow.has_fixed(node, name)]
    if operators or _type_of(answer) in _OPERATORS_ERRORS:
        at = f" at node {operators[0]}" if operators else ""
        return EngineFailure(FailureKind.MISCONFIGURED, f"the server refused the workflow{at}")
    return EngineFailure(FailureKind.BROKEN, "the server refused a job")


def failure_of_job(entry: dict[str, Any], workflow: Workflow) -> EngineFailure | None:
    """How a job in the history has failed; None if it came to its end."""
    status = entry.get("status")
    state = status.get("status_str") if isinstance(status, dict) else None
    if state == "success" or (state is None and entry.get("outputs")):
        return None
    messages = status.get("messages") if isinstance(status, dict) else None
    for message in messages if isinstance(messages, list) else ():
        match message:
            case ["execution_interrupted", *_]:
                return EngineFailure(FailureKind.BROKEN, "somebody interrupted the job")
            case ["execution_error", {"node_id": node, **_rest}] if node in workflow:
                return EngineFailure(FailureKind.BROKEN, f"node {node} of the workflow failed")
    return EngineFailure(FailureKind.BROKEN, "the workflow failed")


def file_of(image: Any) -> dict[str, str] | None:
    """The place of a file on the server, as `/view` takes it; None if it is none."""
    if not isinstance(image, dict):
        return None
    name, folder, kind = image.get("filename"), image.get("subfolder", ""), image.get("type")
    if not (isinstance(name, str) and isinstance(folder, str) and isinstance(kind, str)):
        return None
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or len(folder) > NAME_CHARACTERS_MAX:
        return None
    if kind not in _KINDS_OF_FILES:
        return None
    return {"filename": name, "subfolder": folder, "type": kind}


def _complaints(answer: Any) -> Iterator[tuple[str, str]]:
    """The nodes and inputs that a refusal complains of."""
    by_node = answer.get("node_errors") if isinstance(answer, dict) else None
    for node, complaint in by_node.items() if isinstance(by_node, dict) else ():
        errors = complaint.get("errors") if isinstance(complaint, dict) else None
        for error in errors if isinstance(errors, list) else ():
            extra = error.get("extra_info") if isinstance(error, dict) else None
            name = extra.get("input_name") if isinstance(extra, dict) else None
            yield node, name if isinstance(name, str) else ""


def _type_of(answer: Any) -> str | None:
    error = answer.get("error") if isinstance(answer, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    return kind if isinstance(kind, str) else None
