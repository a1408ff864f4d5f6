"""The lab: a gateway in which every failure can be provoked, for the tests of its clients."""

from traghetto.lab.opening import open_lab

__all__ = ["open_lab"]
