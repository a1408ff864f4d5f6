"""What a simulated backend does with one call: drawn by lot, and written as bytes.

An event of a stream is a value here, so that an oracle can read what was sent without reading
JSON the way the product does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from traghetto.engines.failures import EngineFailure, FailureKind


@dataclass(frozen=True, slots=True)
class Claim:
    """Token counts as a backend claims them; nonsense is possible."""

    prompt: int
    completion: int
    cached: int = 0

    @property
    def is_sane(self) -> bool:
        """Whether they are counts at all."""
        return self.prompt >= 0 and self.completion >= 0

    def member(self) -> dict[str, Any]:
        """The member `usage`."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(frozen=True, slots=True)
class Delta:
    """One token of one choice; perhaps with what usually comes in events of its own."""

    index: int
    text: str
    finish: str | None = None
    claim: Claim | None = None
    unlisted: bool = False
    """Carries members that no client may see."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a choice ended; `abort` says that there is no answer."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """The usage chunk."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Done:
    """The terminal marker."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that breaks a stream from within: an error object, or junk."""

    payload: str


Event = Delta | Finish | UsageEvent | Done | Trouble

ERROR = Trouble('{"error": {"message": "CUDA out of memory", "type": "server_error"}}')
OVERLOAD = Trouble('{"error": {"message": "busy", "code": 429}}')
JUNK = Trouble('{"choices": [{"del')


