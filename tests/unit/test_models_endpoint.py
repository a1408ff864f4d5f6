"""The model routes and the `models` command."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from traghetto.catalog import FREE_TEXT, Catalog, MediaPricing, Model
from traghetto.cli.models import models as command
from traghetto.endpoints.models import (
    compatibility_answer,
    model_answer,
    models_answer,
    traits_answer,
)
from traghetto.errors import ApiError, ErrorCode, ErrorStyle, render_error

CATALOG = Catalog(
    [
        Model(id="openai/whisper", type="asr", pricing=FREE_TEXT, media_pricing=MediaPricing({})),
        Model(id="a", pricing=FREE_TEXT, traits=("default",), aliases=("gpt-4o",)),
        Model(id="b", pricing=FREE_TEXT, privacy="anonymized", traits=("fastest",)),
    ]
)


def ids(answer: bytes) -> list[str]:
    return [model["id"] for model in json.loads(answer)["data"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", ["a", "b"]),
        (b"type=", ["a", "b"]),
        (b"type=text", ["a", "b"]),
        (b"type=asr", ["openai/whisper"]),
        (b"type=all&limit=3", ["openai/whisper", "a", "b"]),
        (b"other=1", ["a", "b"]),
        (b"type=code", []),
    ],
)
def test_models_are_listed_by_type(query, expected):
    """Without a type the listing has text models; other parameters do not matter."""
    assert ids(models_answer(CATALOG, query)) == expected


def test_a_bogus_type_is_an_invalid_union():
    """The published sample of a bad type: a union of two enums, with both refusals inside."""
    with pytest.raises(ApiError) as caught:
        models_answer(CATALOG, b"type=bogus")
    body = json.loads(render_error(caught.value, "r", ErrorStyle()).body)
    assert caught.value.status == 400
    assert list(body) == ["error", "details", "issues"]
    (issue,) = body["issues"]
    assert (issue["code"], issue["message"], issue["path"]) == (
        "invalid_union",
        "Invalid input",
        ["type"],
    )
    types, groups = (error["issues"][0] for error in issue["unionErrors"])
    assert types["options"] == [
        "asr",
        "embedding",
        "image",
        "music",
        "text",
        "tts",
        "upscale",
        "inpaint",
        "video",
    ]
    assert groups["message"] == "Invalid enum value. Expected 'all' | 'code', received 'bogus'"
    assert body["details"]["_errors"] == []
    assert groups["message"] in body["details"]["type"]["_errors"]


@pytest.mark.parametrize("answer", [traits_answer, compatibility_answer])
@pytest.mark.parametrize("kind", ["all", "code", "bogus", "x" * 5000])
def test_mappings_have_one_type(answer, kind):
    """Traits and foreign names belong to one type, so groups are refused as bad enum values."""
    with pytest.raises(ApiError) as caught:
        answer(CATALOG, b"type=" + kind.encode())
    (issue,) = caught.value.issues
    assert issue["code"] == "invalid_enum_value"
    assert len(issue["received"]) <= 200


def test_too_many_parameters_are_refused():
    """A query of thousands of parameters is not taken apart."""
    with pytest.raises(ApiError) as caught:
        models_answer(CATALOG, b"a=1&" * 5000)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_mappings_name_ids():
    """Traits and foreign names map to ids, less those a key may not use."""
    assert json.loads(traits_answer(CATALOG, b"")) == {
        "object": "list",
        "type": "text",
        "data": {"default": "a", "fastest": "b"},
    }
    assert json.loads(traits_answer(CATALOG, b"", "PRIVATE_TEXT"))["data"] == {"default": "a"}
    assert json.loads(compatibility_answer(CATALOG, b"type=text"))["data"] == {"gpt-4o": "a"}
    assert json.loads(compatibility_answer(CATALOG, b"type=video"))["data"] == {}


def test_one_model_is_found_by_any_name():
    """An id may contain a slash; traits and aliases work as in requests."""
    assert json.loads(model_answer(CATALOG, "openai/whisper"))["type"] == "asr"
    assert json.loads(model_answer(CATALOG, "gpt-4o"))["id"] == "a"


@pytest.mark.parametrize(("name", "privacy"), [("zzz", "ALL"), ("b", "PRIVATE_ONLY")])
def test_unknown_and_hidden_models_are_not_found(name, privacy):
    """A model that a key may not use looks as if it did not exist."""
    with pytest.raises(ApiError) as caught:
        model_answer(CATALOG, name, privacy)
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


CONFIG = """
[[models]]
id = "qwen"
engine = "simulator"
pricing = { input = "0.70", output = "2.80" }
context_tokens = 4096
"""


def test_the_command_lists_and_checks_a_configuration(tmp_path):
    """An operator sees prices per million tokens, or the listing as JSON with exact numbers."""
    path = tmp_path / "t.toml"
    path.write_text(CONFIG)
    run = CliRunner()
    table = run.invoke(command, ["list", "--config", str(path)]).output
    assert table.splitlines()[1].split() == ["qwen", "text", "0.7", "2.8", "4096", "simulator"]
    listed = run.invoke(command, ["list", "--config", str(path), "--json"]).output
    assert '"usd": 0.7' in listed
    assert json.loads(listed)["data"][0]["id"] == "qwen"
    shown = run.invoke(command, ["show", "Qwen", "--config", str(path)])
    assert "Qwen means qwen" in shown.output
    missing = run.invoke(command, ["show", "nothing", "--config", str(path)])
    assert missing.exit_code == 1
    assert "no model is called 'nothing'" in missing.output
    assert "valid, 1 models" in run.invoke(command, ["check", "--config", str(path)]).output
    path.write_text(CONFIG.replace("pricing", "prices"))
    assert run.invoke(command, ["check", "--config", str(path)]).exit_code == 1
