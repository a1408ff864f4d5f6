"""llama.cpp as a backend: real inference from a GGUF file, in this process.

A call is one run per choice, each on a worker thread; chunks come to the event loop over a
bridge. A consumer that leaves stops its runs at their next chunk. The file is read once, at start.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traghetto.clock import Clock
from traghetto.engines.classify import failure_of_event
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.llama.answer import DONE, Answer
from traghetto.engines.llama.bridge import Bridge
from traghetto.engines.llama.library import Chunk, LlamaOptions, LlamaServer
from traghetto.engines.llama.request import llama_body
from traghetto.engines.protocols import BackendModel, ChatCall


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run is over; `failure` says why it did not end well, as far as its thread knows."""

    failure: EngineFailure | None = None


_Item = tuple[int, Chunk | _Ended]


class LlamaBackend:
    """A `ChatBackend` over one loaded model."""

    def __init__(
        self, server: LlamaServer, *, name: str, clock: Clock, parallel_calls: int
    ) -> None:
        """`name` also names the model in answers; `parallel_calls` runs go at once, others wait."""
        self._server = server
        self._name = name
        self._clock = clock
        self._runs = ThreadPoolExecutor(parallel_calls, f"llama-{name}")
        self._counts = ThreadPoolExecutor(1, f"llama-count-{name}")
        self._bridges: set[Bridge[_Item]] = set()
        self._closed = False

    @classmethod
    async def load(
        cls, path: Path, options: LlamaOptions, *, name: str, clock: Clock
    ) -> LlamaBackend:
        """Load the GGUF file at `path`; raises `LlamaLoadFailure`.

        The library keeps the interpreter's lock while it reads the file, so that other tasks
        stand still for that time, although this runs on a thread.
        """
        server = await asyncio.to_thread(LlamaServer, path, options)
        return cls(server, name=name, clock=clock, parallel_calls=options.parallel_calls)

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_tokens(self) -> int:
        """The context of one call: what was asked for, or less if the model was trained so."""
        return self._server.context_tokens

    async def complete(self, call: ChatCall) -> dict[str, Any]:
        answer = self._new_answer(call)
        with self._started(call) as bridge:
            async for _ in self._events(call, answer, bridge):
                pass
        return answer.completion()

    async def stream(self, call: ChatCall) -> AsyncGenerator[list[bytes], None]:
        answer = self._new_answer(call)
        with self._started(call) as bridge:
            async with aclosing(self._events(call, answer, bridge)) as arriving:
                async for events in arriving:
                    yield events
        yield [answer.last_event(), DONE]

    async def count_prompt_tokens(self, call: ChatCall) -> int | None:
        self._check_open()
        body = llama_body(call.body, self._server.modalities)
        return await asyncio.get_running_loop().run_in_executor(
            self._counts, self._server.count_tokens, body
        )

    async def models(self) -> list[BackendModel]:
        self._check_open()
        capabilities = {
            "supportsFunctionCalling": self._server.calls_tools,
            "supportsResponseSchema": True,
            "supportsLogProbs": True,
            "supportsVision": "vision" in self._server.modalities,
        }
        return [
            BackendModel(
                id=self._name,
                context_tokens=self._server.context_tokens,
                capabilities=capabilities,
            )
        ]

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        for bridge in self._bridges:
            bridge.leave()
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        self._runs.shutdown(cancel_futures=True)
        self._counts.shutdown(cancel_futures=True)
        self._server.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineFailure(FailureKind.OFFLINE, "the model was unloaded")

    def _new_answer(self, call: ChatCall) -> Answer:
        return Answer(
            answer_id=f"chatcmpl-{secrets.token_hex(12)}",
            created=self._clock.utc_ns() // 1_000_000_000,
            model=self._name,
            choices=_choices(call),
        )

    @contextmanager
    def _started(self, call: ChatCall) -> Iterator[Bridge[_Item]]:
        """The runs of a call, which end with the context."""
        self._check_open()
        body = llama_body(call.body, self._server.modalities)
        bridge: Bridge[_Item] = Bridge()
        self._bridges.add(bridge)
        runs: list[Future[None]] = []
        try:
            for index in range(_choices(call)):
                seeded = {**body, "seed": body["seed"] + index} if "seed" in body else body
                runs.append(self._runs.submit(self._run, seeded, index, bridge))
            yield bridge
        finally:
            self._bridges.discard(bridge)
            bridge.leave()
            for run in runs:
                run.cancel()

    def _run(self, body: dict[str, Any], index: int, bridge: Bridge[_Item]) -> None:
        """On a worker thread: one choice, from the first chunk to `_Ended`."""
        failure: EngineFailure | None = None
        try:
            self._server.chat(body, lambda chunk: bridge.put((index, chunk)))
        except (ValueError, RuntimeError) as error:
            refused = isinstance(error, ValueError)
            failure = EngineFailure(
                FailureKind.REJECTED_INPUT if refused else FailureKind.BROKEN,
                "llama.cpp refused the request" if refused else "llama.cpp failed",
            )
        finally:
            bridge.put((index, _Ended(failure)))

    async def _events(
        self, call: ChatCall, answer: Answer, bridge: Bridge[_Item]
    ) -> AsyncGenerator[list[bytes], None]:
        """Events of all runs as they arrive; returns after the last run ended well."""
        running = _choices(call)
        while running:
            events = []
            for index, item in await self._take(bridge):
                if isinstance(item, _Ended):
                    if item.failure is not None:
                        raise item.failure
                    running -= 1
                elif "error" in item:
                    raise failure_of_event(item["error"])
                elif (event := answer.add(index, item)) is not None:
                    events.append(event)
            if events:
                yield events
        if not answer.is_finished:
            raise EngineFailure(FailureKind.BROKEN, "llama.cpp ended without a finish reason")

    async def _take(self, bridge: Bridge[_Item]) -> list[_Item]:
        items = await bridge.take()
        self._check_open()
        return items


def _choices(call: ChatCall) -> int:
    return call.body.get("n") or 1
