"""A tiny llama model with random weights, written as a GGUF file that llama.cpp really runs.

Nothing here knows language: the file exists so that tests meet true inference (tokens, context
limits, slots, grammars, streaming) within milliseconds. The tokenizer is one token per byte, so a
test can compute a prompt's tokens by hand.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Final

import gguf
import numpy
import numpy.typing

WIDTH: Final = 64
LAYERS: Final = 2
HEADS: Final = 4
FEED_FORWARD: Final = 128
CONTEXT_TOKENS: Final = 2048
BYTE_TOKENS: Final = 256
BEGIN, END = 1, 2

CHAT_TEMPLATE: Final = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '\\n' }}{% endif %}"
    "{% for message in messages %}"
    "<{{ message['role'] }}>"
    "{% if message['content'] %}{{ message['content'] }}{% endif %}"
    "{% if message['tool_calls'] %}{% for call in message['tool_calls'] %}"
    '{"name": {{ call.function.name | tojson }}, '
    '"arguments": {{ call.function.arguments | tojson }}}'
    "{% endfor %}{% endif %}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""Calls are bare JSON objects: llama.cpp infers a grammar from that, and since one brace is enough
to enter a call, even random weights get there within a few hundred tokens."""


@functools.cache
def tiny_gguf() -> Path:
    """The model with its usual seed, written once per test process and removed at its end."""
    directory = tempfile.mkdtemp(prefix="traghetto-tiny-gguf-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return write_tiny_gguf(Path(directory) / "tiny.gguf")


def write_tiny_gguf(path: Path, *, seed: int = 7, context_tokens: int = CONTEXT_TOKENS) -> Path:
    """Write the model to `path` (about 470 KB) and return `path`; the same seed, the same bytes."""
    random = numpy.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny-random-llama")
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer)

    def weights(*shape: int) -> numpy.typing.NDArray[numpy.float32]:
        return random.normal(0.0, 0.2, shape).astype(numpy.float32)

    vocabulary = 3 + BYTE_TOKENS
    writer.add_tensor("token_embd.weight", weights(vocabulary, WIDTH))
    writer.add_tensor("output.weight", weights(vocabulary, WIDTH))
    writer.add_tensor("output_norm.weight", numpy.ones(WIDTH, dtype=numpy.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", numpy.ones(WIDTH, dtype=numpy.float32))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}.{part}.weight", weights(WIDTH, WIDTH))
        writer.add_tensor(f"{block}.ffn_gate.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(f"{block}.ffn_up.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(f"{block}.ffn_down.weight", weights(WIDTH, FEED_FORWARD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(BYTE_TOKENS))]
    types = [
        gguf.TokenType.UNKNOWN,
        gguf.TokenType.CONTROL,
        gguf.TokenType.CONTROL,
        *([gguf.TokenType.BYTE] * BYTE_TOKENS),
    ]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * len(names))
    writer.add_token_types(types)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
