"""THE COMPOSITION ROOT: the only package that picks concrete classes and wires them together."""

from traghetto.app.gateway import Gateway, Started, open_gateway
from traghetto.app.launch import Launch

__all__ = ["Gateway", "Launch", "Started", "open_gateway"]
