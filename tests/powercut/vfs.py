"""The file system of the process, with somebody who writes down what SQLite asks of it.

Everything is done to real files as well, so that reads, locks and shared memory are the real ones.
The index of the write-ahead log is shared memory; it is not recorded, because it does not outlive
power.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from powercut.disk import Disk

REAL_VFS: Final = "unix"
_LOGS: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
_RECORDED: Final = _LOGS | apsw.SQLITE_OPEN_MAIN_DB


@contextmanager
def recording_vfs(disk: Disk) -> Iterator[str]:
    """The name of a VFS that writes down on `disk` what happens to the files opened with it."""
    name = f"powercut-{id(disk)}"
    vfs = RecordingVFS(name, disk)
    try:
        yield name
    finally:
        vfs.unregister()


class RecordingVFS(apsw.VFS):
    """Opens and deletes real files, and tells the disk model."""

    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name, REAL_VFS)
        self._disk = disk

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        if name is None or not flags[0] & _RECORDED:
            return super().xOpen(name, flags)  # a temporary file: nobody looks for it after a cut
        return RecordedFile(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        super().xDelete(filename, syncdir)
        self._disk.delete(Path(filename).name)
        if syncdir:
            self._disk.sync_directory()


class RecordedFile(apsw.VFSFile):
    """A real file whose changes are written down."""

    def __init__(self, disk: Disk, name: str | apsw.URIFilename, flags: list[int]) -> None:
        super().__init__(REAL_VFS, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._file = disk.open(Path(path).name)
        # SQLite's own VFS syncs the directory as well, once, when it first syncs such a file.
        self._name_unsynced = bool(flags[0] & _LOGS and flags[0] & apsw.SQLITE_OPEN_CREATE)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        super().xWrite(data, offset)
        self._disk.write(self._file, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(newsize)
        self._disk.truncate(self._file, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        """Only the model: nothing depends on what the machine's own disk holds."""
        self._disk.sync(self._file)
        if self._name_unsynced:
            self._name_unsynced = False
            self._disk.sync_directory()