@dataclass(frozen=True, slots=True)
class Read:
    """What arrives at once, `delay` seconds after the reader asked for it."""

    delay: float
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The call fails before anything was answered."""

    delay: float
    kind: FailureKind
    retry_after_seconds: int | None
    stale: bool

    def failure(self) -> EngineFailure:
        """What the adapter raises."""
        return EngineFailure(
            self.kind,
            "simulated",
            retry_after_seconds=self.retry_after_seconds,
            stale_connection=self.stale,
        )


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream and how it ends after its reads."""

    reads: tuple[Read, ...]
    end: Literal["close", "break", "stall"]


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A whole answer; `finish` None or `error` set make it none."""

    delay: float
    texts: tuple[str, ...]
    claim: Claim | None
    finish: str | None
    error: bool = False

    def answer(self) -> dict[str, Any]:
        """The decoded `chat.completion` object."""
        if self.error:
            return {"error": {"message": "CUDA out of memory"}}
        answer: dict[str, Any] = {
            "id": "backend-1",
            "model": "secret-name",
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": self.finish,
                }
                for index, text in enumerate(self.texts)
            ],
        }
        if self.claim is not None:
            answer["usage"] = self.claim.member()
        return answer


_encode = msgspec.json.encode

NEVER = 10_000.0
"""Longer than any deadline."""


def encode(event: Event) -> bytes:
    """The payload of an event."""
    match event:
        case Done():
            return b"[DONE]"
        case Trouble():
            return event.payload.encode()
        case UsageEvent():
            return _encode({"id": "b", "choices": [], "usage": event.claim.member()})
        case Finish():
            choice: dict[str, Any] = {
                "index": event.index,
                "delta": {},
                "finish_reason": event.reason,
            }
            return _encode({"id": "b", "model": "secret-name", "choices": [choice]})
    choice = {"index": event.index, "delta": {"content": event.text}, "finish_reason": event.finish}
    if event.unlisted:
        choice["token_ids"] = [17]
    members: dict[str, Any] = {"id": "b", "model": "secret-name", "choices": [choice]}
    if event.claim is not None:
        members["usage"] = event.claim.member()
    return _encode(members)


def draw_refusal(rng: random.Random) -> Refusal:
    """A failure before the answer, or a backend that never answers."""
    kind = rng.choice(list(FailureKind))
    return Refusal(
        delay=NEVER if rng.random() < 0.1 else rng.choice((0.0, 0.01, 0.5)),
        kind=kind,
        retry_after_seconds=rng.choice((None, 1, 5)),
        stale=kind is FailureKind.BROKEN and rng.random() < 0.3,
    )


def draw_stream(rng: random.Random, name: str, n: int, max_tokens: int, *, faulty: bool) -> Stream:
    """A stream of `n` choices; `name` makes its tokens recognisable."""
    events = _answer_events(rng, name, n, max_tokens, faulty=faulty)
    end: Literal["close", "break", "stall"] = "close"
    if faulty:
        place = rng.randint(0, len(events))
        match rng.randrange(8):
            case 0:
                events, end = events[:place], "break"
            case 1:
                events, end = events[:place], "stall"
            case 2:
                events, end = events[:place], "close"
            case 3:
                events.insert(place, rng.choice((ERROR, OVERLOAD, JUNK)))
            case 4:
                events = [event for event in events if not isinstance(event, Done)]
            case 5:
                events = [event for event in events if not isinstance(event, Finish)]
            case 6:
                events.insert(place, Finish(rng.randrange(n), "abort"))
            case _:
                pass  # what it claims or how long it is was wrong already
    pace = rng.choice((0.0, 0.0, 0.002, 0.03, 0.4))
    reads = []
    while events:
        size = rng.choice((1, 1, 2, 5, 40))
        delay = 0.0 if rng.random() < 0.3 else pace * rng.random() * 2
        reads.append(Read(delay, tuple(events[:size])))
        events = events[size:]
    if reads:
        reads[0] = Read(rng.choice((0.0, 0.02, 0.6)), reads[0].events)
    return Stream(tuple(reads), end)


def draw_whole(
    rng: random.Random, name: str, n: int, max_tokens: int, *, faulty: bool
) -> WholeAnswer:
    """A whole answer of `n` choices."""
    if faulty and rng.random() < 0.2:
        n += 1
    tokens = [_draw_length(rng, max_tokens, faulty=faulty) for _ in range(n)]
    finish: str | None = "stop"
    error = False
    if faulty:
        match rng.randrange(4):
            case 0:
                finish = None
            case 1:
                finish = "abort"
            case 2:
                error = True
            case _:
                pass
    return WholeAnswer(
        delay=rng.choice((0.0, 0.02, 0.3, 2.0)),
        texts=tuple(f"{name} " * count for count in tokens),
        claim=_draw_claim(rng, sum(tokens), faulty=faulty),
        finish=finish,
        error=error,
    )


def _answer_events(
    rng: random.Random, name: str, n: int, max_tokens: int, *, faulty: bool
) -> list[Event]:
    lengths = [_draw_length(rng, max_tokens, faulty=faulty) for _ in range(n)]
    if faulty and rng.random() < 0.2:
        lengths.append(3)  # a choice nobody asked for
    claim = _draw_claim(rng, sum(lengths), faulty=faulty)
    continuous = rng.random() < 0.3
    indices = [index for index, length in enumerate(lengths) for _ in range(length)]
    rng.shuffle(indices)
    events: list[Event] = []
    for place, index in enumerate(indices):
        running = None
        if continuous and claim is not None:
            running = Claim(claim.prompt, min(place + 1, claim.completion), claim.cached)
        unlisted = rng.random() < 0.1
        events.append(Delta(index, f"{name}.{place} ", claim=running, unlisted=unlisted))
    last = {index: place for place, index in enumerate(indices)}
    for index in range(len(lengths)):
        if index in last and rng.random() < 0.3:
            delta = events[last[index]]
            assert isinstance(delta, Delta)
            events[last[index]] = Delta(index, delta.text, "stop", delta.claim, delta.unlisted)
        else:
            events.append(Finish(index, rng.choice(("stop", "length"))))
    if claim is not None:
        events.append(UsageEvent(claim))
    events.append(Done())
    return events


def _draw_length(rng: random.Random, max_tokens: int, *, faulty: bool) -> int:
    if faulty and rng.random() < 0.3:
        return max_tokens + rng.randint(1, 6)
    return rng.randint(0, max_tokens) if rng.random() < 0.9 else 0


def _draw_claim(rng: random.Random, tokens: int, *, faulty: bool) -> Claim | None:
    if faulty and rng.random() < 0.5:
        return rng.choice((None, Claim(-1, tokens), Claim(1_000_000, tokens), Claim(9, 10**6)))
    if rng.random() < 0.15:
        return None
    prompt = rng.randint(5, 200)
    # Some backends count more tokens than deltas: several in one delta, or hidden ones.
    hidden = rng.choice((0, 0, 0, 2))
    return Claim(prompt, tokens + hidden if tokens else 0, rng.choice((0, 0, prompt // 2)))
