"""A disk that remembers what it was asked, and what a power cut may leave of that.

What was synced before the cut stays. Every write and truncation since a file's last sync is kept,
dropped or torn, each by its own draw and in any order; a torn write is kept, lost or garbled sector
by sector. A name that was made or deleted since the last sync of the directory may be as it was.

Nothing beyond the bytes of a write is harmed: that is what SQLite takes for granted of the file
system here (its "powersafe overwrite"), and what it is told by the VFS under test.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

SECTOR_BYTES: Final = 512
GARBLED_SHARE: Final = 0.1
"""Of the sectors of a torn write: neither the old content nor the new one."""


class Write(NamedTuple):
    """Bytes went into a file; files are numbered, because a name may mean another one later."""

    file: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file got another length."""

    file: int
    size: int


class Sync(NamedTuple):
    """Everything that was done to a file is on the disk."""

    file: int


class Create(NamedTuple):
    """A name was made for a new and empty file."""

    name: str
    file: int


class Delete(NamedTuple):
    """A name is gone, and its file with it."""

    name: str


class SyncDirectory(NamedTuple):
    """Every name is on the disk as it is."""


Change = Write | Truncate
Event = Change | Sync | Create | Delete | SyncDirectory
Image = dict[str, bytes]
"""The content of a directory, by name."""


class Cut(NamedTuple):
    """The moment in which power fails."""

    events: int
    """How many events were complete."""
    in_flight: bool
    """Whether the one after them had begun."""


class Disk:
    """One directory: what it held at first, and everything that happened to it since."""

    def __init__(self, image: Image) -> None:
        """`image` is on the disk, synced."""
        self.initial: Final = list(image.values())
        """By number of the file."""
        self.initial_names: Final = {name: number for number, name in enumerate(image)}
        self.events: Final[list[Event]] = []
        self._names = dict(self.initial_names)
        self._files = len(image)

    def open(self, name: str) -> int:
        """The number of the file that is called `name`; a new one if there is none."""
        if name not in self._names:
            self._names[name] = self._files
            self._files += 1
            self.events.append(Create(name, self._names[name]))
        return self._names[name]

    def write(self, file: int, offset: int, data: bytes) -> None:
        self.events.append(Write(file, offset, data))

    def truncate(self, file: int, size: int) -> None:
        self.events.append(Truncate(file, size))

    def sync(self, file: int) -> None:
        self.events.append(Sync(file))

    def delete(self, name: str) -> None:
        if self._names.pop(name, None) is not None:
            self.events.append(Delete(name))

    def sync_directory(self) -> None:
        self.events.append(SyncDirectory())


@dataclass(slots=True)
class _File:
    """What is certainly on the disk of a file, and what may be."""

    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Change] = field(default_factory=list)


class PowerCut:
    """What is certain at a cut, and draws of what may be left."""

    def __init__(self, disk: Disk, cut: Cut) -> None:
        self._files: defaultdict[int, _File] = defaultdict(_File)
        for number, content in enumerate(disk.initial):
            self._files[number].synced[:] = content
        self._names: dict[str, int | None] = dict(disk.initial_names)
        """What is certain: the number of the file, None for a deletion."""
        self._renamed: defaultdict[str, list[int | None]] = defaultdict(list)
        """What a name came to mean since, in order."""
        for event in disk.events[: cut.events]:
            self._happen(event)
        self._torn: Write | None = None
        if cut.in_flight and cut.events < len(disk.events):
            self._begin(disk.events[cut.events])

    def image(self, rng: random.Random) -> tuple[Image, list[str]]:
        """A directory that the cut may leave, and how it came about, for people."""
        image: Image = {}
        story: list[str] = []
        for name in sorted(self._names.keys() | self._renamed.keys()):
            file = rng.choice([self._names.get(name), *self._renamed.get(name, ())])
            if file is None:
                story.append(f"{name}: not there")
                continue
            content, fate = self._survive(self._files[file], rng)
            image[name] = content
            story.append(f"{name}: {len(content)} bytes; {fate}")
        return image, story

    @property
    def doubts(self) -> set[str]:
        """What is uncertain, such as `Write books-wal` and `Delete books-wal`."""
        found = {
            f"{'Delete' if file is None else 'Create'} {name}"
            for name, files in self._renamed.items()
            for file in files
        }
        for name in self._names.keys() | self._renamed.keys():
            for file in (self._names.get(name), *self._renamed.get(name, ())):
                if file is not None:
                    changes = self._files[file].unsynced
                    found |= {f"{type(change).__name__} {name}" for change in changes}
        return found

    def _happen(self, event: Event) -> None:
        match event:
            case Write() | Truncate():
                self._files[event.file].unsynced.append(event)
            case Sync():
                file = self._files[event.file]
                for change in file.unsynced:
                    _apply(file.synced, change)
                file.unsynced.clear()
            case Create():
                self._renamed[event.name].append(event.file)
            case Delete():
                self._renamed[event.name].append(None)
            case SyncDirectory():
                self._names |= {name: files[-1] for name, files in self._renamed.items()}
                self._renamed.clear()

    def _begin(self, event: Event) -> None:
        """An event was under way. A sync that did not return promised nothing."""
        if isinstance(event, Sync | SyncDirectory):
            return
        self._happen(event)
        if isinstance(event, Write):
            self._torn = event

    def _survive(self, file: _File, rng: random.Random) -> tuple[bytes, str]:
        """Draw what is left of a file.

        Draws that treat all changes alike are mixed in: among many independent ones, none would
        ever keep a file's changes and lose those of another.
        """
        changes = file.unsynced
        if not changes:
            return bytes(file.synced), "all of it synced"
        how = rng.choice(("none", "all", "in order", "in any order"))
        survivors: list[Change] = []
        if how == "all":
            for change in changes:
                survivors += [change] if change is not self._torn else _torn(change, rng)
        elif how == "in order":
            whole = rng.randrange(len(changes))
            survivors += changes[:whole]
            survivors += _torn(changes[whole], rng)
        elif how == "in any order":
            kept_share = rng.choice((0.1, 0.5, 0.9))
            for change in changes:
                if rng.random() < kept_share and change is not self._torn:
                    survivors.append(change)
                elif rng.random() < 0.5:
                    survivors += _torn(change, rng)
            rng.shuffle(survivors)
        content = bytearray(file.synced)
        for change in survivors:
            _apply(content, change)
        return bytes(content), f"of {len(changes)} changes that were not synced: {how}"


def _torn(change: Change, rng: random.Random) -> list[Change]:
    """What is left of a change that the cut interrupted; a length changes as a whole or not."""
    if isinstance(change, Truncate):
        return [change] if rng.random() < 0.5 else []
    left: list[Change] = []
    file, offset, data = change
    begin = 0
    while begin < len(data):
        end = min(len(data), begin + SECTOR_BYTES - (offset + begin) % SECTOR_BYTES)
        luck = rng.random()
        if luck < GARBLED_SHARE:
            left.append(Write(file, offset + begin, rng.randbytes(end - begin)))
        elif luck < (1 + GARBLED_SHARE) / 2:
            left.append(Write(file, offset + begin, data[begin:end]))
        begin = end
    return left


def _apply(content: bytearray, change: Change) -> None:
    if isinstance(change, Truncate):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data
