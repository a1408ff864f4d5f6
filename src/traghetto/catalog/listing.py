"""A model as clients read it: the model object of `GET /models` (contract B.3).

Prices are exact JSON numbers: decimals made from integers, encoded without a float in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from traghetto.catalog.model import (
    COUNT_MEMBERS,
    Deprecation,
    Model,
    TextPricing,
)
from traghetto.money import UnitPrice, format_usd
from traghetto.wire.images import USUAL_CONSTRAINTS

OWNED_BY: Final = "venice.ai"
"""The only value the contract allows; clients compare it."""

TEXT_CONSTRAINTS: Final[Mapping[str, Any]] = {
    "temperature": {"default": 1},
    "top_p": {"default": 1},
}
"""What a text model samples with unless its entry says otherwise; strict clients need both."""

_encoder: Final = msgspec.json.Encoder(decimal_format="number")


def encode(value: object) -> bytes:
    """`value` as compact JSON in which decimals are numbers."""
    return _encoder.encode(value)


def model_object(model: Model) -> dict[str, Any]:
    """`model` with the members of the contract, in its order; what is unknown is left out."""
    answer: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "owned_by": OWNED_BY,
        "type": model.type,
        "created": model.created,
    }
    if model.type == "text" and model.context_tokens is not None:
        answer["context_length"] = model.context_tokens
    answer["model_spec"] = _model_spec(model)
    return answer


def _model_spec(model: Model) -> dict[str, Any]:
    members: dict[str, Any] = {
        "name": model.name or model.id,
        "description": model.description,
        "modelSource": model.source,
        "privacy": model.privacy,
        "offline": model.offline,
        "traits": model.traits,
        "deprecation": _deprecation(model.deprecation),
    }
    if model.type == "text":
        members["availableContextTokens"] = model.context_tokens
        members["maxCompletionTokens"] = model.max_completion_tokens
        members["capabilities"] = _present(msgspec.structs.asdict(model.capabilities))
        members["constraints"] = {**TEXT_CONSTRAINTS, **model.constraints}
    else:
        usual = USUAL_CONSTRAINTS.get(model.type, {})
        members["constraints"] = {**usual, **model.constraints} or None
    if model.media_pricing is None:
        members["pricing"] = _token_prices(model.pricing)
    else:
        members["pricing"] = _media_prices(model.media_pricing.tree) or None
    return _present({**members, **model.spec_members})


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _deprecation(deprecation: Deprecation | None) -> dict[str, Any] | None:
    if deprecation is None:
        return None
    return _present(
        {
            "autoRemap": deprecation.auto_remap,
            "date": deprecation.date,
            "removesAt": deprecation.removes_at,
            "replacementModelId": deprecation.replacement_model_id,
            "startsAt": deprecation.starts_at,
        }
    )


def _token_prices(pricing: TextPricing) -> dict[str, Any]:
    prices = {"input": _price(pricing.input)}
    if pricing.cache_input != pricing.input:
        prices["cache_input"] = _price(pricing.cache_input)
    if pricing.cache_write != pricing.input:
        prices["cache_write"] = _price(pricing.cache_write)
    prices["output"] = _price(pricing.output)
    return prices


def _media_prices(tree: Mapping[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for name, node in tree.items():
        if name in COUNT_MEMBERS:
            answer[name] = node
        elif not isinstance(node, Mapping):
            answer[name] = _price(UnitPrice(node))
        elif "price" in node:
            # A tier with counts of its own: the price's members stand beside them.
            counts = {member: value for member, value in node.items() if member != "price"}
            answer[name] = {**_price(UnitPrice(node["price"])), **counts}
        else:
            answer[name] = _media_prices(node)
    return answer


def _price(price: UnitPrice) -> dict[str, Decimal]:
    """One DIEM buys what one USD buys (contract C.5), so both members are equal."""
    amount = Decimal(format_usd(price.nano_usd))
    return {"usd": amount, "diem": amount}
