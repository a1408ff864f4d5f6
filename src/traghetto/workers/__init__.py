"""Worker processes with limits: where bytes that nobody trusts are decoded and pixels are computed.

The package knows no image, sound or document: it runs a named function of ours on plain values in
a process that may use so much memory, so much time and nothing else, and reports how that ended.

`pool.Workers` is what the gateway sees, `task.Refusal` what a task's function may need; `frames`
is how values cross, `process` the other side, `confinement` what it takes away from itself.
"""

from __future__ import annotations


class WorkerError(Exception):
    """A task did not end with a value."""


class TaskRefused(WorkerError):
    """The task refused, in words of ours."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class TaskFailed(WorkerError):
    """The task raised something it should not have."""


class WorkerDied(WorkerError):
    """The process ended before the task did."""


class TaskTimedOut(WorkerError):
    """The task took longer than it was given."""


class WorkersBusy(WorkerError):
    """More tasks wait already than may."""
