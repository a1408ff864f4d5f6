"""Traghetto: a self-hosted AI gateway that speaks the Venice API and keeps exact books."""

__version__ = "0.1.0"

CONTRACT_VERSION = "20260821.193530"
"""The version of the published API that this one answers like; sent as `x-venice-version`."""
