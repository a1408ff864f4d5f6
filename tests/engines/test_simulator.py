"""The simulator tells the truth about itself, counts exactly, and repeats itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.clock import ManualClock
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import Picture
from traghetto.engines.protocols import ChatBackend, ChatCall
from traghetto.engines.simulator.backend import SimulatorBackend, SimulatorOptions
from traghetto.engines.simulator.tokens import tokenize

USER = {"role": "user", "content": "Tell me about the harbour, please."}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 3},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIDES = {"type": "function", "function": {"name": "get_tides"}}


SQUARE = Picture(b"a square", "png", 640, 480, False)
STRIP = Picture(b"a strip", "jpeg", 64, 2048, False)


def look(*pictures: Picture) -> dict[str, Any]:
    """A message with these images and nothing else."""
    parts = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    return {"role": "user", "content": parts}


def simulator(**options: Any) -> SimulatorBackend:
    return SimulatorBackend(clock=ManualClock(), options=SimulatorOptions(**options))


def call(**body: Any) -> ChatCall:
    return ChatCall("request", {"messages": [USER], **body})


def complete(backend: SimulatorBackend, **body: Any) -> dict[str, Any]:
    return asyncio.run(backend.complete(call(**body)))


def stream(backend: SimulatorBackend, **body: Any) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [event async for events in backend.stream(call(**body)) for event in events]

    return asyncio.run(collect())


def chunks(events: list[bytes]) -> list[dict[str, Any]]:
    assert events[-1] == b"[DONE]"
    return [json.loads(event) for event in events[:-1]]


def put_together(parts: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """One choice of a stream, as a client puts it together."""
    whole: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": [], "finish": None}
    for part in parts:
        for choice in part["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            whole["content"] += delta.get("content") or ""
            whole["reasoning_content"] += delta.get("reasoning_content") or ""
            for tool_call in delta.get("tool_calls", ()):
                if "id" in tool_call:
                    whole["calls"].append([tool_call["function"]["name"], ""])
                whole["calls"][tool_call["index"]][1] += tool_call["function"]["arguments"]
            whole["finish"] = choice["finish_reason"] or whole["finish"]
    return whole


def test_it_is_a_chat_backend() -> None:
    """The simulator satisfies the protocol that the pipeline asks for."""
    backend: ChatBackend = simulator()
    assert backend.name == "simulator"


def test_its_text_says_that_it_is_simulated() -> None:
    """Nobody can take a simulated answer for a model's."""
    answer = complete(simulator())
    assert answer["model"] == "simulator"
    assert "simulated answer from Traghetto" in answer["choices"][0]["message"]["content"]


def seen(*pictures: Picture, **body: Any) -> str:
    """What the simulator says to these images."""
    asked = ChatCall("r", {"messages": [look(*pictures)], **body}, has_pictures=True)
    answer = asyncio.run(simulator().complete(asked))
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_it_says_which_images_it_received() -> None:
    """Their number, sizes and formats: nothing that would need a look at them."""
    assert " I received 1 image: 640 x 480, PNG." in seen(SQUARE)
    assert " I received 2 images: 640 x 480, PNG; 64 x 2048, JPEG." in seen(SQUARE, STRIP)
    note = json.loads(seen(SQUARE, response_format={"type": "json_object"}))["note"]
    assert note.endswith(" I received 1 image: 640 x 480, PNG.")
    assert "received" not in complete(simulator())["choices"][0]["message"]["content"]


def test_the_same_images_give_the_same_answer() -> None:
    """What the file holds decides as its size does; a seed decides the rest alone."""
    other = msgspec.structs.replace(SQUARE, data=b"a circle")
    assert seen(SQUARE) == seen(SQUARE) != seen(other)
    assert seen(SQUARE, seed=3) == seen(other, seed=3) != seen(STRIP, seed=3)


def test_the_same_body_gives_the_same_answer() -> None:
    """Without a seed the body decides, so that equal requests are repeatable."""
    assert complete(simulator(), temperature=0.5) == complete(simulator(), temperature=0.5)
    assert complete(simulator(), temperature=0.5) != complete(simulator(), temperature=0.6)


def test_a_seed_decides_the_answer() -> None:
    """Equal seeds give equal answers, different seeds different ones."""
    texts = [
        complete(simulator(), seed=seed)["choices"][0]["message"]["content"] for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1] != texts[2]


@given(st.text(max_size=200))
def test_tokens_joined_are_the_text(text: str) -> None:
    """The tokenizer loses nothing, so that a stream of tokens is the text."""
    assert "".join(tokenize(text)) == text


