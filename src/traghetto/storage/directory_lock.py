"""One owner of the books: an advisory lock on the data directory, held while the store is open."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from traghetto.storage.connector import StoreUnusable

PRIVATE_DIRECTORY_MODE = 0o700
PRIVATE_FILE_MODE = 0o600


class DataDirectoryBusy(StoreUnusable):
    """Another process owns the data directory; `pid` is what it wrote of itself, or None."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        owner = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{data_dir} is in use by {owner}: one gateway owns the books; stop it, or choose "
            "another directory with --data-dir"
        )
        self.pid = pid


class DataDirectoryLock:
    """Creates the data directory (0700) and holds `lock` in it until `release`.

    Raises DataDirectoryBusy, and StoreUnusable where there can be no such directory. The operating
    system frees the lock when its holder dies, however it dies; the file stays, because removing
    it would let two processes lock different files.
    """

    def __init__(self, data_dir: Path) -> None:
        try:
            made = [path for path in (data_dir, *data_dir.parents) if not path.exists()]
            data_dir.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)
            data_dir.chmod(PRIVATE_DIRECTORY_MODE)
        except OSError as error:
            raise StoreUnusable(
                f"{data_dir} cannot be the data directory ({error.strerror}): name another with "
                "--data-dir"
            ) from error
        for path in made:
            _sync_names_in(path.parent)
        self._file = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.read(self._file, 20).strip()
            os.close(self._file)
            raise DataDirectoryBusy(data_dir, int(written) if written.isdigit() else None) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let the next process in."""
        os.close(self._file)


def _sync_names_in(directory: Path) -> None:
    """Let the names in `directory` outlive power.

    SQLite does so for those of its files; the name of the directory that they are in is for us.
    """
    # Some file systems neither can nor need to sync directories; SQLite lets that pass as well.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
