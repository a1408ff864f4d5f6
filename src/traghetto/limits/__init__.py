"""What keeps one caller from taking everything: rates, failure budgets, concurrency."""

from traghetto.limits.budget import (
    BudgetKind,
    FailedRequestBudget,
    address_bucket,
    key_bucket,
)
from traghetto.limits.concurrency import Gate
from traghetto.limits.endpoints import EndpointLimiter
from traghetto.limits.rates import Admission, RateLimiter
from traghetto.limits.refusals import Refusal, RefusalLog

__all__ = [
    "Admission",
    "BudgetKind",
    "EndpointLimiter",
    "FailedRequestBudget",
    "Gate",
    "RateLimiter",
    "Refusal",
    "RefusalLog",
    "address_bucket",
    "key_bucket",
]