def test_prompt_tokens_follow_the_documented_rules() -> None:
    """Four per message, three for the primer, 256 for an image, and the tokens of the texts."""
    body = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    *look(SQUARE)["content"],
                ],
            },
        ]
    }
    counted = asyncio.run(simulator().count_prompt_tokens(ChatCall("r", body, has_pictures=True)))
    assert counted == 3 + (4 + 3) + (4 + 4 + 256)


def test_usage_is_what_was_counted_and_delivered() -> None:
    """Prompt tokens equal the count before, completion tokens those of the text."""
    backend = simulator()
    answer = complete(backend, reasoning_effort="low")
    message, usage = answer["choices"][0]["message"], answer["usage"]
    reasoning = len(tokenize(message["reasoning_content"]))
    assert usage["prompt_tokens"] == asyncio.run(
        backend.count_prompt_tokens(call(reasoning_effort="low"))
    )
    assert usage["completion_tokens"] == reasoning + len(tokenize(message["content"]))
    assert usage["completion_tokens_details"]["reasoning_tokens"] == reasoning
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 3},
        {"reasoning_effort": "high"},
        {"max_tokens": 7},
        {"stop": ["model"]},
        {"tools": [WEATHER], "tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
    ],
    ids=lambda body: next(iter(body), "plain"),
)
def test_a_stream_tells_the_same_as_a_whole_answer(body: dict[str, Any]) -> None:
    """Streaming changes the form only: texts, calls, finish reasons and usage are equal."""
    whole = complete(simulator(), **body)
    parts = chunks(stream(simulator(), **body))
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"] == whole["usage"]
    assert {part["id"] for part in parts} == {whole["id"]}
    for choice in whole["choices"]:
        told = put_together(parts, choice["index"])
        message = choice["message"]
        assert told["content"] == (message["content"] or "")
        assert told["reasoning_content"] == message.get("reasoning_content", "")
        assert told["finish"] == choice["finish_reason"]
        assert told["calls"] == [
            [made["function"]["name"], made["function"]["arguments"]]
            for made in message.get("tool_calls", ())
        ]


def test_a_stream_announces_the_role_first_and_sends_one_token_per_event() -> None:
    """The first delta has the role, every further one exactly one token."""
    parts = chunks(stream(simulator()))
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    tokens = [part["choices"][0]["delta"]["content"] for part in parts[1:-2]]
    assert tokens == tokenize("".join(tokens))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_tokens_ends_with_length(name: str) -> None:
    """The limit counts reasoning too, and the finish reason says that it struck."""
    answer = complete(simulator(), **{name: 10}, reasoning_effort="minimal")
    assert answer["usage"]["completion_tokens"] == 10
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_newer_limit_wins_and_none_below_one_counts() -> None:
    """`max_completion_tokens` goes before `max_tokens`; zero and less are ignored."""
    both = complete(simulator(), max_completion_tokens=4, max_tokens=9)
    assert both["usage"]["completion_tokens"] == 4
    assert complete(simulator(), max_tokens=0)["choices"][0]["finish_reason"] == "stop"


def test_a_stop_string_ends_the_text_before_it() -> None:
    """The text ends before the earliest stop string, which is generated but not delivered."""
    answer = complete(simulator(), stop=["Traghetto", "answer"])
    choice = answer["choices"][0]
    assert choice["message"]["content"] == "This is a simulated "
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(tokenize("This is a simulated answer"))


def test_choices_differ_and_are_all_billed() -> None:
    """`n` choices are told and their completion tokens added up."""
    answer = complete(simulator(), n=3)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(texts)) == 3
    assert answer["usage"]["completion_tokens"] == sum(len(tokenize(text)) for text in texts)


