"""The model of the disk: no kinder than a disk is allowed to be, and not crueller."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from pathlib import Path

import apsw

from powercut.disk import SECTOR_BYTES, Cut, Disk, Image, PowerCut
from powercut.vfs import REAL_VFS, recording_vfs

OLD, NEW = b"o" * 4 * SECTOR_BYTES, b"n" * 4 * SECTOR_BYTES
DRAWS = 300


def images(disk: Disk, *, in_flight: bool = False) -> Iterator[Image]:
    """What many cuts leave, each after everything; with `in_flight`, during the last event."""
    moment = Cut(len(disk.events) - in_flight, in_flight)
    for seed in range(DRAWS):
        yield PowerCut(disk, moment).image(random.Random(seed))[0]


def disk_with_a_file() -> tuple[Disk, int]:
    disk = Disk({"file": OLD})
    return disk, disk.open("file")


def test_what_was_synced_stays() -> None:
    """Whatever is drawn, a synced write is on the disk."""
    disk, file = disk_with_a_file()
    disk.write(file, 0, NEW)
    disk.sync(file)
    assert all(image == {"file": NEW} for image in images(disk))


def test_a_write_is_kept_lost_or_torn_at_sectors() -> None:
    """Without a sync everything may have happened to each sector, and nothing within one but to
    be garbled as a whole."""
    disk, file = disk_with_a_file()
    disk.write(file, 0, NEW)
    sectors = {
        tuple(image["file"][at : at + SECTOR_BYTES] for at in range(0, len(NEW), SECTOR_BYTES))
        for image in images(disk)
    }
    old, new = OLD[:SECTOR_BYTES], NEW[:SECTOR_BYTES]
    assert {(old,) * 4, (new,) * 4, (old, new, old, new)} <= sectors
    assert any(not {old, new}.issuperset(drawn) for drawn in sectors)
    assert all(len(sector) == SECTOR_BYTES for drawn in sectors for sector in drawn)


def test_bytes_beside_a_write_are_safe() -> None:
    """A write that ends within a sector harms only its own part of it."""
    disk, file = disk_with_a_file()
    disk.write(file, 100, b"n" * 24)
    for image in images(disk):
        assert image["file"][:100] == OLD[:100]
        assert image["file"][124:] == OLD[124:]


def test_writes_change_places() -> None:
    """A later write may be there without an earlier one, and be overwritten by it."""
    disk, file = disk_with_a_file()
    disk.write(file, 0, b"1" * SECTOR_BYTES)
    disk.write(file, SECTOR_BYTES, b"2" * SECTOR_BYTES)
    disk.write(file, 0, b"3" * SECTOR_BYTES)
    seen = {
        image["file"][0:1] + image["file"][SECTOR_BYTES : SECTOR_BYTES + 1]
        for image in images(disk)
    }
    assert {b"oo", b"o2", b"1o", b"12", b"3o", b"32"} <= seen


def test_a_truncation_may_be_lost() -> None:
    """Until the next sync a file may have its old length, and its old end."""
    disk, file = disk_with_a_file()
    disk.truncate(file, 0)
    assert {image["file"] for image in images(disk)} == {OLD, b""}
    disk.sync(file)
    assert {image["file"] for image in images(disk)} == {b""}


def test_a_name_needs_a_sync_of_the_directory() -> None:
    """A new file may be nowhere and a deleted one be back, whatever was synced of their content."""
    disk = Disk({"old": OLD})
    disk.delete("old")
    new = disk.open("new")
    disk.write(new, 0, NEW)
    disk.sync(new)
    seen = list(images(disk))
    for possible in ({}, {"old": OLD}, {"new": NEW}, {"old": OLD, "new": NEW}):
        assert possible in seen
    disk.sync_directory()
    assert all(image == {"new": NEW} for image in images(disk))


def test_a_name_that_is_used_again_means_one_of_its_files() -> None:
    """After a deletion and a new beginning there is the old file, the new one, or none."""
    disk, _ = disk_with_a_file()
    disk.delete("file")
    new = disk.open("file")
    disk.write(new, 0, NEW)
    disk.sync(new)
    seen = [image.get("file") for image in images(disk)]
    assert set(seen) == {OLD, NEW, None}


def test_a_sync_promises_nothing_before_it_returns() -> None:
    """Power that fails during a sync finds the writes before it in doubt."""
    disk, file = disk_with_a_file()
    disk.write(file, 0, NEW)
    disk.sync(file)
    assert {"file": OLD} in list(images(disk, in_flight=True))


def test_a_write_that_was_under_way_is_torn() -> None:
    """The last write is never certain to be there as a whole, even if all others are."""
    disk, file = disk_with_a_file()
    disk.write(file, 0, NEW)
    whole = sum(image["file"] == NEW for image in images(disk, in_flight=True))
    assert 0 < whole < DRAWS / 4


def test_the_real_file_system_syncs_the_directory_when_the_model_does(tmp_path: Path) -> None:
    """SQLite syncs the directory with the first sync of every log it opens, and only then."""
    synced: list[str] = []
    disk = Disk({})
    signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))
    with recording_vfs(disk) as vfs_name:
        real = apsw.VFS("syscalls", REAL_VFS)
        address = real.xGetSystemCall("openDirectory")
        assert address is not None
        call = signature(address)

        @signature
        def watched(path: bytes, descriptor: object) -> int:
            synced.append(Path(path.decode()).name)
            return call(path, descriptor)

        real.xSetSystemCall("openDirectory", ctypes.cast(watched, ctypes.c_void_p).value)
        try:
            for vfs in (REAL_VFS, vfs_name):
                connection = apsw.Connection(str(tmp_path / vfs), vfs=vfs)
                connection.pragma("journal_mode", "wal")
                for number in range(3):
                    connection.execute(f"CREATE TABLE t{number} (a)")
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                connection.close()
        finally:
            real.xSetSystemCall("openDirectory", address)
            real.unregister()
    assert synced == [f"{REAL_VFS}-journal", f"{REAL_VFS}-wal"]
    names = [type(event).__name__ for event in disk.events]
    assert names.count("SyncDirectory") == 2
