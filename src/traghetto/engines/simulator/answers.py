"""What the simulator says: whole answers, planned before the first byte is sent.

Every text says that it is simulated, and of images how many came and how large they are. The same
seed (or, without one, the same body) gives the same answer. A plan is a list of choices whose parts
are already cut into tokens; streams and whole answers are two ways to tell the same plan.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import Picture
from traghetto.engines.simulator.combining import Unsatisfiable
from traghetto.engines.simulator.schemas import value_for
from traghetto.engines.simulator.tokens import canonical, tokenize

_PREFACE: Final = (
    "This is a simulated answer from Traghetto: no model was run, and the words that follow mean"
    " nothing."
)
_REASONING_PREFACE: Final = "Simulated reasoning, nothing was thought:"
_JSON_NOTE: Final = "This is a simulated answer from Traghetto: no model was run."
_PREFACE_TOKENS: Final = tuple(tokenize(_PREFACE))
_REASONING_PREFACE_TOKENS: Final = tuple(tokenize(_REASONING_PREFACE))
_WORDS: Final = tuple(
    tokenize(
        " anchor barge beacon bollard breeze bridge buoy cabin canal capstan channel chart coast"
        " compass crane crew current deck dock drift ferry fog gangway gull harbour hawser helm"
        " hull island jetty keel lagoon lantern ledger lock mast mooring oar passage pier pilot"
        " port quay rope rudder sail shore signal slip strait tide toll tow voyage wake wharf"
    )
)
_SENTENCE_TOKENS: Final = 12
_VERBOSITY: Final = {"low": 0.5, "high": 2.0}
_REASONING_TOKENS: Final = {
    "minimal": 8,
    "low": 16,
    "medium": 32,
    "high": 64,
    "xhigh": 96,
    "max": 128,
}
_PARALLEL_CALLS: Final = 2
_FORMATS: Final = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP"}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, its arguments cut into tokens."""

    id: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One planned choice."""

    reasoning: list[str]
    content: list[str] | None
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    completion_tokens: int
    """Reasoning included; may exceed what is delivered, by the tokens of a stop string."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole planned answer."""

    id: str
    choices: list[Choice]
    usage: dict[str, Any]


def plan_answer(
    body: dict[str, Any],
    pictures: Sequence[Picture] = (),
    *,
    prompt_tokens: int,
    room_tokens: int,
    answer_tokens: int,
) -> Plan:
    """What the simulator will answer to `body`, in which `pictures` are described.

    `room_tokens` are left in the context for one choice; `answer_tokens` is the usual length of a
    text. Raises `EngineFailure` (REJECTED_INPUT) for a JSON schema that nothing satisfies or that
    is beyond the simulator.
    """
    seed = body.get("seed")
    if seed is None:
        digest = hashlib.blake2b(canonical(body), digest_size=8).digest()
        seed = int.from_bytes(digest, "big")
    rng = random.Random(seed)  # noqa: S311 - answers are to be repeatable, not secret
    limit = _limit(body, room_tokens)
    received = _received(pictures)
    choices = [
        _plan_choice(body, received, rng, limit, answer_tokens) for _ in range(body.get("n") or 1)
    ]
    completion_tokens = sum(choice.completion_tokens for choice in choices)
    return Plan(
        id=f"chatcmpl-{rng.getrandbits(96):024x}",
        choices=choices,
        usage={
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": sum(len(choice.reasoning) for choice in choices)
            },
        },
    )


