"""What functions that run in a worker may know of it: how to refuse their input."""

from __future__ import annotations


class Refusal(Exception):
    """Raised by a task: its input is not what it should be. The caller gets `TaskRefused`."""

    def __init__(self, kind: str, reason: str) -> None:
        """`kind` is a word that the task and its caller agreed on, `reason` a sentence.

        Neither may hold anything of the input.
        """
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason
