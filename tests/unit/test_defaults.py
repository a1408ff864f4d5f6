"""Parts that can be used without settings have the settings' defaults, not others."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import pytest

from traghetto.accounts.values import Tier as AccountTier
from traghetto.engines.protocols import Deadlines
from traghetto.http.front_door import FrontDoorLimits
from traghetto.http.server import ServerOptions
from traghetto.ledger.book import Book, Overdraft
from traghetto.limits.budget import FailedRequestBudget
from traghetto.limits.rates import Tier as RateTier
from traghetto.settings import Settings
from traghetto.storage.sqlite import Durability, SqliteStore
from traghetto.wire.json import decode_object

FIXED_LIMITS = {
    "request_line_bytes_max",
    "pipelined_requests_max",
    "linger_seconds_max",
    "linger_bytes_max",
    "drained_body_bytes_max",
}
"""Limits of the front door that are not for setting."""

RENAMED = {
    "hold_seconds": "hold_seconds_max",
    "window_seconds": "failed_requests_window_seconds",
    "block_seconds": "failed_requests_block_seconds",
    "reset_style": "ratelimit_reset_style",
    "depth_max": "json_depth_max",
    "nodes_max": "json_nodes_max",
}
"""Parameters that a setting fills under another name."""


@pytest.mark.parametrize(
    ("part", "unset"),
    [
        (FrontDoorLimits, FIXED_LIMITS),
        (ServerOptions, {"limits"}),
        (Deadlines, set()),
        (Book, set()),
        (SqliteStore, {"vfs"}),
        (FailedRequestBudget, {"buckets_max"}),
        (decode_object, set()),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_default_is_the_default_of_its_setting(part, unset):
    """Every parameter with a default is a setting, or is known not to be one."""
    settings = Settings()
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.default is not inspect.Parameter.empty and name not in unset:
            assert parameter.default == getattr(settings, RENAMED.get(name, name)), name


def test_every_limit_reaches_the_front_door():
    """A setting with another value is used, whichever it is."""
    names = {field.name for field in dataclasses.fields(FrontDoorLimits)} - FIXED_LIMITS
    for name in names:
        settings = Settings(**{name: getattr(Settings(), name) + 1})
        limits = ServerOptions.of(settings).limits
        assert getattr(limits, name) == getattr(settings, name)


def test_choices_are_written_alike_wherever_they_are_written():
    """Parts that may not import each other agree on the words that cross between them."""
    hints = typing.get_type_hints(Settings)
    assert hints["durability"] == Durability
    assert hints["overdraft"] == Overdraft
    assert AccountTier == RateTier
