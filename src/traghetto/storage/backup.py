"""Copies of the books: taken beside a running gateway, and put in place where there are none.

A copy is one consistent view, in one file. It is written under another name and renamed when it is
whole, checked and on disk, so that a file with its final name is always a copy that was good.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import apsw

from traghetto.storage.connector import StoreUnusable
from traghetto.storage.directory_lock import PRIVATE_FILE_MODE, DataDirectoryLock
from traghetto.storage.sqlite import (
    BUSY_MILLISECONDS,
    FILE_NAME,
    SqliteSnapshot,
    open_file_read_only,
    require_books,
)

PAGES_PER_STEP: Final = 1000
PARTIAL_SUFFIX: Final = ".partial"

Progress = Callable[[int, int], None]
"""Told how many pages are done, and how many there are."""
Check = Callable[[SqliteSnapshot], None]
"""Raises StoreUnusable for books that do not add up."""


def back_up(data_dir: Path, target: Path, *, check: Check, progress: Progress) -> None:
    """Copy the books in `data_dir` to the new file `target` (0600), and check the copy.

    Raises StoreUnusable: no books, a target that exists, or a copy that fails its check.
    """
    require_books(data_dir)
    if target.exists():
        raise StoreUnusable(f"{target} exists already: name a new file")
    _copy(data_dir / FILE_NAME, target, check=check, progress=progress)


def restore(backup: Path, data_dir: Path, *, check: Check, progress: Progress) -> None:
    """Put the books in the file `backup` into `data_dir`, which must have none, and check them.

    Raises StoreUnusable: not a backup, written by a newer version, books that do not add up, books
    that are there already, or a directory that another process owns.
    """
    lock = DataDirectoryLock(data_dir)
    try:
        leftovers = sorted(path.name for path in data_dir.glob(f"{FILE_NAME}*"))
        if leftovers:
            raise StoreUnusable(
                f"{data_dir} has books already ({', '.join(leftovers)}): move them away first"
            )
        _copy(backup, data_dir / FILE_NAME, check=check, progress=progress)
    finally:
        lock.release()


def _copy(source: Path, target: Path, *, check: Check, progress: Progress) -> None:
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE))
        with _understood(source), open_file_read_only(source) as books:
            _copy_pages(books.connection, partial, progress)
        with _understood(partial), open_file_read_only(partial) as copied:
            _check_file(copied.connection, source)
            check(copied)
        _synchronise(partial)
        partial.rename(target)
        _synchronise(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _copy_pages(books: apsw.Connection, target: Path, progress: Progress) -> None:
    copy = apsw.Connection(str(target))
    try:
        copy.set_busy_timeout(BUSY_MILLISECONDS)
        with copy.backup("main", books, "main") as pages:
            while not pages.done:
                pages.step(PAGES_PER_STEP)
                progress(pages.page_count - pages.remaining, pages.page_count)
        # One file without a write-ahead log beside it, so that it can be moved about.
        copy.pragma("journal_mode", "delete")
    finally:
        copy.close()


def _check_file(copied: apsw.Connection, source: Path) -> None:
    problems = [row[0] for row in copied.execute("PRAGMA integrity_check")]
    if problems != ["ok"]:
        raise StoreUnusable(f"{source} is damaged: {problems[0]}")


@contextlib.contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Say in a sentence what the database engine finds wrong with a file."""
    try:
        yield
    except apsw.Error as error:
        raise StoreUnusable(f"{path} is not a backup of the books: {error}") from error


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
