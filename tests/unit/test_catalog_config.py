"""The configuration file: what it may say, and refusals with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from traghetto.catalog import (
    ConfigInvalid,
    GgufSource,
    MediaPricing,
    SimulatorSource,
    TextPricing,
    UpstreamSource,
    read_configuration,
)
from traghetto.catalog.toml_lines import TomlLines
from traghetto.engines.simulator.faults import Fault
from traghetto.money import FREE, UnitPrice
from traghetto.settings import SimulatorFault

GOOD = '''
port = 9000

[[upstreams]]
name = "gpu"
url = "http://127.0.0.1:8000/v1"
key_env = "GPU_KEY"
tokenize = "vllm"

[[upstreams]]
name = "spare"
url = "http://127.0.0.1:8001/v1"

[[models]]
id = "qwen"
upstreams = ["gpu", "spare"]
upstream_model = "Qwen/Qwen3"
pricing = { input = "0.70", output = 2.80, cache_input = "0.07" }
context_tokens = 32768
max_completion_tokens = 4096
traits = ["default"]
aliases = ["gpt-4o"]
concurrency_max = 4
first_event_seconds = 0.5
description = """
[[models]]
not = "a model"
"""

[models.capabilities]
supportsFunctionCalling = true

[[models]]
id = "local"
engine = "llama"
gguf = "/srv/a.gguf"
pricing = { input = 0, output = "0" }
size_class = "l"

[[models]]
id = "pretend"
engine = "simulator"
fault = "overloaded"
pricing = { input = "1", output = "1" }

[[models]]
id = "pictures"
type = "image"
pricing = { generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" } }

[[models]]
id = "vectors"
type = "embedding"
pricing = { input = "0.02", output = "0" }

[rate_limits.l]
requests_per_minute = 5
'''


def read(tmp_path: Path, text: str | bytes, **arguments):
    path = tmp_path / "traghetto.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_configuration(path, **arguments)


def refused(tmp_path: Path, text: str | bytes, **arguments) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path, text, **arguments)
    return str(caught.value).removeprefix(str(tmp_path) + "/")


def test_a_whole_file_is_read(tmp_path):
    """Settings, upstreams and models of every kind arrive as written, prices exactly."""
    configuration = read(tmp_path, GOOD)
    settings = configuration.settings
    assert (settings.port, settings.rate_limits) == (9000, "on")
    gpu, spare = settings.upstreams
    qwen, local, pretend, pictures, vectors = configuration.models
    assert qwen.backends == (UpstreamSource(gpu, "Qwen/Qwen3"), UpstreamSource(spare, "Qwen/Qwen3"))
    assert qwen.pricing.input == UnitPrice(700_000_000)
    assert qwen.pricing.output == UnitPrice(2_800_000_000)
    assert qwen.pricing.cache_input == UnitPrice(70_000_000)
    assert qwen.pricing.cache_write == qwen.pricing.input
    assert qwen.capabilities.supportsFunctionCalling
    assert (qwen.concurrency_max, qwen.queue_max, qwen.first_event_seconds) == (4, 8, 0.5)
    assert qwen.total_seconds is None
    assert "[[models]]" in qwen.description
    assert qwen.created > 1_700_000_000
    assert local.backends == (GgufSource(Path("/srv/a.gguf")),)
    assert (local.size_class, qwen.size_class) == ("l", "xs")
    assert local.pricing == TextPricing(FREE, FREE, FREE, FREE)
    assert pretend.backends == (SimulatorSource("overloaded"),)
    assert pictures.media_pricing == MediaPricing(
        {"generation": 10_000_000, "upscale": {"2x": 20_000_000, "4x": 80_000_000}}
    )
    assert (pictures.size_class, vectors.size_class) == ("image", "embedding")


def test_no_file_is_a_configuration(tmp_path):
    """Without a file there are defaults and no models; bad variables are still refused."""
    configuration = read_configuration(None, {"TRAGHETTO_PORT": "7"}, {})
    assert (configuration.settings.port, configuration.models) == (7, ())
    with pytest.raises(ConfigInvalid, match="environment variable TRAGHETTO_PORT"):
        read_configuration(None, {"TRAGHETTO_PORT": "x"})


FORGOTTEN = '''
# a comment with [[models]]
[[models]]
id = "a"
engine = "simulator"
pricing = { input = "0", output = "0" }
description = """
[[models]]
'"""

