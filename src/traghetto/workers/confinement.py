"""What a worker takes away from itself before it sees a byte that is not ours.

Everywhere: bounds on memory, on descriptors and on writing files, no core dumps, a lower priority.
On Linux also: no privileges and no new ones, death with the gateway, and, where the kernel lets
an ordinary user make namespaces, a network of its own without any interface. Where the kernel
refuses, a worker could still open connections if a decoder's defect let foreign code run in it;
the other bounds hold. It runs as the gateway's user, and can read what that user can.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x1000_0000
_CLONE_NEWNET: Final = 0x4000_0000
_CAPABILITIES_HEADER: Final = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
"""Version 3 of the interface, and this process."""
_CAPABILITIES_TO_READ: Final = (ctypes.c_uint32 * 6)(1 << 2, 1 << 2)
"""CAP_DAC_READ_SEARCH is effective and permitted, and nothing is inherited."""
_STANDARD_ERROR: Final = 2
_DESCRIPTORS_MAX: Final = 4096
"""Where nothing lists the open ones."""


def confine(*, parent: int, memory_bytes_max: int, files_open_max: int, niceness: int) -> bool:
    """Give up what a worker does not need; returns whether the network is out of reach.

    Ends the process if `parent`, the gateway's process id, is gone already.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which then stops us
    _bound_resources(memory_bytes_max=memory_bytes_max, files_open_max=files_open_max)
    with suppress(OSError, AttributeError):
        os.nice(niceness)
    is_offline = False
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # With privileges a network is enough; without them it takes a user namespace as well.
        is_offline = any(
            libc.unshare(spaces) == 0 for spaces in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET)
        )
        # Root keeps the right to read: its libraries can be in a directory of somebody else's.
        libc.capset(_CAPABILITIES_HEADER, _CAPABILITIES_TO_READ)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last: new privileges clear it
    if hasattr(os, "getppid") and os.getppid() != parent:
        os._exit(0)  # it died before we asked to be told
    return is_offline


def close_descriptors_but(kept: int) -> None:
    """Close what was inherited by accident, all but the standard streams and `kept`.

    Not every event loop closes its descriptors in the processes that it starts.
    """
    listing = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")
    try:
        descriptors = [int(entry.name) for entry in listing.iterdir()]
    except OSError:
        descriptors = list(range(_DESCRIPTORS_MAX))
    for descriptor in descriptors:
        if descriptor > _STANDARD_ERROR and descriptor != kept:
            with suppress(OSError):
                os.close(descriptor)


def _bound_resources(*, memory_bytes_max: int, files_open_max: int) -> None:
    try:
        import resource  # noqa: PLC0415 - not on every platform
    except ImportError:
        return
    for bound, value in (
        (resource.RLIMIT_AS, memory_bytes_max),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, files_open_max),
    ):
        # Some systems do not know every one of them; what they refuse cannot be had.
        with suppress(OSError, ValueError):
            resource.setrlimit(bound, (value, value))
