"""Copies of the books: a file with its final name is whole and good, and a refusal leaves nothing."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from support.books import USD, charge, open_books
from support.commands import run_command
from support.old_books import VERSION, dump, write_old_books
from traghetto.ledger.verify import verify
from traghetto.storage.backup import PARTIAL_SUFFIX, back_up
from traghetto.storage.connector import StoreUnusable
from traghetto.storage.directory_lock import DataDirectoryLock
from traghetto.storage.migrate import migrations
from traghetto.storage.sqlite import FILE_NAME, SqliteSnapshot, SqliteStore, open_read_only

FLIPS = 60


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books with entries of several kinds, nobody's at the moment. Do not change them."""
    data_dir = tmp_path_factory.mktemp("original")

    async def run() -> None:
        books = open_books(SqliteStore(data_dir), usd=9 * USD, diem=USD)
        for number in range(40):
            await books.reserve(f"r{number}", 1_000).settle(charge(f"r{number}", 700, 300)).durable
        await books.reserve("open", 1_000).durable()
        await books.store.aclose()

    asyncio.run(run())
    return data_dir


@pytest.fixture(scope="module")
def good(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good backup of them. Do not change it."""
    target = tmp_path_factory.mktemp("good") / "backup"
    assert run_command("backup", target, "--data-dir", original).status == 0
    return target


def names(folder: Path) -> set[str]:
    """What is in a folder that may not exist; a lock says nothing about books."""
    return {path.name for path in folder.iterdir()} - {"lock"} if folder.exists() else set()


def assert_restored(data_dir: Path, backup: Path) -> None:
    with open_read_only(data_dir) as books:
        assert verify(books).differences == ()
    assert dump(data_dir / FILE_NAME) == dump(backup)


def test_a_backup_and_its_restoration_are_the_books(
    original: Path, good: Path, tmp_path: Path
) -> None:
    """Every row comes back, private to its owner, with advice about what is not in the file."""
    assert dump(good) == dump(original / FILE_NAME)
    assert names(good.parent) == {"backup"}
    place = tmp_path / "below" / "data"
    done = run_command("restore", good, "--data-dir", place)
    assert (done.status, done.out) == (0, f"{place}: restored and verified\n")
    assert f"Put the copy of the pepper back as {place / 'pepper'}" in done.err
    assert_restored(place, good)
    assert names(place) == {FILE_NAME}
    assert place.stat().st_mode & 0o777 == 0o700
    for file in (good, place / FILE_NAME, place / "lock"):
        assert file.stat().st_mode & 0o777 == 0o600, file


def test_a_backup_says_where_it_is_and_what_to_keep_beside_it(
    original: Path, tmp_path: Path
) -> None:
    """The pepper is not in it, which nobody may find out when it is needed."""
    target = tmp_path / "backup"
    done = run_command("backup", target, "--data-dir", original)
    assert done.out == f"{target}: {target.stat().st_size} bytes, verified\n"
    assert done.err == (
        f"Keep a copy of {original / 'pepper'} apart: the keys in the books need it.\n"
    )


def test_a_backup_is_private_whatever_was_there(original: Path, tmp_path: Path) -> None:
    """Neither a generous umask nor a file that an interrupted backup left gives it away."""
    target = tmp_path / "backup"
    partial = tmp_path / f"backup{PARTIAL_SUFFIX}"
    partial.write_bytes(b"half a backup" * 100_000)
    partial.chmod(0o666)
    before = os.umask(0)
    try:
        assert run_command("backup", target, "--data-dir", original).status == 0
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == 0o600
    assert dump(target) == dump(original / FILE_NAME)
    assert names(tmp_path) == {"backup"}


# What is refused


def test_a_backup_never_replaces_anything(original: Path, tmp_path: Path) -> None:
    """A file, a directory or a link of that name is kept, and so is what it points to."""
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("kept")
    folder.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    for target, status in ((file, 1), (folder, 2), (link, 1)):
        sentence = "exists already" if status == 1 else "is a directory"
        run_command("backup", target, "--data-dir", original).assert_refused(status, sentence)
    assert file.read_text() == "kept"
    assert names(tmp_path) == {"file", "folder", "link"}


def test_a_backup_needs_books_and_a_place(original: Path, tmp_path: Path) -> None:
    """A mistyped directory is named, and nothing is made in its place."""
    target = tmp_path / "backup"
    done = run_command("backup", target, "--data-dir", tmp_path / "none")
    done.assert_refused(1, "there are no books in")
    done = run_command("backup", tmp_path / "none" / "backup", "--data-dir", original)
    done.assert_refused(1, "there is no directory")
    assert names(tmp_path) == set()


def test_a_backup_that_the_disk_has_no_room_for_is_not_there(
    original: Path, tmp_path: Path
) -> None:
    """It says that it could not be written, not that the books are damaged, and frees the room."""
    code = """
        import resource, signal, sys
        from traghetto.cli import main
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        main(["backup", sys.argv[1], "--data-dir", sys.argv[2]])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "backup"), str(original)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "could not be copied" in done.stderr
    assert done.stderr.count("\n") == 1
    assert names(tmp_path) == set()


