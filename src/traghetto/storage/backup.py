"""Copies of the books: taken beside a running gateway, and put in place where there are none.

A copy is one consistent view, in one file. It is written under another name and renamed when it is
whole, checked and on disk, so that a file with its final name is always a copy that was good.

Books of an older version are copied as they are, and checked as this version would read them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import apsw

from traghetto.storage.connector import StoreUnusable
from traghetto.storage.directory_lock import PRIVATE_FILE_MODE, DataDirectoryLock
from traghetto.storage.migrate import check_version, rehearse
from traghetto.storage.sqlite import (
    BUSY_MILLISECONDS,
    FILE_NAME,
    SqliteSnapshot,
    open_view,
    require_books,
)

PAGES_PER_STEP: Final = 1000
PARTIAL_SUFFIX: Final = ".partial"
REASON_CHARACTERS_MAX: Final = 200
BOOKS_FILES: Final = (FILE_NAME, *(f"{FILE_NAME}-{part}" for part in ("wal", "shm", "journal")))
"""What books consist of; the database engine makes the others beside the first."""

Progress = Callable[[int, int], None]
"""Told how many pages are done, and how many there are."""
Check = Callable[[SqliteSnapshot], None]
"""Raises StoreUnusable for books that do not add up."""


def back_up(data_dir: Path, target: Path, *, check: Check, progress: Progress) -> None:
    """Copy the books in `data_dir` to the new file `target` (0600), and check the copy.

    Raises StoreUnusable: no books, a target that exists, or a copy that fails its check.
    """
    require_books(data_dir)
    if not target.parent.is_dir():
        raise StoreUnusable(f"there is no directory {target.parent}: make it first")
    _copy(data_dir / FILE_NAME, target, check=check, progress=progress)


def restore(backup: Path, data_dir: Path, *, check: Check, progress: Progress) -> None:
    """Put the books in the file `backup` into `data_dir`, which must have none, and check them.

    Raises StoreUnusable: not a backup, written by a newer version, books that do not add up, books
    that are there already, or a directory that another process owns.
    """
    _require_schema(backup)  # before there is a directory
    lock = DataDirectoryLock(data_dir)
    try:
        found = [name for name in BOOKS_FILES if (data_dir / name).exists()]
        if found:
            raise StoreUnusable(
                f"{data_dir} has books already ({', '.join(found)}): move them away first"
            )
        _copy(backup, data_dir / FILE_NAME, check=check, progress=progress)
    finally:
        lock.release()


def _copy(source: Path, target: Path, *, check: Check, progress: Progress) -> None:
    _require_new(target)
    with _partial_of(target) as partial:
        with _understood(source):
            _copy_pages(source, partial, progress)
            _check_copy(partial, source, check)
        _synchronise(partial)
        _require_new(target)  # it may have come while the copy was made
        partial.rename(target)
    _synchronise(target.parent)


def _require_schema(backup: Path) -> None:
    with _understood(backup), contextlib.closing(open_view(backup)) as books:
        if check_version(books) == 0:
            raise StoreUnusable(f"{backup} is not a backup of the books: it has no schema")
        if backup.stat().st_size % int(books.pragma("page_size")):
            raise StoreUnusable(f"{backup} is damaged: its end is missing")


def _require_new(target: Path) -> None:
    if os.path.lexists(target):
        raise StoreUnusable(f"{target} exists already: name a new file")


@contextlib.contextmanager
def _partial_of(target: Path) -> Iterator[Path]:
    """An empty file (0600) beside `target` that nobody else writes; removed if anything fails.

    One that an interrupted copy has left is used again.
    """
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(partial, flags, PRIVATE_FILE_MODE)
    try:
        if not _is_ours(descriptor, partial):
            raise StoreUnusable(f"{partial} is being written by another command: wait for its end")
        try:
            os.fchmod(descriptor, PRIVATE_FILE_MODE)
            os.ftruncate(descriptor, 0)
            yield partial
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)


def _is_ours(descriptor: int, path: Path) -> bool:
    """Lock an open file, and see whether it still is the one at `path`: its owner may be done."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def _copy_pages(source: Path, target: Path, progress: Progress) -> None:
    with (
        contextlib.closing(open_view(source)) as books,
        contextlib.closing(apsw.Connection(str(target))) as copy,
    ):
        copy.set_busy_timeout(BUSY_MILLISECONDS)
        with copy.backup("main", books, "main") as pages:
            while not pages.done:
                pages.step(PAGES_PER_STEP)
                progress(pages.page_count - pages.remaining, pages.page_count)
        # One file without a write-ahead log beside it, so that it can be moved about.
        copy.pragma("journal_mode", "delete")


def _check_copy(partial: Path, source: Path, check: Check) -> None:
    with contextlib.closing(apsw.Connection(str(partial))) as copied:
        copied.execute("BEGIN")
        problems = [row[0] for row in copied.execute("PRAGMA integrity_check")]
        if problems != ["ok"]:
            raise StoreUnusable(f"{source} is damaged: {_in_one_line(problems[0])}")
        rehearse(copied)
        orphan = next(iter(copied.execute("PRAGMA foreign_key_check")), None)
        if orphan is not None:
            raise StoreUnusable(f"{source} is damaged: a row of {orphan[0]} belongs to nothing")
        check(SqliteSnapshot(copied))
        copied.execute("ROLLBACK")


@contextlib.contextmanager
def _understood(source: Path) -> Iterator[None]:
    """Say in a sentence what keeps `source` from being copied."""
    try:
        yield
    except (apsw.FullError, apsw.IOError, apsw.BusyError, apsw.CantOpenError) as error:
        raise StoreUnusable(f"{source} could not be copied: {_in_one_line(error)}") from error
    except apsw.CorruptError as error:
        raise StoreUnusable(f"{source} is damaged: {_in_one_line(error)}") from error
    except (apsw.Error, ValueError) as error:  # ValueError: a value that makes no sense
        raise StoreUnusable(
            f"{source} is not a backup of the books: {_in_one_line(error)}"
        ) from error


def _in_one_line(what: object) -> str:
    """The beginning of what the database engine says, which may quote a whole schema."""
    return " ".join(str(what).split())[:REASON_CHARACTERS_MAX]


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
