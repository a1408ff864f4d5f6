"""What keeps one caller from taking everything: rates, failure budgets, concurrency."""

from traghetto.limits.budget import (
    BudgetKind,
    FailedRequestBudget,
    address_bucket,
    key_bucket,
)
from traghetto.limits.concurrency import Gate
from traghetto.limits.rates import Admission, RateLimiter

__all__ = [
    "Admission",
    "BudgetKind",
    "FailedRequestBudget",
    "Gate",
    "RateLimiter",
    "address_bucket",
    "key_bucket",
]
