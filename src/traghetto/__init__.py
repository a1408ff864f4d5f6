"""Traghetto: a self-hosted AI gateway that speaks the Venice API and keeps exact books."""

__version__ = "0.1.0"
