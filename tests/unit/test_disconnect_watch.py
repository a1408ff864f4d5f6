"""The watch for a client that leaves: what the watched work sees, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from traghetto.pipeline.exchange import ClientGone, DisconnectWatch


async def never() -> dict[str, Any]:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def test_who_has_gone_already_is_not_waited_for() -> None:
    """The work does not begin, and nothing is cancelled later."""

    async def test() -> None:
        def gone(callback: Callable[[], None] | None) -> None:
            if callback is not None:
                callback()

        for _ in range(2):
            with pytest.raises(ClientGone), DisconnectWatch(never, gone):
                raise AssertionError("it began")
        await asyncio.sleep(0)

    asyncio.run(test())


@pytest.mark.parametrize("has_extension", [True, False])
def test_who_leaves_meanwhile_ends_the_work(has_extension: bool) -> None:
    """Once, and the next thing the task does is not disturbed."""

    async def test() -> None:
        callbacks: list[Callable[[], None]] = []

        def register(callback: Callable[[], None] | None) -> None:
            if callback is not None:
                callbacks.append(callback)

        async def disconnected() -> dict[str, Any]:
            await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def work() -> None:
            with DisconnectWatch(disconnected, register if has_extension else None):
                if has_extension:
                    asyncio.get_running_loop().call_later(0.01, callbacks[0])
                await asyncio.sleep(60)

        with pytest.raises(ClientGone):
            await work()
        await asyncio.sleep(0)

    asyncio.run(test())
