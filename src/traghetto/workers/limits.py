"""What a worker process may use, and how many tasks may wait for one."""

from __future__ import annotations

import msgspec

from traghetto.bounds import WORKER_MEMORY_BYTES_MAX


class WorkerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of every worker of a pool."""

    memory_bytes_max: int = WORKER_MEMORY_BYTES_MAX
    """Address space of a process, in bytes; a task beyond it fails with MemoryError."""
    files_open_max: int = 64
    """Descriptors of a process; libraries open their own files while they are imported."""
    niceness: int = 19
    """Added to the gateway's own, so that pixels do not delay chats."""
    input_bytes_max: int = 134_217_728
    """What a task may be given, encoded, in bytes."""
    result_bytes_max: int = 134_217_728
    """What a task may answer, encoded, in bytes."""
    tasks_waiting_max: int = 64
    """Tasks that wait for a process; further ones are refused at once."""
    wait_seconds_max: float = 30.0
    """How long a task waits for a process, in seconds."""
    start_seconds_max: float = 20.0
    """How long a process may take to start, in seconds."""
    tasks_per_process_max: int = 512
    """After so many a process is replaced, so that no leak of a library grows for ever."""
