"""Which model is meant (contract A.3, step 11)."""

from __future__ import annotations

from typing import Any

import msgspec

from traghetto.catalog.model import Model, ModelType, TextPricing
from traghetto.errors import ApiError, ErrorCode
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.services import Fleet
from traghetto.wire.chat import requested_model
from traghetto.wire.suffix import split_suffix


class ModelChoice(msgspec.Struct, frozen=True):
    """The model a request names, and the options its name carried."""

    model: Model
    pricing: TextPricing
    suffix: dict[str, Any]


def resolve(
    fleet: Fleet, exchange: Exchange, body: dict[str, Any], *, kind: ModelType
) -> ModelChoice:
    """The model of type `kind` that `body` names; its headers go on the answer.

    Raises ApiError: INVALID_REQUEST (no model, not a string), MODEL_NOT_FOUND, INVALID_MODEL.
    """
    requested, suffix = split_suffix(requested_model(body))
    model = fleet.catalog.resolve(requested, kind)
    if model is None:
        raise ApiError(ErrorCode.MODEL_NOT_FOUND)
    if model.type != kind:
        raise ApiError(ErrorCode.INVALID_MODEL)
    note_model(fleet, exchange, model)
    assert isinstance(model.pricing, TextPricing), "models of this kind are priced by tokens"
    return ModelChoice(model, model.pricing, suffix)


def note_model(fleet: Fleet, exchange: Exchange, model: Model) -> None:
    """Put what is to be said about the model on the answer, and its name in logs and metrics."""
    exchange.model = model.id
    exchange.answer_headers += fleet.headers[model.id]
