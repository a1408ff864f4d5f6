"""The gateway as an operator has it: `traghetto serve` in a process, its books, its control socket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from crash.history import Books, Life, Moment
from traghetto.accounts.control import SOCKET_NAME
from traghetto.ledger.verify import verify
from traghetto.storage.sqlite import open_read_only

START_SECONDS_MAX = 60.0
"""When to give up waiting; the oracle asks for less."""
STOP_SECONDS_MAX = 40.0
TESTS = Path(__file__).parents[1]


class NotReady(Exception):
    """The gateway did not say in time that it answers; the message is its log."""


class Server:
    """One process of the gateway; `bug` names what is put into it (`seeded_bugs`)."""

    def __init__(self, folder: Path, life: Life, bug: str | None) -> None:
        """Start it on the books in `folder`, which also has its configuration."""
        self.life = life
        self.data_dir = folder / "data"
        self.address = ("", 0)
        self._log = folder / f"serve-{life.number}.log"
        command = ["traghetto"] if bug is None else ["crash.seeded_bugs", bug]
        options = ("--config", folder / "traghetto.toml", "--data-dir", self.data_dir)
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        self._began = time.monotonic()
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command, "serve", "--port", "0", *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )

    async def ready(self) -> None:
        """Wait until it says where it answers, and note how long that took."""
        assert self._process.stdout is not None
        # Its first line is the address; a process that dies closes the pipe.
        reading = asyncio.to_thread(self._process.stdout.readline)
        try:
            line = await asyncio.wait_for(reading, START_SECONDS_MAX)
        except TimeoutError:
            line = ""
        match = re.search(r"http://([\d.]+):(\d+)/", line)
        if match is None:
            raise NotReady(self._log.read_text())
        self.life.ready_seconds = time.monotonic() - self._began
        self.address = (match[1], int(match[2]))

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        self.life.kill_ns = time.time_ns()
        self._process.send_signal(signal.SIGKILL)
        self._ended()

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._process.terminate()
        self._ended()

    def close(self) -> None:
        """Leave nothing behind, whatever has happened."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ended(self) -> None:
        self._process.wait(STOP_SECONDS_MAX)
        self.life.ended_ns = time.time_ns()


class Operator:
    """A connection to the control socket, which the commands of the command line use too."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def of(cls, data_dir: Path) -> Operator:
        """Connect to the gateway that owns the books."""
        return cls(*await asyncio.open_unix_connection(str(data_dir / SOCKET_NAME)))

    async def perform(self, operation: str, **arguments: Any) -> Any:
        """The result of an operation; raises ConnectionError if the answer never comes."""
        request = {"operation": operation, "arguments": arguments}
        self._writer.write(json.dumps(request).encode() + b"\n")
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the gateway has gone")
        answer = json.loads(line)
        assert "error" not in answer, answer
        return answer["result"]

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def read_books(data_dir: Path, moment: Moment) -> Books:
    """One snapshot of the books, and what `ledger verify` says about it."""
    with open_read_only(data_dir) as snapshot:
        differences = verify(snapshot).differences
        return Books(
            moment=moment,
            read_ns=time.time_ns(),
            entries=tuple(snapshot.entries()),
            usages=tuple(snapshot.usages()),
            balances=tuple(snapshot.balances()),
            holds=tuple(snapshot.holds()),
            differences=tuple(map(str, differences)),
        )