def _execute(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        connection = apsw.Connection(str(path))
        for statement in statements:
            connection.execute(statement)
        connection.close()

    return change


def _cut(size: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, size if size >= 0 else path.stat().st_size + size)


def _flip(offset: int, bits: int = 0xFF) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[offset] ^= bits
        path.write_bytes(content)

    return change


NEWER = migrations()[-1][0] + 1
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("a shopping list\n" * 500), "is not a backup"),
    "empty": (_cut(0), "is not a backup of the books: it has no schema"),
    "the first bytes": (_cut(50), "is not a backup"),
    "the first page": (_cut(4096), ""),
    "half": (_cut(40_960), ""),
    "without the last page": (_cut(-4096), ""),
    "without the last byte": (_cut(-1), "is damaged: its end is missing"),
    "another magic number": (_flip(3), "is not a backup"),
    "another page size": (_flip(16), ""),
    "a damaged root page": (_flip(100), ""),
    "a damaged inner page": (_flip(8 * 4096), "is damaged"),
    "another application's": (
        lambda path: (path.unlink(), _execute("CREATE TABLE cookie (name)")(path)),
        "is not a backup of the books: it has no schema",
    ),
    "another application's, with a version": (
        lambda path: (
            path.unlink(),
            _execute("CREATE TABLE cookie (name)", "PRAGMA user_version = 1")(path),
        ),
        "is not a backup of the books: no such table",
    ),
    "a changed balance": (
        _execute("UPDATE balance SET amount = amount + 1 WHERE currency = 'USD'"),
        "the books do not add up (1 differences): balance of account a in USD",
    ),
    "a changed entry": (
        _execute(
            "DROP TRIGGER entry_is_never_changed",
            "UPDATE entry SET amount = 701 WHERE request_id = 'r7' AND line = 'line-0'",
        ),
        "the books do not add up (3 differences)",
    ),
    "a key that is neither here nor there": (
        _execute("UPDATE api_key SET model_privacy = 'AML'"),
        "'AML' is not a valid",
    ),
    "a key of nobody": (_execute("DELETE FROM account"), "a row of "),
    "from a newer version": (_execute(f"PRAGMA user_version = {NEWER}"), "install the newer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_is_refused_and_leaves_nothing(
    good: Path, tmp_path: Path, damage: str
) -> None:
    """One sentence; no books, whole or half, are in the directory afterwards."""
    change, sentence = DAMAGES[damage]
    backup = tmp_path / "backup"
    shutil.copy(good, backup)
    change(backup)
    content = backup.read_bytes()
    place = tmp_path / "data"
    run_command("restore", backup, "--data-dir", place).assert_refused(1, sentence)
    assert names(place) == set()
    assert backup.read_bytes() == content
    assert names(tmp_path) <= {"backup", "data"}
    assert run_command("restore", good, "--data-dir", place).status == 0
    assert_restored(place, good)


def test_no_flipped_bit_puts_bad_books_in_place(good: Path, tmp_path: Path) -> None:
    """Wherever a disk lies, the backup is refused in a sentence, or its numbers still add up."""
    rng = random.Random(7)
    refused = 0
    content = good.read_bytes()
    for number in range(FLIPS):
        backup, place = tmp_path / f"backup-{number}", tmp_path / f"data-{number}"
        backup.write_bytes(content)
        _flip(rng.randrange(len(content)), 1 << rng.randrange(8))(backup)
        done = run_command("restore", backup, "--data-dir", place)
        if done.status:
            done.assert_refused(1, "")
            assert names(place) == set()
            refused += 1
        else:
            with open_read_only(place) as books:
                assert verify(books).differences == ()
    assert refused, "some of them matter"