def test_log_probabilities_are_well_formed() -> None:
    """One entry per token, the alternatives in descending order, the chosen token among them."""
    whole = complete(simulator(), logprobs=True, top_logprobs=3)["choices"][0]
    entries = whole["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == tokenize(whole["message"]["content"])
    for entry in entries:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        top = [alternative["logprob"] for alternative in entry["top_logprobs"]]
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert entry["logprob"] <= 0
    parts = chunks(stream(simulator(), logprobs=True, top_logprobs=3))
    streamed = [
        entry
        for part in parts
        for choice in part["choices"]
        for entry in (choice.get("logprobs") or {"content": []})["content"]
    ]
    assert streamed == entries


@pytest.mark.parametrize("effort", ["none", "minimal", "max"])
def test_reasoning_follows_the_effort(effort: str) -> None:
    """No effort, no reasoning; otherwise it is there and says that it is simulated."""
    message = complete(simulator(), reasoning_effort=effort)["choices"][0]["message"]
    assert ("reasoning_content" in message) == (effort != "none")
    assert "imulated" in message.get("reasoning_content", "simulated")


def test_offered_tools_are_called_with_valid_arguments() -> None:
    """With the choice left open a tool is called, and its schema accepts the arguments."""
    for seed in range(1, 30):
        choice = complete(simulator(), tools=[WEATHER], seed=seed)["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        function = choice["message"]["tool_calls"][0]["function"]
        assert function["name"] == "get_weather"
        jsonschema_rs.validate(WEATHER["function"]["parameters"], json.loads(function["arguments"]))


def test_a_tool_result_is_answered_with_text() -> None:
    """After a tool's result the simulator talks, unless a call is demanded."""
    messages = [USER, {"role": "tool", "tool_call_id": "call_1", "content": "rain"}]
    answer = complete(simulator(), tools=[WEATHER], messages=messages)
    assert answer["choices"][0]["finish_reason"] == "stop"
    demanded = complete(simulator(), tools=[WEATHER], messages=messages, tool_choice="required")
    assert demanded["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"tool_choice": "none"}, set()),
        ({"tool_choice": {"type": "function", "function": {"name": "get_tides"}}}, {"get_tides"}),
        ({"parallel_tool_calls": True}, {"get_tides", "get_weather"}),
    ],
    ids=["none", "named", "parallel"],
)
def test_the_tool_choice_is_followed(body: dict[str, Any], names: set[str]) -> None:
    """None, a named tool, or several at once where that is allowed."""
    message = complete(simulator(), tools=[WEATHER, TIDES], **body)["choices"][0]["message"]
    assert {made["function"]["name"] for made in message.get("tool_calls", ())} == names


def test_tools_that_are_no_functions_do_nothing() -> None:
    """An entry such as web_search is accepted and not called."""
    answer = complete(simulator(), tools=[{"type": "web_search"}])
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_arguments_are_cut_by_the_limit_of_tokens() -> None:
    """A call that does not fit is cut off, as a model's would be, and says so."""
    answer = complete(simulator(), tools=[WEATHER], max_tokens=8)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 8


def test_a_json_schema_is_answered_with_valid_json() -> None:
    """The content is JSON that the schema accepts."""
    schema = WEATHER["function"]["parameters"]
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    answer = complete(simulator(), response_format=wanted)
    jsonschema_rs.validate(schema, json.loads(answer["choices"][0]["message"]["content"]))


def test_a_json_object_says_that_it_is_simulated() -> None:
    """Without a schema the object holds nothing but the note."""
    answer = complete(simulator(), response_format={"type": "json_object"})
    assert json.loads(answer["choices"][0]["message"]["content"])["simulated"] is True


def test_an_impossible_schema_is_refused() -> None:
    """A schema that nothing satisfies is the caller's mistake, and the field is named."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": []}}}
    with pytest.raises(EngineFailure) as refusal:
        complete(simulator(), response_format=wanted)
    assert refusal.value.kind is FailureKind.REJECTED_INPUT
    assert refusal.value.fields == ("response_format",)


def test_a_prompt_beyond_the_context_is_refused() -> None:
    """The context holds prompt and answer; a prompt that fills it leaves no room."""
    backend = simulator(context_tokens=20)
    long = [{"role": "user", "content": "word " * 20}]
    for attempt in (
        lambda: complete(backend, messages=long),
        lambda: stream(backend, messages=long),
    ):
        with pytest.raises(EngineFailure) as refusal:
            attempt()
        assert refusal.value.kind is FailureKind.CONTEXT_EXCEEDED


def test_the_answer_ends_where_the_context_ends() -> None:
    """What does not fit into the context is cut with `length`."""
    answer = complete(simulator(context_tokens=20))
    assert answer["usage"]["total_tokens"] == 20
    assert answer["choices"][0]["finish_reason"] == "length"


def test_pacing_delays_the_first_and_every_further_token() -> None:
    """The delays are those of the options, by the loop's own time."""

    async def timed() -> tuple[float, float]:
        backend = simulator(first_token_seconds=0.02, token_seconds=0.01)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await backend.complete(call(max_tokens=5))
        whole = loop.time() - started
        started = loop.time()
        async for _ in backend.stream(call(max_tokens=5)):
            pass
        return whole, loop.time() - started

    whole, streamed = asyncio.run(timed())
    assert whole >= 0.05
    assert streamed >= 0.05


def test_a_stream_lets_other_tasks_run() -> None:
    """Without pacing a long stream still gives way now and then."""

    async def count_turns() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        async for _ in simulator(answer_tokens=200).stream(call()):
            pass
        task.cancel()
        return turns

    assert asyncio.run(count_turns()) > 5


def test_its_model_is_listed_with_its_context() -> None:
    """The health check and discovery see one model."""
    (model,) = asyncio.run(simulator(context_tokens=4096).models())
    assert (model.id, model.context_tokens) == ("simulator", 4096)
