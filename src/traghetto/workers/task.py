"""What a task, in its worker process, may say to whoever asked for it."""

from __future__ import annotations


class Refusal(Exception):
    """Raised by a task that will not do what it was asked, in words of ours."""

    def __init__(self, kind: str, reason: str) -> None:
        """`kind` is for programs, `reason` for operators; neither holds what the caller sent."""
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
