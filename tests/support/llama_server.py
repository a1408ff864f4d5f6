"""A real llama.cpp HTTP server in a process of its own, for tests that need a true upstream."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CONTEXT_TOKENS: Final = 2048

_PROGRAM: Final = """
import sys
import xllamacpp

path, api_key, parallel = sys.argv[1:]
parameters = xllamacpp.CommonParams()
parameters.model.path = path
parameters.n_parallel = int(parallel)
parameters.n_ctx = {context} * int(parallel)
parameters.api_keys = [api_key] if api_key else []
parameters.verbosity = -1
parameters.cpuparams.n_threads = 1
parameters.cpuparams_batch.n_threads = 1
parameters.endpoint_props = True
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class RunningLlamaServer:
    """Where the server listens, without a trailing slash; OpenAI's paths start with `/v1`."""

    address: str
    process_id: int


@contextmanager
def llama_server(
    model: Path, *, api_key: str = "", parallel_calls: int = 2
) -> Iterator[RunningLlamaServer]:
    """Serve the GGUF file `model` on a free loopback port until the context ends.

    The process ends with its standard input, so that it cannot outlive the test run.
    """
    program = _PROGRAM.format(context=_CONTEXT_TOKENS)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(model), api_key, str(parallel_calls)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"llama.cpp did not start: exit status {process.wait()}")
            yield RunningLlamaServer(address, process.pid)
        finally:
            process.kill()
