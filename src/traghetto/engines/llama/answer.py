"""What llama.cpp answers: chunks of several runs as one stream, or put together as one answer.

llama.cpp limits `n` to its slots and reports usage per choice, so each choice is a run of its
own; here they become one answer. Prompt tokens count once, completion tokens of all choices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

DONE: Final = b"[DONE]"


class Answer:
    """An answer in the making: chunks in, events or a whole completion out."""

    def __init__(self, *, answer_id: str, created: int, model: str, choices: int) -> None:
        """`created` is in seconds since 1970."""
        self._head = {"id": answer_id, "created": created, "model": model}
        self._choices = [_Choice() for _ in range(choices)]

    def add(self, index: int, chunk: dict[str, Any]) -> bytes | None:
        """Take a chunk of the run for choice `index`; returns the event it becomes, if any."""
        choice = self._choices[index]
        if (usage := chunk.get("usage")) is not None:
            choice.usage = usage
        if not chunk.get("choices") or "prompt_progress" in chunk:
            return None
        part = choice.add(chunk["choices"][0])
        return self._event([{"index": index, **part}])

    @property
    def is_finished(self) -> bool:
        """Whether every choice has its finish reason and its usage."""
        return all(choice.finish_reason and choice.usage for choice in self._choices)

    def last_event(self) -> bytes:
        """The event that carries the usage."""
        return self._event([], usage=self._usage())

    def completion(self) -> dict[str, Any]:
        """The whole answer as a `chat.completion`."""
        return {
            "object": "chat.completion",
            **self._head,
            "choices": [choice.whole(index) for index, choice in enumerate(self._choices)],
            "usage": self._usage(),
        }

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return msgspec.json.encode(
            {"object": "chat.completion.chunk", **self._head, "choices": choices, **more}
        )

    def _usage(self) -> dict[str, Any]:
        usages = [choice.usage for choice in self._choices]
        prompt: int = usages[0]["prompt_tokens"]
        completion: int = sum(usage["completion_tokens"] for usage in usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": usages[0].get("prompt_tokens_details"),
        }


@dataclass(slots=True)
class _Choice:
    """One choice, collected from its deltas."""

    has_role: bool = False
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    def add(self, part: dict[str, Any]) -> dict[str, Any]:
        """Collect a part; returns it with the role put first, which llama.cpp may leave out."""
        delta = part["delta"]
        if not self.has_role:
            self.has_role = True
            delta = {"role": "assistant", **delta}
        self.content.append(delta.get("content") or "")
        self.reasoning.append(delta.get("reasoning_content") or "")
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        logprobs = part.get("logprobs")
        if logprobs:
            self.logprobs.extend(logprobs["content"])
        self.finish_reason = part["finish_reason"] or self.finish_reason
        return {"delta": delta, "logprobs": logprobs, "finish_reason": part["finish_reason"]}

    def _add_call(self, call: dict[str, Any]) -> None:
        function = call.get("function", {})
        if call["index"] == len(self.tool_calls):
            self.tool_calls.append(
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": function["name"], "arguments": ""},
                }
            )
        self.tool_calls[call["index"]]["function"]["arguments"] += function.get("arguments", "")

    def whole(self, index: int) -> dict[str, Any]:
        """The choice as a member of `choices`."""
        content = "".join(self.content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if self.tool_calls and not content else content,
        }
        if reasoning := "".join(self.reasoning):
            message["reasoning_content"] = reasoning
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": self.logprobs} if self.logprobs else None,
            "finish_reason": self.finish_reason,
        }
