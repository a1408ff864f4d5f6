"""What a stream has sent, remembered so that it can be sent again."""

from __future__ import annotations

from traghetto.idempotency.answers import ANSWER_BYTES_MAX


class Recording:
    """The frames of one stream, up to the size of an answer that is kept."""

    __slots__ = ("_bytes", "_frames")

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0

    def add(self, frames: bytes) -> None:
        """Remember frames; of a stream that is too large nothing is remembered."""
        self._bytes += len(frames)
        if self._bytes > ANSWER_BYTES_MAX:
            self._frames.clear()
        else:
            self._frames.append(frames)

    def whole(self, terminal: bytes) -> bytes | None:
        """The stream with its `terminal` frames; None if it is too large to be kept."""
        if self._bytes + len(terminal) > ANSWER_BYTES_MAX:
            return None
        return b"".join((*self._frames, terminal))