[[models]]
id = "b"
engine = "simulator"
'''


def test_a_forgotten_price_refuses_the_file(tmp_path):
    """A model without a price stops the start at the line of its header, saying what to write."""
    line = FORGOTTEN.split("\n").index('id = "b"')
    message = refused(tmp_path, FORGOTTEN)
    assert message.startswith(f"traghetto.toml:{line}: models[1]: model 'b' has no price; add ")
    assert 'pricing = { input = "0.70", output = "2.80" }' in message


MODEL = '[[models]]\nid = "a"\nengine = "simulator"\npricing = { input = "1", output = "1" }\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1\n", "1: prot: unknown key; did you mean `port`?"),
        ("\n\nport = 'x'\n", "3: port: expected a whole number, got text"),
        ("port = \n", "1: Invalid value"),
        ("a = 1\na = 2\n", "2: Cannot overwrite a value"),
        ('host = "\n', "1: "),
        (b"port = 1\nhost = '\xff'\n", "2: not UTF-8"),
        ("models = 3\n", "1: models: write each model as a `[[models]]` table"),
        ("models = [3]\n", "1: models[0]: expected a table"),
        (MODEL + "pro = true\n", "5: models[0].pro: unknown key; did you mean"),
        (
            MODEL + "type = 'txt'\n",
            "5: models[0].type: invalid enum value 'txt'; choose one of asr",
        ),
        (
            MODEL + "context_tokens = 0\n",
            "5: models[0].context_tokens: expected a whole number of at least 1",
        ),
        (MODEL + "upstreams = ['gpu']\n", "3: models[0].engine: a model has `upstreams` or"),
        ("port = 1\n", "1: models: none; name at least one `[[models]]` table, or start without"),
        (
            MODEL + "fault = 'bogus'\n",
            "5: models[0].fault: invalid enum value 'bogus'; choose one of overloaded, at-cap",
        ),
        (MODEL + "gguf = 'x'\n", "5: models[0].gguf: `gguf` needs engine"),
        (
            MODEL.replace("simulator", "llama")
            + 'gguf = "m.gguf"\ncapabilities.supportsVision = true\n',
            "6: models[0].capabilities.supportsVision: a model file is read without its projector",
        ),
        (
            MODEL + "image_tokens_max = 0\n",
            "5: models[0].image_tokens_max: expected a whole number of at least 1",
        ),
        (MODEL + "[models.capabilities]\nsupportsVison = true\n", "6: models[0].capabilities.supp"),
        (MODEL + "[models.model_spec]\nprivacy = 'x'\n", "6: models[0].model_spec.privacy: set"),
        (MODEL * 2, "5: models[1]: two models have the id 'a'"),
        (MODEL.replace('"a"', '"traits"'), "2: models[0].id: 'traits' is a route"),
        (MODEL.replace('"a"', '"a b"'), "2: models[0].id: expected text matching"),
        (MODEL.replace('"1"', "nan", 1), "4: models[0].pricing.input: an amount has at most"),
        (MODEL.replace('"1"', "-1", 1), "4: models[0].pricing.input: a price is never negative"),
        (MODEL.replace('"1"', "true", 1), "4: models[0].pricing.input: expected a price in USD"),
        (MODEL.replace('"1"', '"free"', 1), "4: models[0].pricing.input: not an amount of money"),
        (MODEL.replace('"1"', '"1e-10"', 1), "4: models[0].pricing.input: an amount has at most"),
        (MODEL.replace(', output = "1"', ""), "4: models[0].pricing: incomplete; write pricing"),
        (
            MODEL.replace("output", "outptu"),
            "4: models[0].pricing.outptu: unknown key; did you mean `output`?",
        ),
        (
            '[[models]]\nid = "a"\npricing = { input = "1", output = "1" }\n',
            "1: models[0]: nothing serves model 'a'; name `upstreams`, or an `engine`",
        ),
        (
            MODEL.replace('engine = "simulator"', 'upstreams = ["gpv"]')
            + '[[upstreams]]\nname = "gpu"\nurl = "http://x"\n',
            "3: models[0].upstreams: no `[[upstreams]]` table is named 'gpv'; there are gpu",
        ),
        ('[[upstreams]]\nname = "a"\nurl = "x"\n', "1: upstreams[0]: `url` starts with"),
    ],
)
def test_mistakes_are_refused_with_their_line(tmp_path, text, message):
    """Every mistake is one sentence that starts with the file and the line to mend."""
    assert refused(tmp_path, text).startswith(f"traghetto.toml:{message}")


def test_other_sources_have_no_line(tmp_path):
    """A bad variable is not blamed on the file."""
    message = refused(tmp_path, "port = 1\n", environ={"TRAGHETTO_PORT": "x"})
    assert message.startswith("environment variable TRAGHETTO_PORT")


def test_models_without_backends_can_wait_for_discovery(tmp_path):
    """An entry may only price a model that a server from the command line will offer."""
    text = '[[models]]\nid = "a"\npricing = { input = "1", output = "1" }\n'
    (model,) = read(tmp_path, text, backends_required=False).models
    assert model.backends == ()


def test_a_byte_order_mark_is_ignored(tmp_path):
    """Files of editors that write a byte order mark are read."""
    text = b"\xef\xbb\xbfport = 5\n"
    assert read(tmp_path, text, backends_required=False).settings.port == 5


def test_lines_survive_everything_toml_allows():
    """Statements are found after multi-line strings, arrays, comments and quoted keys."""
    text = "\n".join(
        [
            "a = 1 # [b]",  # 1
            'text = """',  # 2
            "b = 2",
            '"""',
            "raw = '''x",  # 5
            "[c]''' # '''",
            "list = [ # ]",  # 7
            "  '''d = 4''',",
            "  { e = 5 },",
            "]",
            "b = 2",  # 11
            '[t."x.y"]',  # 12
            "f.g = 6",  # 13
            "[[m]]",  # 14
            "h = 7",
            "[m.sub]",  # 16
            "i = 8",
            "[[m]]",  # 18
            "[[m.deep]]",  # 19
            "j = '''a''''",  # 20
            "[[m.deep]]",  # 21
        ]
    )
    lines = TomlLines(text)
    expected = {
        ("b",): 11,
        ("list",): 7,
        ("t", "x.y"): 12,
        ("t", "x.y", "f", "g"): 13,
        ("m", 0, "h"): 15,
        ("m", 0, "sub", "i"): 17,
        ("m", 1): 18,
        ("m", 1, "deep", 0, "j"): 20,
        ("m", 1, "deep", 1): 21,
        ("m", 1, "unknown"): 18,
        ("nothing",): 1,
    }
    assert {path: lines.line_of(path) for path in expected} == expected


