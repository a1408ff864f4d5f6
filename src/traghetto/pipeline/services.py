"""What the stages work with: built once in `app`, shared by every request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from traghetto.accounts.directory import Directory
from traghetto.catalog.catalog import Catalog
from traghetto.clock import Clock
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.pool import ModelPool
from traghetto.idempotency.answers import Answers
from traghetto.ledger.book import Book
from traghetto.limits.budget import FailedRequestBudget
from traghetto.limits.concurrency import Gate
from traghetto.limits.endpoints import EndpointLimiter
from traghetto.limits.rates import RateLimiter
from traghetto.limits.refusals import RefusalLog
from traghetto.moderation import Policy
from traghetto.pipeline.exchange import Header
from traghetto.pipeline.stages.pictures import Media
from traghetto.pipeline.stages.receive import BodiesInFlight
from traghetto.settings import Settings
from traghetto.storage.reports import Reports


@dataclass(frozen=True, slots=True)
class Fleet:
    """The models now served, with what serves them; replaced as a whole by a reload."""

    catalog: Catalog
    pools: Mapping[str, ModelPool]
    """Of text models, by id; a model without a pool is served by nothing yet."""
    image_pools: Mapping[str, ImagePool]
    """Of models whose answers are images, by id; they have none in `pools`."""
    gates: Mapping[str, Gate]
    """By model id."""
    headers: Mapping[str, tuple[Header, ...]]
    """By model id: what an answer says about the model (contract B.1.8)."""

    def every_pool(self) -> set[ModelPool | ImagePool]:
        """The pools of all kinds, for whoever starts and closes them."""
        return {*self.pools.values(), *self.image_pools.values()}


@dataclass(slots=True)
class Services:
    """The parts of a running gateway that a request meets. Only what says so is replaced."""

    settings: Settings
    clock: Clock
    directory: Directory
    book: Book
    answers: Answers
    rates: RateLimiter
    budget: FailedRequestBudget
    calls: EndpointLimiter
    refusals: RefusalLog
    reports: Reports
    bodies: BodiesInFlight
    media: Media
    policy: Policy
    """What the operator allows; replaced by a reload, as `fleet` is."""
    fleet: Fleet
