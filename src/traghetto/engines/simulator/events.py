"""A planned answer told: as a stream of events, or whole.

Events are built from bytes that are encoded once per stream; a token costs one small encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, Final

import msgspec

from traghetto.engines.simulator.answers import Choice, Plan, token_logprobs

DONE: Final = b"[DONE]"
_ENCODE: Final = msgspec.json.Encoder().encode


class Telling:
    """A plan with what stands around it: id, model, time."""

    def __init__(self, plan: Plan, *, model: str, created: int, top_logprobs: int | None) -> None:
        """`created` is in seconds since 1970; `top_logprobs` None leaves log probabilities out."""
        self._plan = plan
        self._model = model
        self._created = created
        self._top = top_logprobs

    def whole(self) -> dict[str, Any]:
        """The answer as a `chat.completion`."""
        return {
            "id": self._plan.id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [
                self._whole_choice(index, choice) for index, choice in enumerate(self._plan.choices)
            ],
            "usage": self._plan.usage,
        }

    def events(self) -> Iterator[bytes]:
        """The payloads of the stream: deltas and finish reasons, usage, `[DONE]`.

        Choices take turns, a token each. The last two events are always usage and `[DONE]`, the
        ones before them finish reasons, one per choice.
        """
        head = _ENCODE(
            {
                "id": self._plan.id,
                "object": "chat.completion.chunk",
                "created": self._created,
                "model": self._model,
            }
        )[:-1]
        turns = [
            self._deltas(choice, head + b',"choices":[{"index":%d,"delta":' % index)
            for index, choice in enumerate(self._plan.choices)
        ]
        for turn in zip_longest(*turns):
            for event in turn:
                if event is not None:
                    yield event
        for index, choice in enumerate(self._plan.choices):
            yield (
                head
                + b',"choices":[{"index":%d,"delta":{},"finish_reason":"%s"}]}'
                % (index, choice.finish_reason.encode())
            )
        yield head + b',"choices":[],"usage":' + _ENCODE(self._plan.usage) + b"}"
        yield DONE

    def _deltas(self, choice: Choice, head: bytes) -> Iterator[bytes]:
        tail = b',"finish_reason":null}]}'
        yield head + b'{"role":"assistant","content":""}' + tail
        for token in choice.reasoning:
            yield head + b'{"reasoning_content":' + _ENCODE(token) + b"}" + tail
        for index, token in enumerate(choice.content or ()):
            logprobs = b""
            if self._top is not None:
                entries = token_logprobs([token], self._top, first=index)
                logprobs = b',"logprobs":' + _ENCODE({"content": entries})
            yield head + b'{"content":' + _ENCODE(token) + b"}" + logprobs + tail
        for index, call in enumerate(choice.tool_calls):
            function = {"name": call.name, "arguments": ""}
            opening = {"index": index, "id": call.id, "type": "function", "function": function}
            yield head + _ENCODE({"tool_calls": [opening]}) + tail
            for token in call.arguments:
                piece = {"index": index, "function": {"arguments": token}}
                yield head + _ENCODE({"tool_calls": [piece]}) + tail

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if choice.content is None else "".join(choice.content),
        }
        if choice.reasoning:
            message["reasoning_content"] = "".join(choice.reasoning)
        if choice.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for call in choice.tool_calls
            ]
        logprobs = None
        if self._top is not None and choice.content is not None:
            logprobs = {"content": token_logprobs(choice.content, self._top)}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
        }
