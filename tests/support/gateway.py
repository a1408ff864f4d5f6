"""A real gateway for tests: the product's own start-up, a real store, a real socket.

`running_gateway` runs it in a thread of this process, so that a test can also look at its books
and plan faults of its simulators; `gateway_process` runs `traghetto serve` as an operator does.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from traghetto.app import Gateway, Launch, Started, open_gateway
from traghetto.clock import Clock
from traghetto.http.server import ServerOptions, running
from traghetto.ledger.verify import verify
from traghetto.storage.sqlite import open_read_only

START_SECONDS_MAX = 60.0


@dataclass
class RunningGateway:
    """A gateway that serves in a thread of this process."""

    url: str
    """Without a path, such as `http://127.0.0.1:43210`."""
    data_dir: Path
    gateway: Gateway
    started: Started
    loop: asyncio.AbstractEventLoop
    log: io.StringIO

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def run(self, work: Any) -> Any:
        """The result of a coroutine, run on the gateway's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function, called on the gateway's own loop."""

        async def called() -> Any:
            return function(*arguments)

        return self.run(called())

    def perform(self, operation: str, **arguments: Any) -> Any:
        """An operator's operation, as the control socket carries it out; its result as JSON."""
        result = self.run(self.gateway.administration.perform(operation, arguments))
        return json.loads(msgspec.json.encode(result))

    def new_key(self, *, account: dict[str, Any] | None = None, **key: Any) -> str:
        """The secret of a fresh key on a fresh account; 10 USD unless `account` says otherwise."""
        name = f"account-{time.monotonic_ns()}"
        self.perform(
            "accounts.create", name=name, **({"usd": "10"} if account is None else account)
        )
        created: str = self.perform("keys.create", account=name, **key)["secret"]
        return created

    def usd(self, account: str) -> str:
        """The USD balance of an account."""
        shown: str = self.perform("accounts.show", account=account)["usd"]
        return shown

    def records(self) -> list[dict[str, Any]]:
        """What has been logged so far."""
        return [json.loads(line) for line in self.log.getvalue().splitlines() if line[:1] == "{"]

    def differences(self) -> list[Any]:
        """What `ledger verify` finds wrong now; waits until everything decided is on disk."""
        self.run(_settled(self.gateway))
        with open_read_only(self.data_dir) as snapshot:
            return list(verify(snapshot).differences)


async def _settled(gateway: Gateway) -> None:
    await gateway._store.submit(())


@contextlib.contextmanager
def running_gateway(
    tmp_path: Path,
    toml: str | None = None,
    *,
    clock: Clock | None = None,
    launch: Launch | None = None,
    **flags: Any,
) -> Iterator[RunningGateway]:
    """A gateway configured by `toml` (None: as without configuration) and setting `flags`."""
    data_dir = tmp_path / "data"
    flags = {"data_dir": data_dir, "port": 0, "drain_seconds_max": 2.0, **flags}
    if launch is None:
        path = None
        if toml is not None:
            path = tmp_path / "traghetto.toml"
            path.write_text(toml)
        launch = Launch(config_path=path, flags=flags)
    ready: list[RunningGateway] = []
    failed: list[BaseException] = []
    is_ready, stop = threading.Event(), threading.Event()

    def serve() -> None:
        try:
            asyncio.run(_serve(launch, data_dir, clock, ready, is_ready, stop))
        except BaseException as error:
            failed.append(error)
            is_ready.set()

    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        thread = threading.Thread(target=serve, name="gateway")
        thread.start()
        try:
            assert is_ready.wait(START_SECONDS_MAX), "the gateway did not start"
            if failed:
                raise failed[0]
            ready[0].log = log
            yield ready[0]
        finally:
            stop.set()
            thread.join()
    if failed:
        raise failed[0]
    assert not ready[0].gateway.dispatch.undeclared, "errors that their endpoints do not declare"


async def _serve(
    launch: Launch,
    data_dir: Path,
    clock: Clock | None,
    ready: list[RunningGateway],
    is_ready: threading.Event,
    stop: threading.Event,
) -> None:
    configuration = launch.configuration()
    async with (
        open_gateway(launch, configuration, clock) as (gateway, started),
        running(gateway.dispatch, ServerOptions.of(configuration.settings)) as url,
    ):
        loop = asyncio.get_running_loop()
        ready.append(RunningGateway(url, data_dir, gateway, started, loop, io.StringIO()))
        is_ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.01)


@dataclass
class GatewayProcess:
    """`traghetto serve` in a process of its own."""

    url: str
    admin_key: str | None
    process: subprocess.Popen[str]
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def gateway_process(
    tmp_path: Path, *arguments: str, **environment: str
) -> Iterator[GatewayProcess]:
    """`traghetto serve ARGUMENTS` on a free port, ready for requests."""
    log = tmp_path / f"serve-{time.monotonic_ns()}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "traghetto", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        )
    assert process.stdout is not None
    try:
        printed = _first_lines(process)
        match = re.search(r"http://\S+?(?=/api)", printed)
        assert match, f"no address in {printed!r}; {log.read_text()}"
        found = re.search(r"VENICE_ADMIN_KEY_\w+", printed)
        key = found[0] if found else None
        yield GatewayProcess(match[0], key, process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)
        process.stdout.close()


def operate(data_dir: Path, *command: str) -> Any:
    """What `traghetto COMMAND --json` prints for these books, decoded; fails if it is refused."""
    finished = subprocess.run(
        [sys.executable, "-m", "traghetto", *command, "--data-dir", str(data_dir), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def _first_lines(process: subprocess.Popen[str]) -> str:
    """What is printed at the start: the address, and the key that follows it at once or never."""
    assert process.stdout is not None
    printed = b""
    # Read from the descriptor: a buffered line would not be seen by `select`.
    while printed.count(b"\n") < 2:
        ready, _, _ = select.select([process.stdout], [], [], 0.3 if printed else None)
        piece = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not piece:
            break
        printed += piece
    return printed.decode()


def raw_exchange(address: tuple[str, int], request: bytes, *, seconds: float = 10.0) -> bytes:
    """Everything the server sends in answer to raw bytes, until it closes."""
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(request)
        received = b""
        with contextlib.suppress(TimeoutError):
            while piece := connection.recv(65536):
                received += piece
        return received
