"""The relay: from the payloads of a backend's events to the frames a client sees.

A usual event is *spliced*: its `choices` are copied byte for byte between a head and a tail that
were encoded once for the stream, so the public `id` and `model` replace the backend's and unlisted
top-level members vanish without re-serialising anything. An event is taken apart only when it
carries a finish reason, usage, an error, unknown members, or when an option needs its text.

Invariants:
- nothing that says "complete" (a finish reason, usage, `[DONE]`) is released by `feed`; it waits
  in `terminal_frames` until the backend's own `[DONE]` came and the charge is durable;
- a stream without a finish reason for every choice it showed, or without `[DONE]`, is a failure;
- `output_tokens` counts only what is in the frames that `feed` has returned.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from traghetto.engines.classify import failure_of_event
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.pipeline.estimate import estimated_tokens, text_tokens
from traghetto.pipeline.thinking import ThinkingFilter
from traghetto.wire.completion import BackendUsage, decode_answer, parse_usage
from traghetto.wire.finish import public_finish_reason

DONE_FRAME: Final = b"data: [DONE]\n\n"
ONE_TOKEN_CHARACTERS_MAX: Final = 16
"""Text of a delta up to this length is taken for one token."""
ONE_CALL_BYTES_MAX: Final = 256
"""The members around the arguments of a tool call, which are not output."""
_EMPTY_CHOICES: Final = msgspec.Raw(b"[]")
_LISTED_DELTA: Final = ("role", "content", "reasoning_content", "refusal", "tool_calls")


class _Event(msgspec.Struct):
    """The top level of a chunk; members not named here are not relayed."""

    choices: msgspec.Raw = _EMPTY_CHOICES
    usage: Any = None
    error: Any = None
    object: Any = None
    timings: Any = None
    """llama.cpp's; only it says how many prompt tokens came from the cache."""


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    """A choice that can be spliced: every member of it is one we relay as it is."""

    delta: _Delta
    index: int = 0
    finish_reason: None = None
    logprobs: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_choices = msgspec.json.Decoder(list[_Choice]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Relay:
    """One stream's state between the backend and the client."""

    def __init__(
        self,
        *,
        completion_id: str,
        created: int,
        model: str,
        choices_max: int = 1,
        tokens_max: int | None = None,
        strip_thinking: bool = False,
    ) -> None:
        """`choices_max` is the caller's `n`, `tokens_max` the bound of one choice's tokens."""
        head = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":'
        self._choices_max = choices_max
        self._tokens_max = tokens_max
        self._strip = {i: ThinkingFilter() for i in range(choices_max)} if strip_thinking else None
        self._tokens: dict[int, int] = {}
        self._finished: dict[int, str] = {}
        self.usage: BackendUsage | None = None
        """The last usage the backend reported."""
        self.output_tokens = 0
        """Output in the frames returned so far: the count where usage is missing."""
        self._hidden_tokens = 0
        self.failure: EngineFailure | None = None
        """Why the stream is broken; what `feed` returned before it is still good."""
        self.complete = False
        """Whether the backend ended the stream properly."""
        self.limited = False
        """Whether our own bound ended it: the backend is to be stopped, the answer is `length`."""

    @property
    def produced_tokens(self) -> int:
        """What the model wrote, stripped thinking included, by the count of `output_tokens`."""
        return self.output_tokens + self._hidden_tokens

    def feed(self, payloads: list[bytes]) -> bytes:
        """The frames for `payloads`; afterwards look at `failure`, `complete` and `limited`."""
        frames: list[bytes] = []
        for payload in payloads:
            if payload == b"[DONE]":
                self._end_of_stream()
                break
            self._feed_event(payload, frames)
            if self.failure or self.limited:
                break
        return b"".join(frames)

    def backend_ended(self) -> None:
        """The backend's stream is over; without its `[DONE]` that is a failure."""
        if not (self.complete or self.limited or self.failure):
            self._fail("the stream ended without its terminal marker")

    def stop_at_limit(self) -> None:
        """End the answer here with `length` (a bound of ours: tokens or funds)."""
        self.limited = True

    def terminal_frames(self, usage: dict[str, Any], cost: dict[str, Any] | None) -> bytes:
        """Everything that says "complete": finish reasons, the usage chunk and `[DONE]`."""
        frames = []
        if self._strip is not None:
            for index, stripper in self._strip.items():
                if rest := stripper.flush():
                    frames.append(self._frame([_choice(index, {"content": rest}, None)]))
        reasons = self._finished
        if self.limited:
            reasons = dict.fromkeys(self._tokens or (0,), "length") | self._finished
        frames += (self._frame([_choice(i, {}, reason)]) for i, reason in sorted(reasons.items()))
        final: dict[str, Any] = {"usage": usage}
        if cost is not None:
            final["cost"] = cost
        frames += (self._head, b"[],", _encode(final)[1:], b"\n\n", DONE_FRAME)
        return b"".join(frames)

    def _feed_event(self, payload: bytes, frames: list[bytes]) -> None:
        try:
            event = _decode_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            try:
                payload = _encode(decode_answer(payload))  # Python's NaN becomes null
                event = _decode_event(payload)
            except (ValueError, msgspec.DecodeError):
                self._fail("an event is not a JSON object of the expected form")
                return
        if event.error or event.object == "error":
            self.failure = failure_of_event(event.error or _decode_any(payload))
            return
        if event.usage is not None:
            self.usage = parse_usage(event.usage, event.timings) or self.usage
        raw = event.choices
        try:
            choices = _decode_choices(raw)
        except msgspec.DecodeError:
            self._feed_unusual(bytes(raw), frames)
            return
        if not choices:
            return
        if self._strip is not None or b"\n" in payload or not self._count(choices):
            self._feed_unusual(bytes(raw), frames)
            return
        frames += (self._head, bytes(raw), b"}\n\n")

    def _count(self, choices: list[_Choice]) -> bool:
        """Count the output of spliceable choices; False (nothing counted) if one needs care."""
        counts = self._tokens
        for choice in choices:
            if choice.index in self._finished or not 0 <= choice.index < self._choices_max:
                return False
            if self._tokens_max is not None and counts.get(choice.index, 0) >= self._tokens_max:
                return False
        for choice in choices:
            delta = choice.delta
            tokens = _delta_tokens(delta.content, delta.reasoning_content, delta.tool_calls)
            counts[choice.index] = counts.get(choice.index, 0) + (tokens > 0)
            self.output_tokens += tokens
        return True

    def _feed_unusual(self, raw: bytes, frames: list[bytes]) -> None:
        """Rebuild the choices of one event from the members we relay."""
        choices = _decode_any(raw)
        if choices is None:
            return
        if not isinstance(choices, list):
            self._fail("`choices` is not a list")
            return
        for choice in choices:
            if not isinstance(choice, dict) or not isinstance(choice.get("index", 0), int):
                self._fail("a choice is not an object with an index")
                return
            self._feed_choice(choice, frames)

    def _feed_choice(self, choice: dict[str, Any], frames: list[bytes]) -> None:
        index = choice.get("index", 0)
        if index in self._finished or not 0 <= index < self._choices_max:
            return
        delta = self._public_delta(choice.get("delta"))
        if delta is None:
            self._fail("a delta is not an object with members of the expected types")
            return
        produced = _tokens_of(delta)
        if (
            produced
            and self._tokens_max is not None
            and self._tokens.get(index, 0) >= self._tokens_max
        ):
            self.stop_at_limit()
            return
        self._tokens[index] = self._tokens.get(index, 0) + (produced > 0)
        self._strip_delta(index, delta)
        delivered = _tokens_of(delta)
        self.output_tokens += delivered
        self._hidden_tokens += max(0, produced - delivered)
        if delta:
            frames.append(self._frame([_choice(index, delta, None, choice.get("logprobs"))]))
        if (reason := choice.get("finish_reason")) is not None:
            public = public_finish_reason(reason)
            if public is None:
                self._fail("the backend gave up: its finish reason is not one of an answer")
                return
            self._finished[index] = public

    def _public_delta(self, delta: Any) -> dict[str, Any] | None:
        """The members of a delta that are relayed, or None for junk."""
        if delta is None:
            return {}
        if not isinstance(delta, dict):
            return None
        public = {key: delta[key] for key in _LISTED_DELTA if delta.get(key) is not None}
        if "reasoning_content" not in public and isinstance(delta.get("reasoning"), str):
            public["reasoning_content"] = delta["reasoning"]
        for key in ("role", "content", "reasoning_content", "refusal"):
            if not isinstance(public.get(key, ""), str):
                return None
        if not isinstance(public.get("tool_calls", []), list):
            return None
        return public

    def _strip_delta(self, index: int, delta: dict[str, Any]) -> None:
        """Take thinking out of a delta, if the caller wants none."""
        if self._strip is None:
            return
        delta.pop("reasoning_content", None)
        if "content" in delta:
            delta["content"] = self._strip[index].feed(delta["content"])
            if not delta["content"] and "role" not in delta:
                del delta["content"]

    def _end_of_stream(self) -> None:
        if self._finished and self._tokens.keys() <= self._finished.keys():
            self.complete = True
        else:
            self._fail("the stream ended before every choice had a finish reason")

    def _frame(self, choices: list[dict[str, Any]]) -> bytes:
        return self._head + _encode(choices) + b"}\n\n"

    def _fail(self, reason: str) -> None:
        self.failure = EngineFailure(FailureKind.BROKEN, reason)


def _tokens_of(delta: dict[str, Any]) -> int:
    return _delta_tokens(
        delta.get("content"), delta.get("reasoning_content"), delta.get("tool_calls")
    )


def _delta_tokens(content: str | None, reasoning: str | None, calls: list[Any] | None) -> int:
    """Tokens in one delta. Backends usually send one at a time: short text counts as one, and
    longer text, which holds several, is estimated from its size."""
    tokens = 0
    for text in (content, reasoning):
        if text:
            tokens += 1 if len(text) <= ONE_TOKEN_CHARACTERS_MAX else text_tokens(text)
    if calls:
        size = len(_encode(calls))
        tokens += 1 if size <= ONE_CALL_BYTES_MAX else estimated_tokens(size - ONE_CALL_BYTES_MAX)
    return tokens


def _choice(
    index: int, delta: dict[str, Any], finish_reason: str | None, logprobs: Any = None
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish_reason}
    if logprobs is not None:
        choice["logprobs"] = logprobs
    return choice