@pytest.mark.parametrize("damage", ["a changed balance", "a changed entry", "a key of nobody"])
def test_bad_books_are_not_backed_up_as_good_ones(
    original: Path, tmp_path: Path, damage: str
) -> None:
    """A backup is verified when it is made, not when it is needed."""
    change, sentence = DAMAGES[damage]
    place = tmp_path / "data"
    shutil.copytree(original, place)
    change(place / FILE_NAME)
    target = tmp_path / "backup"
    run_command("backup", target, "--data-dir", place).assert_refused(1, sentence)
    assert names(tmp_path) == {"data"}


def test_books_are_only_put_where_there_are_none(good: Path, tmp_path: Path) -> None:
    """Not over books, nor beside the log of some, nor under the feet of another process."""
    place = tmp_path / "data"
    place.mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-journal"):
        (place / name).write_bytes(b"somebody's")
        done = run_command("restore", good, "--data-dir", place)
        done.assert_refused(1, f"has books already ({name}): move them away first")
        assert names(place) == {name}
        (place / name).unlink()
    lock = DataDirectoryLock(place)
    try:
        done = run_command("restore", good, "--data-dir", place)
        done.assert_refused(1, f"is in use by process {os.getpid()}")
    finally:
        lock.release()
    assert names(place) == set()
    done = run_command("restore", tmp_path / "none", "--data-dir", place)
    done.assert_refused(2, "does not exist")


# What happens in between


def test_two_backups_to_one_file_do_not_mix(original: Path, tmp_path: Path) -> None:
    """The second is refused while the first is written, and the first is not disturbed."""
    target = tmp_path / "backup"

    def try_another(_: SqliteSnapshot) -> None:
        done = run_command("backup", target, "--data-dir", original)
        done.assert_refused(1, "is being written by another command")

    back_up(original, target, check=try_another, progress=lambda *_: None)
    assert dump(target) == dump(original / FILE_NAME)
    assert names(tmp_path) == {"backup"}


def test_a_file_that_comes_while_a_backup_is_made_is_kept(original: Path, tmp_path: Path) -> None:
    """Copying takes minutes where the books are large; it must not end in an overwritten file."""
    target = tmp_path / "backup"
    with pytest.raises(StoreUnusable, match="exists already"):
        back_up(
            original, target,
            check=lambda _: target.write_text("kept") and None, progress=lambda *_: None,
        )  # fmt: skip
    assert target.read_text() == "kept"
    assert names(tmp_path) == {"backup"}


@pytest.mark.parametrize("moment", ["progress", "check"])
@pytest.mark.parametrize("command", ["back_up", "restore"])
def test_a_copy_that_is_killed_has_no_final_name(
    original: Path, good: Path, tmp_path: Path, command: str, moment: str
) -> None:
    """Half a copy is never taken for a whole one, and does not stand in the way of the next."""
    source, target = (original, tmp_path / "new") if command == "back_up" else (good, tmp_path)
    code = f"""
        import sys, time
        from pathlib import Path
        from traghetto.storage.backup import {command}

        def stop(*_):
            print("in the middle", flush=True)
            time.sleep(60)

        does = dict(check=lambda _: None, progress=lambda *_: None) | dict({moment}=stop)
        {command}(Path(sys.argv[1]), Path(sys.argv[2]), **does)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(source), str(target)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        process.send_signal(signal.SIGKILL)
    final = "new" if command == "back_up" else FILE_NAME
    assert final not in names(tmp_path)
    assert f"{final}{PARTIAL_SUFFIX}" in names(tmp_path)
    arguments = ("backup", target, "--data-dir", source)
    if command == "restore":
        arguments = ("restore", source, "--data-dir", target)
    assert run_command(*arguments).status == 0
    assert names(tmp_path) == {final}
    assert dump(tmp_path / final) == dump(good)


def test_older_books_are_backed_up_and_restored_as_they_are(tmp_path: Path) -> None:
    """Whoever is about to install a new version needs a copy that the old one can read."""
    old, target, place = tmp_path / "old", tmp_path / "backup", tmp_path / "data"
    write_old_books(old)
    before = dump(old / FILE_NAME)
    assert run_command("backup", target, "--data-dir", old).status == 0
    assert dump(target) == dump(old / FILE_NAME) == before
    assert run_command("restore", target, "--data-dir", place).status == 0
    assert dump(place / FILE_NAME) == before
    assert before["version"] == VERSION
    _execute("UPDATE balance SET amount = amount + 1 WHERE account_id = 'beta'")(target)
    done = run_command("restore", target, "--data-dir", tmp_path / "other")
    done.assert_refused(1, "the books do not add up (1 differences)")
