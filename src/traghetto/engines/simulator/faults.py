"""Faults that the simulator can be told to have, one row each, and the plan that says when.

A fault before the answer is raised as the failure an adapter would raise. A fault of the stream
is in the bytes themselves, so that whoever relays them has to notice.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from traghetto.engines.failures import EngineFailure, FailureKind

RETRY_AFTER_SECONDS: Final = 2


@enum.unique
class Fault(enum.Enum):
    """A way in which the simulator misbehaves; the value names it in configuration."""

    OVERLOADED = "overloaded"
    """Refuses before the answer, as with 429, and asks for a retry after two seconds."""
    AT_CAPACITY = "at-capacity"
    """Refuses before the answer, as with 503, and asks for a retry after two seconds."""
    OFFLINE = "offline"
    """Refuses before the answer and fails its health check."""
    UNREACHABLE = "unreachable"
    """Cannot be connected to; fails its health check."""
    CONTENT_POLICY = "content-policy"
    """Refuses the content before the answer."""
    CONTEXT_EXCEEDED = "context-exceeded"
    """Says that the prompt does not fit, whatever its length."""
    REJECTED_INPUT = "rejected-input"
    """Refuses a parameter."""
    BROKEN = "broken"
    """Fails before the answer, as with 500."""
    HANG = "hang"
    """Never answers."""
    SLOW = "slow"
    """Waits `seconds` before the answer and before every event."""
    STALL_AFTER = "stall-after"
    """Sends `after_events` events and then nothing, for ever; a whole answer never comes."""
    CUT_AFTER = "cut-after"
    """Sends `after_events` events and ends; a whole answer breaks off."""
    MALFORMED = "malformed"
    """After `after_events` events sends half a JSON text; a whole answer is not a completion."""
    INVALID_UTF8 = "invalid-utf8"
    """After `after_events` events sends bytes that are not UTF-8; a whole answer breaks off."""
    IN_BAND_ERROR = "in-band-error"
    """After `after_events` events sends an error object and ends; a whole answer is one."""
    IN_BAND_OVERLOAD = "in-band-overload"
    """The same with an error object that says overloaded."""
    NO_FINISH_REASON = "no-finish-reason"
    """Never says why it stopped."""
    NO_DONE = "no-done"
    """Ends the stream without its terminal marker; a whole answer is not affected."""
    NO_USAGE = "no-usage"
    """Never reports usage."""


_REFUSALS: Final = {
    Fault.OVERLOADED: FailureKind.OVERLOADED,
    Fault.AT_CAPACITY: FailureKind.AT_CAPACITY,
    Fault.OFFLINE: FailureKind.OFFLINE,
    Fault.UNREACHABLE: FailureKind.UNREACHABLE,
    Fault.CONTENT_POLICY: FailureKind.REJECTED_CONTENT,
    Fault.CONTEXT_EXCEEDED: FailureKind.CONTEXT_EXCEEDED,
    Fault.REJECTED_INPUT: FailureKind.REJECTED_INPUT,
    Fault.BROKEN: FailureKind.BROKEN,
}
_BUSY: Final = frozenset({Fault.OVERLOADED, Fault.AT_CAPACITY})
_DOWN: Final = frozenset({Fault.OFFLINE, Fault.UNREACHABLE})

ERROR_OBJECTS: Final = {
    Fault.IN_BAND_ERROR: (
        b'{"error":{"message":"simulated failure","type":"server_error","code":500}}'
    ),
    Fault.IN_BAND_OVERLOAD: (
        b'{"error":{"message":"simulated overload","type":"overloaded_error","code":429}}'
    ),
}


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault with its measures."""

    fault: Fault
    after_events: int = 3
    """Events of a stream before the fault; the first announces the role."""
    seconds: float = 1.0
    """The delay of SLOW."""

    def refusal(self) -> EngineFailure | None:
        """What is raised instead of any answer, or None if the fault lies elsewhere."""
        kind = _REFUSALS.get(self.fault)
        if kind is None:
            return None
        return EngineFailure(
            kind,
            f"simulated fault: {self.fault.value}",
            retry_after_seconds=RETRY_AFTER_SECONDS if self.fault in _BUSY else None,
        )

    @property
    def fails_health_check(self) -> bool:
        """Whether the backend looks down while this fault is planned."""
        return self.fault in _DOWN


class FaultPlan:
    """When a backend misbehaves: always (`fixed`), or for the calls that tests and labs choose."""

    def __init__(self, fixed: PlannedFault | None = None) -> None:
        """`fixed` holds whenever nothing else is set; `clear` does not remove it."""
        self._fixed = fixed
        self._set: PlannedFault | None = None
        self._calls_left: int | None = None

    def set(self, planned: PlannedFault, *, calls: int | None = None) -> None:
        """Misbehave so for the next `calls` calls, or until `clear`."""
        self._set = planned
        self._calls_left = calls

    def clear(self) -> None:
        """Behave again."""
        self._set = None
        self._calls_left = None

    def current(self) -> PlannedFault | None:
        """The fault the next call would meet."""
        return self._set or self._fixed

    def take(self) -> PlannedFault | None:
        """The fault of the call that starts now; counts the call."""
        planned = self.current()
        if self._set is not None and self._calls_left is not None:
            self._calls_left -= 1
            if self._calls_left <= 0:
                self.clear()
        return planned
