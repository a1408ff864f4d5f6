"""Constraints and tiers of image models in a configuration file: refused where they make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from traghetto.catalog import ConfigInvalid, read_configuration

IMAGE = 'generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" }'


def refused(tmp_path: Path, constraints: str, prices: str = IMAGE, kind: str = "image") -> str:
    """What is said of a model, without the path of the file."""
    path = tmp_path / "traghetto.toml"
    engine = "simulator" if kind in {"image", "text"} else "classical"
    path.write_text(
        f'[[models]]\nid = "m"\ntype = "{kind}"\nengine = "{engine}"\n'
        f"pricing = {{ {prices} }}\n[models.constraints]\n{constraints}\n"
    )
    with pytest.raises(ConfigInvalid) as caught:
        read_configuration(path)
    return str(caught.value).removeprefix(f"{path}:")


@pytest.mark.parametrize(
    ("constraints", "text"),
    [
        ("resolutionz = []", "7: models[0].constraints.resolutionz: unknown key; did you mean"),
        (
            "promptCharacterLimit = 'long'",
            "7: models[0].constraints.promptCharacterLimit: expected",
        ),
        ("promptCharacterLimit = 0", "7: models[0].constraints.promptCharacterLimit: expected"),
        ("widthHeightDivisor = 0", "7: models[0].constraints.widthHeightDivisor: expected"),
        ("steps = 8", "7: models[0].constraints.steps: expected"),
        (
            "steps = { default = 60, max = 50 }",
            "7: models[0].constraints.steps: `default` is above",
        ),
        ("aspectRatios = [':']", "7: models[0].constraints.aspectRatios: ':' is no ratio such as"),
        ("aspectRatios = ['auto']", "7: models[0].constraints.aspectRatios: 'auto' is for edits"),
        ("resolutions = ['5K']", "7: models[0].constraints.resolutions: "),
        (
            "aspectRatios = ['1:1']\ndefaultAspectRatio = '16:9'",
            "8: models[0].constraints.defaultAspectRatio: '16:9' is not listed; there is 1:1",
        ),
        (
            "defaultQuality = 'high'",
            "7: models[0].constraints.defaultQuality: 'high' is not listed; there is nothing",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_stands(
    tmp_path: Path, constraints: str, text: str
) -> None:
    """With its line, as every other member of the file."""
    assert refused(tmp_path, constraints).startswith(text)


def test_each_type_has_its_own(tmp_path: Path) -> None:
    """What one type has another has not."""
    edits = 'inpaint = "0.04"'
    assert "unknown key" in refused(tmp_path, "steps = { default = 1, max = 2 }", edits, "inpaint")
    assert "unknown key" in refused(tmp_path, "combineImages = true")
    tokens = 'input = "1", output = "2"'
    assert "unknown key" in refused(tmp_path, "aspectRatios = ['1:1']", tokens, "text")
    upscale = 'upscale = { 2x = "0.02", 4x = "0.08" }'
    assert "unknown key" in refused(tmp_path, "promptCharacterLimit = 10", upscale, "upscale")


UPSCALE = 'upscale = { 2x = "0.02", 4x = "0.08" }'


@pytest.mark.parametrize(
    ("constraints", "prices", "text"),
    [
        (
            "",
            f'resolutions = {{ 1K = "0.01" }}, {UPSCALE}',
            "list '1K' in `constraints.resolutions`",
        ),
        (
            "resolutions = ['1K', '2K']",
            f'resolutions = {{ 1K = "0.01" }}, {UPSCALE}',
            "`constraints` lists '2K'; price it",
        ),
        (
            "resolutions = ['1K']",
            f'quality = {{ 1K = {{ high = "0.2" }} }}, {IMAGE}',
            "list 'high' in `constraints.qualities`",
        ),
        ("", f'resolutions = "0.01", {IMAGE}', "pricing.resolutions: expected a table of prices"),
        ("", f'resolutionz = {{ 2K = "0.5" }}, {IMAGE}', "did you mean `resolutions`?"),
        ("", f'inpaint = "0.5", {IMAGE}', "pricing.inpaint: unknown"),
        ("", 'generation = "1", upscale = { 2x = "0.02" }', "pricing.upscale: `4x` is missing"),
        ("", 'generation = "1", upscale = { 2 = "1" }', "pricing.upscale.2: unknown"),
        (
            "resolutions = ['1K', '2K']",
            f'resolutions = {{ 1K = "0.02" }}, {IMAGE}',
            "`constraints` lists '2K'; price it",
        ),
        (
            "resolutions = ['1K']\nqualities = ['low', 'high']",
            f'quality = {{ 1K = {{ low = "0.2" }} }}, {IMAGE}',
            "`constraints` lists 'high'; price it",
        ),
    ],
)
def test_prices_and_choices_name_the_same_tiers(
    tmp_path: Path, constraints: str, prices: str, text: str
) -> None:
    """Or a request would pay for a tier that it could not ask for."""
    assert text in refused(tmp_path, constraints, prices)


def test_prompts_are_rewritten_by_a_model_that_is_there(tmp_path: Path) -> None:
    """Of type text, and in the file; where models come from servers it is only known later."""
    path = tmp_path / "traghetto.toml"
    models = (
        f'[[models]]\nid = "m"\ntype = "image"\nengine = "simulator"\npricing = {{ {IMAGE} }}\n'
    )
    path.write_text(f'prompt_enhancement_model = "m"\n{models}')
    with pytest.raises(ConfigInvalid, match="1: prompt_enhancement_model: there is no text model"):
        read_configuration(path)
    read_configuration(path, backends_required=False)
