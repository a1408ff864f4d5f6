"""Adapter to servers with OpenAI's HTTP API."""

from traghetto.engines.openai.backend import OpenAIBackend, Tokenizer
from traghetto.engines.openai.client import HttpClient

__all__ = ["HttpClient", "OpenAIBackend", "Tokenizer"]
