"""Image models in the configuration file: which servers may serve them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from traghetto.catalog import ConfigInvalid, UpstreamSource, read_configuration
from traghetto.catalog.model import WorkflowFile

SERVERS = """
[[upstreams]]
name = "plain"
url = "http://127.0.0.1:8000/v1"

[[upstreams]]
name = "forge"
url = "http://127.0.0.1:7860"
api = "sdapi"
key_env = "FORGE_LOGIN"

[[upstreams]]
name = "comfy"
url = "http://127.0.0.1:8188"
api = "comfyui"
"""
PRICES = {
    "text": '{ input = "1", output = "1" }',
    "image": '{ generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" } }',
    "inpaint": '{ inpaint = "0.04" }',
    "upscale": '{ upscale = { 2x = "0.02", 4x = "0.08" } }',
}


def model(kind: str, *members: str) -> str:
    lines = "\n".join(members)
    return f'{SERVERS}\n[[models]]\nid = "m"\ntype = "{kind}"\npricing = {PRICES[kind]}\n{lines}\n'


def sources(tmp_path: Path, text: str) -> list[UpstreamSource]:
    path = tmp_path / "traghetto.toml"
    path.write_text(text)
    (read,) = read_configuration(path).models
    assert all(isinstance(source, UpstreamSource) for source in read.backends)
    return list(read.backends)  # type: ignore[arg-type]


def refused(tmp_path: Path, text: str, **options: bool) -> str:
    path = tmp_path / "traghetto.toml"
    path.write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        read_configuration(path, {"FORGE_LOGIN": "a:b"}, **options)
    return str(caught.value)


def test_an_image_model_names_servers_of_any_kind(tmp_path: Path) -> None:
    """Replicas may speak different protocols; each has what its own needs."""
    plain, forge, comfy = sources(
        tmp_path,
        model("image", 'upstreams = ["plain", "forge", "comfy"]', 'workflow = "paint.json"'),
    )
    assert (plain.upstream.api, plain.model, plain.workflow) == ("openai", "m", None)
    assert (forge.upstream.api, forge.model, forge.workflow) == ("sdapi", None, None)
    assert (comfy.upstream.api, comfy.model) == ("comfyui", None)
    assert comfy.workflow == WorkflowFile(Path("paint.json"), "image")


def test_a_name_over_there_is_a_checkpoint_or_an_upscaler(tmp_path: Path) -> None:
    """What `sdapi` calls a model depends on what it is to do."""
    (forge,) = sources(tmp_path, model("inpaint", 'upstreams = ["forge"]', 'upstream_model = "d"'))
    assert forge.model == "d"
    (forge,) = sources(tmp_path, model("upscale", 'upstreams = ["forge"]', 'upstream_model = "R"'))
    assert forge.model == "R"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (model("text", 'upstreams = ["forge"]'), "models[0].upstreams: 'forge' speaks sdapi"),
        (model("text", 'upstreams = ["comfy"]'), "give the model the type image, inpaint, upscale"),
        (model("upscale", 'upstreams = ["plain"]'), "OpenAI's API, which has no upscaling"),
        (model("upscale", 'upstreams = ["forge"]'), "name the upscaler of 'forge'"),
        (model("image", 'upstreams = ["comfy"]'), "name the file to run in `workflow`"),
        (
            model("image", 'upstreams = ["plain"]', 'workflow = "w.json"'),
            'models[0].workflow: `workflow` needs an upstream of api = "comfyui"',
        ),
        (model("image", 'workflow = "w.json"'), "models[0].workflow: `workflow` needs an upstream"),
        (SERVERS.replace('"sdapi"', '"forge"'), "upstreams[1].api"),
        (SERVERS + 'tokenize = "vllm"\n', "`tokenize` is for text"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    """At the start, with file, line and member."""
    message = refused(tmp_path, text)
    assert said in message
    assert message.startswith(f"{tmp_path}/traghetto.toml:")


def test_a_workflow_that_is_not_there_is_refused_by_a_check(tmp_path: Path) -> None:
    """Like a model file: only where the configuration has to run here."""
    missing = tmp_path / "gone.json"
    text = model("image", 'upstreams = ["comfy"]', f'workflow = "{missing}"')
    assert sources(tmp_path, text)
    assert f"models[0].workflow: {missing} is not a file" in refused(
        tmp_path, text, must_run_here=True
    )
