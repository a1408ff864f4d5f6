"""What Linux tells of processes: their children, their memory, and whether they are still there."""

from __future__ import annotations

import contextlib
from pathlib import Path


def children(pid: int) -> set[int]:
    """The processes that a process has started and that have not ended."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found.update(map(int, (task / "children").read_text().split()))
    return found


def memory_bytes(pid: int, name: str) -> int:
    """A number of a process, such as `VmRSS`; 0 once it has ended."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split(f"{name}:")[1].split()[0]) * 1024
    return 0


def is_running(pid: int) -> bool:
    """Whether there is a process of that number, if only one that nobody has buried."""
    return Path(f"/proc/{pid}").exists()