def token_logprobs(tokens: list[str], top: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Log probabilities for `tokens`, `top` alternatives each: well formed, and invented.

    They depend only on a token's place; `first` is the place of the first one.
    """
    entries = []
    for place, token in enumerate(tokens, first):
        rng = random.Random(place)  # noqa: S311 - repeatable, not secret
        logprob = -round(rng.random(), 6)
        alternatives = [(token, logprob)]
        for word in rng.sample(_WORDS, min(max(top - 1, 0), len(_WORDS))):
            alternatives.append((word, round(alternatives[-1][1] - rng.random() - 0.1, 6)))
        entries.append(
            {
                **_logprob(token, logprob),
                "top_logprobs": [_logprob(*alternative) for alternative in alternatives[:top]],
            }
        )
    return entries


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _limit(body: dict[str, Any], room_tokens: int) -> int:
    """The most tokens that one choice may have; at least one."""
    for name in ("max_completion_tokens", "max_tokens"):
        if (wanted := body.get(name) or 0) > 0:
            return max(1, min(wanted, room_tokens))
    return max(1, room_tokens)


def _received(pictures: Sequence[Picture]) -> str:
    """What is said of images, empty where there are none."""
    if not pictures:
        return ""
    images = "image" if len(pictures) == 1 else "images"
    sizes = "; ".join(f"{p.width} x {p.height}, {_FORMATS[p.format]}" for p in pictures)
    return f" I received {len(pictures)} {images}: {sizes}."


def _plan_choice(
    body: dict[str, Any], received: str, rng: random.Random, limit: int, answer_tokens: int
) -> Choice:
    reasoning = _reasoning(body, rng)
    if len(reasoning) >= limit:
        return Choice(reasoning[:limit], [], (), "length", limit)
    if tools := _tools_to_call(body, rng):
        return _call_tools(tools, rng, reasoning, limit)
    content = _json_content(body, received, rng)
    if content is None:
        length = answer_tokens * _VERBOSITY.get(body.get("verbosity") or "", 1.0)
        content = _text(rng, round(length * rng.uniform(0.75, 1.25)), received)
    return _cut(content, reasoning, limit, _stop_strings(body))


def _cut(content: list[str], reasoning: list[str], limit: int, stops: list[str]) -> Choice:
    """The choice that `content` becomes under a limit of tokens and with stop strings."""
    finish_reason = "stop"
    if len(reasoning) + len(content) > limit:
        content = content[: limit - len(reasoning)]
        finish_reason = "length"
    completion_tokens = len(reasoning) + len(content)
    text = "".join(content) if stops else ""
    hits = [(at, at + len(stop)) for stop in stops if (at := text.find(stop)) >= 0]
    if hits:
        start, end = min(hits)
        content = tokenize(text[:start])
        finish_reason = "stop"
        completion_tokens = len(reasoning) + len(tokenize(text[:end]))
    return Choice(reasoning, content, (), finish_reason, completion_tokens)


def _stop_strings(body: dict[str, Any]) -> list[str]:
    stop = body.get("stop")
    return [stop] if isinstance(stop, str) and stop else [each for each in stop or () if each]


def _text(rng: random.Random, length: int, received: str) -> list[str]:
    """About `length` tokens that say they are simulated, then filler in sentences."""
    tokens = [*_PREFACE_TOKENS, *tokenize(received)]
    while len(tokens) < length:
        sentence = rng.choices(_WORDS, k=_SENTENCE_TOKENS - 1)
        sentence[0] = " " + sentence[0][1:].capitalize()
        tokens += sentence
        tokens.append(".")
    return tokens


def _reasoning(body: dict[str, Any], rng: random.Random) -> list[str]:
    effort = body.get("reasoning_effort")
    if effort is None and (reasoning := body.get("reasoning")):
        effort = reasoning.get("effort") or ("medium" if reasoning.get("enabled") else None)
    length = _REASONING_TOKENS.get(effort or "", 0)
    return [*_REASONING_PREFACE_TOKENS, *rng.choices(_WORDS, k=length)] if length else []


def _tools_to_call(body: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """The function tools that the answer calls; none if it is to be a text.

    With the choice left to us a tool is called, unless a tool's result was the last message.
    """
    tools = body.get("tools")
    if not tools:
        return []
    functions = [tool["function"] for tool in tools if tool.get("type") == "function"]
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, dict):
        wanted = choice.get("function", {}).get("name")
        return [function for function in functions if function["name"] == wanted][:1]
    if choice == "none" or not functions:
        return []
    if choice == "auto" and body["messages"][-1].get("role") == "tool":
        return []
    count = _PARALLEL_CALLS if body.get("parallel_tool_calls") else 1
    return rng.sample(functions, min(count, len(functions)))


def _call_tools(
    functions: list[dict[str, Any]], rng: random.Random, reasoning: list[str], limit: int
) -> Choice:
    calls = []
    used = len(reasoning)
    finish_reason = "tool_calls"
    for function in functions:
        schema = {"type": "object", **(function.get("parameters") or {})}
        arguments = _value(schema, rng, "tools")
        tokens = tokenize(msgspec.json.encode(arguments).decode())
        name_tokens = len(tokenize(function["name"]))
        room = limit - used - name_tokens
        if room < len(tokens):
            tokens = tokens[: max(room, 0)]
            finish_reason = "length"
        call_id = f"call_{rng.getrandbits(96):024x}"
        calls.append(ToolCall(call_id, function["name"], tuple(tokens)))
        used = min(used + name_tokens + len(tokens), limit)
        if finish_reason == "length":
            break
    return Choice(reasoning, None, tuple(calls), finish_reason, used)


def _json_content(body: dict[str, Any], received: str, rng: random.Random) -> list[str] | None:
    """The content that the response format asks for, or None if it asks for text."""
    wanted = body.get("response_format")
    if not wanted or wanted.get("type") == "text":
        return None
    value: Any = {"simulated": True, "note": _JSON_NOTE + received}
    if wanted["type"] == "json_schema":
        value = _value(wanted["json_schema"].get("schema", {}), rng, "response_format")
    return tokenize(msgspec.json.encode(value).decode())


def _value(schema: Any, rng: random.Random, field: str) -> Any:
    try:
        return value_for(schema, rng)
    except Unsatisfiable as error:
        raise EngineFailure(
            FailureKind.REJECTED_INPUT,
            f"the simulator cannot honour a schema: {error}",
            fields=(field,),
        ) from None