def test_the_names_of_faults_are_those_of_the_simulator():
    """A file can name every fault that the simulator has, and no other."""
    assert set(get_args(SimulatorFault)) == {fault.value for fault in Fault}


def test_what_a_file_names_can_be_required_to_be_there(tmp_path):
    """Where the file is to be served, a missing model file or key is refused at its line."""
    model_file = tmp_path / "a.gguf"
    local = f'[[models]]\nid = "a"\nengine = "llama"\ngguf = "{model_file}"\n'
    local += 'pricing = { input = "1", output = "1" }\n'
    message = refused(tmp_path, local, must_run_here=True)
    assert message == f"traghetto.toml:4: models[0].gguf: {model_file} is not a file"
    model_file.touch()
    assert read(tmp_path, local, must_run_here=True).models
    relayed = '[[upstreams]]\nname = "gpu"\nurl = "http://x"\nkey_env = "GPU_KEY"\n'
    assert read(tmp_path, relayed + MODEL, must_run_here=True).models, "nobody uses that upstream"
    relayed += MODEL.replace('engine = "simulator"', 'upstreams = ["gpu"]')
    message = refused(tmp_path, relayed, must_run_here=True)
    assert message.startswith("traghetto.toml:4: upstreams[0].key_env: GPU_KEY is not set: ")
    assert read(tmp_path, relayed, environ={"GPU_KEY": "x"}, must_run_here=True).models


def test_deadlines_fit_into_the_hold(tmp_path):
    """A model whose answers could outlive their holds is refused at the line that says so."""
    model = '[[models]]\nid = "m"\nengine = "simulator"\npricing = { input = "0", output = "0" }\n'
    text = "hold_seconds_max = 700\n\n" + model + "total_seconds = "
    assert refused(tmp_path, text + "691").startswith(
        "traghetto.toml:7: models[0].total_seconds: an answer may take 691 s"
    )
    assert read(tmp_path, text + "690").models[0].total_seconds == 690
    assert refused(tmp_path, "\ntotal_seconds = 900\n").startswith("traghetto.toml:2:")
    assert refused(tmp_path, "\nhold_seconds_max = 605\n").startswith("traghetto.toml:2:")


def test_what_goes_into_headers_has_no_line_breaks(tmp_path):
    """One in an id, a name or an announced end would cut every answer of the model."""
    for member in (
        'name = "a\\nb"',
        'deprecation = { date = "2026-01-01", removes_at = "2026-02-01\\n" }',
        'deprecation = { date = "2026-01-01", removes_at = "2026-02-01", replacement = "m\\r" }',
    ):
        model = '[[models]]\nid = "m"\nengine = "simulator"\npricing = { input = 0, output = 0 }\n'
        assert refused(tmp_path, model + member).startswith("traghetto.toml:5: models[0].")
    model = (
        '[[models]]\nid = "m\\n"\nengine = "simulator"\npricing = { input = "0", output = "0" }\n'
    )
    assert refused(tmp_path, model).startswith("traghetto.toml:2: models[0].id")
