"""What a server answered: thin, typed views of what came over the wire.

Invariant: nothing that a server sent is lost: each answer keeps its headers and its body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from traghetto.client.exceptions import InvalidAnswer


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer, whatever it holds."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes

    def json(self) -> Any:
        """The body, decoded; raises `InvalidAnswer` if it is not JSON."""
        try:
            return msgspec.json.decode(self.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidAnswer("the answer is not JSON") from error

    @property
    def request_id(self) -> str | None:
        """What the server calls the request."""
        return self.headers.get("x-request-id") or self.headers.get("cf-ray")

    @property
    def was_replayed(self) -> bool:
        """Whether it had been given before, for the same idempotency key; it is charged once."""
        return self.headers.get("idempotent-replayed") == "true"


@dataclass(frozen=True, slots=True)
class Completion(Answer):
    """The answer of a model that chats."""

    data: dict[str, Any]
    """The whole `chat.completion` object."""

    @classmethod
    def of(cls, answer: Answer) -> Completion:
        """Read an answer; raises `InvalidAnswer` if it is no completion."""
        data = answer.json()
        match data:
            case {"choices": [{"message": {}}, *_]}:
                return cls(answer.status, answer.headers, answer.content, data)
        raise InvalidAnswer("the answer has no choices")

    @property
    def message(self) -> dict[str, Any]:
        """The message of the first choice."""
        message: dict[str, Any] = self.data["choices"][0]["message"]
        return message

    @property
    def text(self) -> str:
        """The content of the first choice; empty if it only calls tools."""
        return self.message.get("content") or ""

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: `stop`, `length`, `tool_calls`, `content_filter`."""
        reason: str | None = self.data["choices"][0].get("finish_reason")
        return reason

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens; empty if the server does not count them."""
        return self.data.get("usage") or {}


@dataclass(frozen=True, slots=True)
class Picture(Answer):
    """An image: `content` is the file."""

    @classmethod
    def of(cls, answer: Answer) -> Picture:
        """Read an answer; raises `InvalidAnswer` if it is no image."""
        picture = cls(answer.status, answer.headers, answer.content)
        if not picture.content_type.startswith("image/"):
            raise InvalidAnswer(f"the answer is no image but {picture.content_type or 'untyped'}")
        return picture

    @property
    def content_type(self) -> str:
        """Such as `image/png`."""
        return self.headers.get("content-type", "").partition(";")[0].strip()

    @property
    def is_content_violation(self) -> bool:
        """Whether it is black because what was asked for is forbidden; that costs nothing."""
        return self.headers.get("x-venice-is-content-violation") == "true"

    @property
    def is_blurred(self) -> bool:
        """Whether the safe mode blurred it."""
        return self.headers.get("x-venice-is-blurred") == "true"


@dataclass(frozen=True, slots=True)
class Balance(Answer):
    """What an account owns; amounts are exact."""

    can_consume: bool
    currency: str | None
    """What the next request would be paid with."""
    usd: Decimal | None
    diem: Decimal | None

    @classmethod
    def of(cls, answer: Answer) -> Balance:
        """Read an answer; raises `InvalidAnswer` if it is no balance."""
        try:
            data = _exact.decode(answer.content)
            owned = data["balances"]
            return cls(
                answer.status,
                answer.headers,
                answer.content,
                can_consume=bool(data["canConsume"]),
                currency=data.get("consumptionCurrency"),
                usd=_amount(owned.get("usd")),
                diem=_amount(owned.get("diem")),
            )
        except (msgspec.DecodeError, LookupError, TypeError, AttributeError, InvalidOperation) as e:
            raise InvalidAnswer("the answer is no balance") from e


_exact = msgspec.json.Decoder(float_hook=Decimal)


def _amount(number: Any) -> Decimal | None:
    return None if number is None else Decimal(number)


def listed_models(answer: Answer) -> list[dict[str, Any]]:
    """The models of an answer; raises `InvalidAnswer` if it is no list."""
    match answer.json():
        case {"data": list(models)}:
            return models
    raise InvalidAnswer("the answer lists no models")
