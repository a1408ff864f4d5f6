"""Workflows: what an operator may write, and what is said of a file that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.engines.comfyui.workflow import (
    Purpose,
    Workflow,
    WorkflowInvalid,
    digest_of_workflow,
    read_workflow,
)


def node(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "X", "inputs": inputs}


def test_a_placeholder_becomes_the_typed_value_and_everything_else_stays() -> None:
    """Numbers are numbers, links are links, and the file's own graph is not changed."""
    graph = {
        "1": node(
            text="{{prompt}}", width="{{ width }}", nested=[{"seed": "{{seed}}"}, "{{cfg=7}}"]
        ),
        "2": node(model=["1", 0], text="{curly} {{jinja(x)}}", flag=True, none=None),
    }
    workflow = Workflow("w", graph, "image")
    filled = workflow.filled({"prompt": "a boat", "width": 64, "seed": 3, "cfg": None})
    assert filled["1"]["inputs"] == {
        "text": "a boat",
        "width": 64,
        "nested": [{"seed": 3}, 7.0],
    }
    assert filled["2"] == graph["2"]
    assert workflow.filled({"prompt": "b", "width": 1, "seed": 1})["1"]["inputs"]["text"] == "b"


@given(st.text())
def test_no_prompt_is_anything_but_one_string(prompt: str) -> None:
    """Whatever it contains: JSON, placeholders, quotes."""
    workflow = Workflow("w", {"1": node(a="{{prompt}}", b="{{negative_prompt}}")}, "image")
    filled = workflow.filled({"prompt": prompt, "negative_prompt": "n"})
    assert json.loads(json.dumps(filled)) == {"1": node(a=prompt, b="n")}


@pytest.mark.parametrize(
    ("purpose", "graph", "said"),
    [
        ("image", {"nodes": [], "links": []}, "the editor's format"),
        ("image", [], "not a workflow"),
        ("image", {}, "not a workflow"),
        ("image", {"1": {"class_type": "X"}}, "node 1 has no `class_type` and `inputs`"),
        ("image", {"1": "x"}, "node 1 has no `class_type` and `inputs`"),
        ("image", {"1": node(text="a boat")}, 'no "{{prompt}}"'),
        ("inpaint", {"1": node(text="{{prompt}}")}, 'no "{{image}}"'),
        ("inpaint", {"1": node(image="{{image}}")}, 'no "{{prompt}}"'),
        ("upscale", {"1": node(text="{{prompt=x}}")}, 'no "{{image}}"'),
        ("image", {"1": node(a="{{prompt}}", b="{{image}}")}, "no such picture"),
        ("upscale", {"1": node(a="{{image}}", b="{{image_2}}")}, "no such picture"),
        (
            "inpaint",
            {"1": node(a="{{prompt}}", b="{{image}}", c="{{image_3}}")},
            "without a gap",
        ),
        ("image", {"1": node(a="{{prompt}}", b="{{steps}}")}, 'write "{{steps=...}}"'),
        ("image", {"1": node(a="{{prompt}}", b="{{cfg}}")}, 'write "{{cfg=...}}"'),
        ("image", {"1": node(a="{{prompt}}", b="{{steps=many}}")}, "no number"),
        ("inpaint", {"1": node(a="{{prompt}}", b="{{image=x.png}}")}, "no value of its own"),
        ("image", {"1": node(a="{{promt}}")}, "did you mean prompt?"),
        ("image", {"1": node(a="{{prompt}}", b="{{zzz}}")}, 'no placeholder is called "zzz"'),
        ("image", {"1": node(a="a photo of {{prompt}}")}, "stands alone"),
        ("image", {str(i): node() for i in range(1001)}, "more than 1000 nodes"),
    ],
)
def test_a_workflow_that_cannot_be_used_says_why(purpose: Purpose, graph: Any, said: str) -> None:
    """And where, and what to write instead."""
    with pytest.raises(WorkflowInvalid) as caught:
        Workflow("w", graph, purpose)
    assert said in str(caught.value)


def test_nesting_is_bounded() -> None:
    """However deep a file is, nothing recurses for ever."""
    value: Any = "{{prompt}}"
    for _ in range(40):
        value = [value]
    with pytest.raises(WorkflowInvalid, match="nested too deeply"):
        Workflow("w", {"1": node(a=value)}, "image")


def test_a_file_is_named_in_what_is_said_about_it(tmp_path: Path) -> None:
    """Whether it is no JSON, too large or no workflow; a missing one is the system's to tell."""
    path = tmp_path / "poster.json"
    path.write_text("{")
    for text, said in (
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "not JSON"),
        (" " * (1 << 20) + "{}", "larger than"),
        (json.dumps({"1": node(a="x")}), 'no "{{prompt}}"'),
    ):
        path.write_text(text, "latin-1")
        with pytest.raises(WorkflowInvalid) as caught:
            read_workflow(path, "image")
        assert str(caught.value).startswith(f"{path}: ")
        assert said in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_workflow(tmp_path / "gone.json", "image")


def test_a_workflow_is_called_after_its_file_and_changes_are_seen(tmp_path: Path) -> None:
    """The digest is of the contents."""
    path = tmp_path / "poster.json"
    path.write_text(json.dumps({"1": node(a="{{prompt}}")}))
    workflow = read_workflow(path, "image")
    assert (workflow.name, workflow.pictures) == ("poster", 0)
    before = digest_of_workflow(path)
    assert before == digest_of_workflow(path)
    path.write_text(json.dumps({"1": node(b="{{prompt}}")}))
    assert before != digest_of_workflow(path)
