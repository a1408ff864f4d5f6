"""How a task can end other than with a result."""

from __future__ import annotations


class WorkerError(Exception):
    """A task has no result; the subclass says why. Texts are for operators."""


class TaskRefused(WorkerError):
    """The task's function looked at its input and refused it."""

    def __init__(self, kind: str, reason: str) -> None:
        """`kind` is a word that the task and its caller agreed on, `reason` a sentence."""
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason


class TaskFailed(WorkerError):
    """The task's function raised something; only its type and place are told, never its text."""


class WorkerDied(WorkerError):
    """The process ended, or talked nonsense and was ended, while it had the task."""


class TaskTimedOut(WorkerError):
    """The task took longer than it may; its process was killed."""


class WorkersBusy(WorkerError):
    """No process is to be had now: too many tasks wait, one waited too long, or we are stopping."""
