"""The one seam to llama.cpp: loading a GGUF file, running a chat, counting a prompt's tokens.

Everything here blocks and belongs on worker threads. The library runs chats in this process, but
it also always opens a listener of its own. It gets a Unix socket in a private directory and a
fresh secret, so that nobody else can use it; we use it to count tokens, which the library offers
nowhere else.
"""

from __future__ import annotations

import http.client
import importlib
import importlib.util
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

_LIBRARY: Final = "xllamacpp"
"""An optional extra, and a library of 100 MB."""
_MISSING: Final = (
    "running GGUF files needs llama.cpp: run `scripts/setup llama` in a checkout, or "
    "pip install 'traghetto[llama]'"
)
_SILENT: Final = -1
"""A verbosity at which llama.cpp writes nothing to our standard output and error."""
_PROMPT_CACHE_MEBIBYTES: Final = 512
_LISTENER_TIMEOUT_SECONDS: Final = 60.0
_SOCKET_PATH_BYTES_MAX: Final = 100
"""Kernels limit the path of a Unix socket to about 104 bytes."""

Chunk = dict[str, Any]


class LlamaLoadFailure(ValueError):
    """A model could not be loaded; the text tells the operator what to do."""


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """How a GGUF file is run.

    `context_tokens` is per call and is lowered to what the model was trained for; memory for
    `parallel_calls` contexts is taken at start. `threads` None leaves the choice to llama.cpp.
    """

    context_tokens: int = 8192
    parallel_calls: int = 4
    threads: int | None = None


class _Properties(msgspec.Struct):
    class Generation(msgspec.Struct):
        n_ctx: int

    default_generation_settings: Generation
    modalities: dict[str, bool] = {}
    chat_template_caps: dict[str, bool] = {}


class _TokenCount(msgspec.Struct):
    input_tokens: int


class LlamaServer:
    """A loaded model. Methods may be called from several threads at once, until `close`."""

    def __init__(self, path: Path, options: LlamaOptions) -> None:
        """Load the file at `path`, which takes milliseconds to minutes.

        Raises `LlamaLoadFailure` without the library, the file, or a model in it.
        """
        if not path.is_file():
            raise LlamaLoadFailure(f"{path} is not a file")
        library = _import_library()
        self._secret = secrets.token_hex(32)
        self._directory = tempfile.mkdtemp(prefix="traghetto-llama-")
        try:
            self._server: Any = library.Server(self._parameters(library, path, options))
            # The constructor returns before the library's own loop runs, and a loop that is told
            # to end before it runs never ends. A metrics request is answered by that loop.
            self._server.handle_metrics()
            self._address: str = self._server.listening_address
            properties = msgspec.json.decode(self._request("GET", "/props"), type=_Properties)
        except (RuntimeError, OSError, msgspec.DecodeError) as error:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise LlamaLoadFailure(f"llama.cpp cannot load {path}: is it a GGUF file?") from error
        self.context_tokens = properties.default_generation_settings.n_ctx
        """The context of one call, as llama.cpp granted it."""
        self.modalities = frozenset(name for name, has in properties.modalities.items() if has)
        """What a message may hold besides text: `vision`, `audio`, `video`."""
        self.calls_tools = properties.chat_template_caps.get("supports_tools", False)
        """Whether the model's chat template was written with tools in mind."""

    def chat(self, body: dict[str, Any], on_chunk: Callable[[Chunk], bool]) -> None:
        """Run a streaming chat; `on_chunk` gets each chunk and returns True to stop the work.

        An error of llama.cpp arrives as a chunk with the member `error`, or as `ValueError`
        (the request) or `RuntimeError` (anything else).
        """
        self._server.handle_chat_completions(body, on_chunk)

    def count_tokens(self, body: dict[str, Any]) -> int | None:
        """The tokens of the prompt that `body` makes, template and tools included.

        None if llama.cpp refuses the body; the chat itself will then say why.
        """
        try:
            answer = self._request(
                "POST", "/v1/chat/completions/input_tokens", msgspec.json.encode(body)
            )
            return msgspec.json.decode(answer, type=_TokenCount).input_tokens
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            return None

    def close(self) -> None:
        """Free the model. No other method may be running or be called again."""
        self._server = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _parameters(self, library: ModuleType, path: Path, options: LlamaOptions) -> Any:
        parameters = library.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = options.context_tokens * options.parallel_calls
        parameters.n_parallel = options.parallel_calls
        parameters.cache_ram_mib = _PROMPT_CACHE_MEBIBYTES
        if options.threads is not None:
            parameters.cpuparams.n_threads = options.threads
            parameters.cpuparams_batch.n_threads = options.threads
        parameters.verbosity = _SILENT
        parameters.offline = True
        parameters.ui = False
        parameters.endpoint_slots = False
        parameters.endpoint_metrics = True
        parameters.api_keys = [self._secret]
        parameters.cors_origins = "http://localhost"
        socket_path = f"{self._directory}/llama.sock"
        if hasattr(socket, "AF_UNIX") and len(socket_path.encode()) <= _SOCKET_PATH_BYTES_MAX:
            parameters.hostnames = [socket_path]
        return parameters

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = _connect(self._address)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self._secret}"})
            return connection.getresponse().read()
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_LISTENER_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_LISTENER_TIMEOUT_SECONDS)
        self.sock.connect(self._path)


def _connect(address: str) -> http.client.HTTPConnection:
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        return _UnixConnection(rest)
    return http.client.HTTPConnection(rest, timeout=_LISTENER_TIMEOUT_SECONDS)


def require_library() -> None:
    """Raises `LlamaLoadFailure` if llama.cpp is not installed; loads nothing."""
    if importlib.util.find_spec(_LIBRARY) is None:
        raise LlamaLoadFailure(_MISSING)


def _import_library() -> ModuleType:
    try:
        return importlib.import_module(_LIBRARY)
    except ImportError as error:
        raise LlamaLoadFailure(_MISSING) from error
