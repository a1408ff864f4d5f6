"""The gateway as an operator runs it: one process, durable books, real prices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from machine import free_port, start_pinned, stop, wait_until_ready
from nginx import MODEL, STREAM_MODEL, Nginx

TRAGHETTO = (sys.executable, "-m", "traghetto")
CREDIT_USD = "1000000"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, and how long it took to answer that it is ready."""

    process: subprocess.Popen[bytes]
    port: int
    ready_seconds: float


def prepare(directory: Path, behind: Nginx) -> str:
    """Write the configuration and the books; the API key of an account with plenty of funds."""
    (directory / "traghetto.toml").write_text(
        f"""
        rate_limits = "off"
        durability = "full"

        [[upstreams]]
        name = "whole"
        url = "http://127.0.0.1:{behind.json_port}/v1"

        [[upstreams]]
        name = "streams"
        url = "http://127.0.0.1:{behind.stream_port}/v1"

        [[models]]
        id = "{MODEL}"
        upstreams = ["whole"]
        pricing = {{ input = "0.15", output = "0.60" }}

        [[models]]
        id = "{STREAM_MODEL}"
        upstreams = ["streams"]
        pricing = {{ input = "0.15", output = "0.60" }}
        """
    )
    account = "benchmark"
    administer(directory, "accounts", "create", account, "--usd", CREDIT_USD, "--new-books")
    secret: str = administer(directory, "keys", "create", "--account", account)["secret"]
    return secret


def administer(directory: Path, *arguments: str) -> dict[str, str]:
    command = [*TRAGHETTO, *arguments, "--data-dir", str(directory / "data"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return msgspec.json.decode(done.stdout, type=dict)


@contextmanager
def gateway(directory: Path, core: int) -> Iterator[Gateway]:
    """Run the gateway that `prepare` prepared."""
    port = free_port()
    log = directory / "gateway.log"
    command = [*TRAGHETTO, "serve", "--port", str(port)]
    command += [
        "--config",
        str(directory / "traghetto.toml"),
        "--data-dir",
        str(directory / "data"),
    ]
    process = start_pinned(command, core, log=log)
    try:
        yield Gateway(process, port, wait_until_ready(port, "/health/ready", process, log))
    finally:
        stop(process)
