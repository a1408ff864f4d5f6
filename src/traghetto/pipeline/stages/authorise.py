"""Whether this caller may use this model, and whether the model is there (A.3, steps 12, 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from traghetto.catalog.model import Model
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.pool import ModelPool
from traghetto.errors import ApiError, ErrorCode
from traghetto.pipeline.stages.authenticate import Caller

_Pool = TypeVar("_Pool", ModelPool, ImagePool)


def authorise(pools: Mapping[str, _Pool], caller: Caller, model: Model) -> _Pool:
    """The pool that serves `model`, if the caller may use it.

    Raises ApiError: PRO_ONLY_MODEL, UNAUTHORIZED (privacy setting of the key, entitlement of the
    account), MODEL_OFFLINE.
    """
    if model.pro_only and not caller.account.is_pro:
        raise ApiError(ErrorCode.PRO_ONLY_MODEL)
    if not model.admits(caller.key.model_privacy):
        raise ApiError(ErrorCode.UNAUTHORIZED, reason="the key's model privacy forbids the model")
    if model.feature is not None and model.feature not in caller.account.features:
        raise ApiError(ErrorCode.UNAUTHORIZED, reason="the account lacks the model's feature")
    pool = pools.get(model.id)
    if model.offline or pool is None:
        raise ApiError(ErrorCode.MODEL_OFFLINE)
    availability = pool.available()
    if not availability.up:
        raise ApiError(
            ErrorCode.MODEL_OFFLINE, retry_after_seconds=availability.retry_after_seconds
        )
    return pool
