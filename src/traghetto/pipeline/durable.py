"""Waiting for the disk: nothing is promised, and nothing said to be complete, before."""

from __future__ import annotations

import asyncio

from traghetto.errors import ApiError, ErrorCode
from traghetto.idempotency.answers import Claim
from traghetto.storage.connector import StoreBroken


async def durable(written: asyncio.Future[None] | None) -> None:
    """Wait until a hold or charge is on disk: before that nothing may be promised.

    None stands for a request that costs nothing: it has no hold and no charge. Raises ApiError
    with UNKNOWN_ERROR if the store is broken.
    """
    if written is None:
        return
    try:
        await written
    except StoreBroken as broken:
        raise ApiError(ErrorCode.UNKNOWN_ERROR, reason="the store is broken") from broken


async def charge_durable(written: asyncio.Future[None] | None, claim: Claim | None) -> None:
    """Wait until a charge is on disk, even if the request is cancelled meanwhile.

    What has been charged is answered: a shutdown waits the moment that a commit takes. What was
    kept beside it can be given again from now on.
    """
    while True:
        try:
            await durable(written)
            break
        except asyncio.CancelledError:
            continue  # also in the very moment in which it became durable
    if claim is not None:
        claim.settled()
