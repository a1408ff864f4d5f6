"""The control socket: operators' commands reach the process that owns the books.

A Unix socket (0600) in the data directory; one line of JSON per request and per answer:
`{"operation": ..., "arguments": {...}}`, then `{"result": ...}` or `{"error": "a sentence"}`.
Whoever may open the socket may read the books anyway, so it asks for no key.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import msgspec

from traghetto.accounts.administration import Administration, OperationRefused
from traghetto.storage.connector import StoreBroken

SOCKET_NAME: Final = "control.sock"
LINE_BYTES_MAX: Final = 64 * 1024
IDLE_SECONDS_MAX: Final = 10.0
_SOCKET_PATH_BYTES_MAX: Final = 107


class ControlRequest(msgspec.Struct, frozen=True):
    """One request of an operator's command."""

    operation: str
    arguments: dict[str, Any] = {}


class Control:
    """A listening control socket; made by `serve_control`."""

    def __init__(self, path: Path, administration: Administration) -> None:
        self._path = path
        self._administration = administration
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. A socket that a dead process left is replaced: the caller owns the directory."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(
            self._accept, path=str(self._path), limit=LINE_BYTES_MAX
        )
        self._path.chmod(0o600)

    async def aclose(self) -> None:
        """Stop listening and end the connections that are open."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass  # The command has gone, says nothing, or we are shutting down.
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), IDLE_SECONDS_MAX)
            except ValueError:  # longer than the limit
                line = b""
                writer.write(_error(f"a request has at most {LINE_BYTES_MAX} bytes"))
            if not line:
                return
            writer.write(await self._answer(line))
            await asyncio.wait_for(writer.drain(), IDLE_SECONDS_MAX)

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = msgspec.json.decode(line, type=ControlRequest)
            result = await self._administration.perform(request.operation, request.arguments)
        except (msgspec.DecodeError, OperationRefused, StoreBroken) as refusal:
            return _error(str(refusal))
        return msgspec.json.encode({"result": result}) + b"\n"


async def serve_control(path: Path, administration: Administration) -> Control:
    """Listen on the Unix socket `path` until `aclose` of what this returns.

    Raises ValueError if the path is longer than the operating system allows.
    """
    if len(bytes(path)) > _SOCKET_PATH_BYTES_MAX:
        raise ValueError(
            f"the control socket's path has more than {_SOCKET_PATH_BYTES_MAX} bytes: choose a "
            f"data directory with a shorter path than {path.parent}"
        )
    control = Control(path, administration)
    await control.start()
    return control


def _error(sentence: str) -> bytes:
    return msgspec.json.encode({"error": sentence}) + b"\n"
