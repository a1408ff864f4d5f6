"""The operator's word list: a text file with sections, compiled to a tree of words.

Invariants: an entry matches whole words only; looking at a text takes time in proportion to its
length, whatever the list and the text are, because every step down the tree is one look-up and an
entry has a bounded number of words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

from traghetto.moderation.folding import readings_of, words_of

Section = Literal["blocked", "adult", "minor"]
SECTIONS: Final[tuple[Section, ...]] = get_args(Section)

FILE_BYTES_MAX: Final = 4 << 20
ENTRIES_MAX: Final = 50_000
ENTRY_CHARACTERS_MAX: Final = 200
ENTRY_WORDS_MAX: Final = 16
BEGINNING_CHARACTERS_MIN: Final = 2
"""A shorter beginning would match a good part of every text."""

_COMMENT: Final = re.compile(r"(?:^|\s)#.*")


class WordsInvalid(ValueError):
    """A word list that cannot be used: one sentence that starts with `file:line`."""


class _Node:
    """A place in the tree: the words so far, and what may follow."""

    __slots__ = ("beginnings", "lengths", "next", "sections")

    def __init__(self) -> None:
        self.next: dict[str, _Node] = {}
        self.sections: set[Section] = set()
        """Of the entries that end here."""
        self.beginnings: dict[str, set[Section]] = {}
        """Sections of the entries that end with a word that begins so (`porn*`)."""
        self.lengths: tuple[int, ...] = ()
        """The lengths of `beginnings`, in characters."""


class WordList:
    """Finds the entries of a list in texts."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, section: Section, entry: str) -> None:
        """Look for `entry`, a word or a phrase, from now on.

        Raises ValueError, with what to do, for one that cannot be looked for.
        """
        if len(entry) > ENTRY_CHARACTERS_MAX:
            raise ValueError(f"longer than {ENTRY_CHARACTERS_MAX} characters; shorten the entry")
        is_beginning = entry.endswith("*")
        entry = entry.removesuffix("*")
        if "*" in entry:
            raise ValueError("`*` stands at the end only, for any ending; write it there")
        words = words_of(entry)
        if not words:
            raise ValueError("no letter and no digit to look for; remove the entry")
        if len(words) > ENTRY_WORDS_MAX:
            raise ValueError(f"more than {ENTRY_WORDS_MAX} words; shorten the entry")
        if is_beginning and sum(map(len, words)) < BEGINNING_CHARACTERS_MIN:
            raise ValueError(
                f"`*` follows at least {BEGINNING_CHARACTERS_MIN} letters or digits; write more"
            )
        node = self._root
        for word in words[:-1] if is_beginning else words:
            node = node.next.setdefault(word, _Node())
        if is_beginning:
            node.beginnings.setdefault(words[-1], set()).add(section)
            node.lengths = tuple(sorted({*node.lengths, len(words[-1])}))
        else:
            node.sections.add(section)

    def sections_in(self, text: str) -> frozenset[Section]:
        """The sections of which some entry is in `text`."""
        found: set[Section] = set()
        for words in readings_of(text):
            self._look(words, found)
            if len(found) == len(SECTIONS):
                break
        return frozenset(found)

    def _look(self, words: Sequence[str], found: set[Section]) -> None:
        for start in range(len(words)):
            node: _Node | None = self._root
            for word in words[start : start + ENTRY_WORDS_MAX]:
                assert node is not None
                for length in node.lengths:
                    found |= node.beginnings.get(word[:length], frozenset())
                node = node.next.get(word)
                if node is None:
                    break
                found |= node.sections


def read_words(path: Path) -> WordList:
    """The word list of the file at `path`.

    Raises WordsInvalid, or OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise WordsInvalid(f"{path}:1: larger than {FILE_BYTES_MAX} bytes")
    try:
        # A byte order mark is what some editors put first.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise WordsInvalid(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
    words = WordList()
    count = 0
    for line, section, entry in _entries(path, text):
        count += 1
        if count > ENTRIES_MAX:
            raise WordsInvalid(f"{path}:{line}: more than {ENTRIES_MAX} entries")
        try:
            words.add(section, entry)
        except ValueError as problem:
            raise WordsInvalid(f"{path}:{line}: {problem}") from None
    if not count:
        raise WordsInvalid(f"{path}:1: no entries; write some, or remove `words_file`")
    return words


def _entries(path: Path, text: str) -> Iterator[tuple[int, Section, str]]:
    """The lines that are entries: number, section, and the entry without comment."""
    section: Section | None = None
    for number, line in enumerate(text.split("\n"), 1):
        entry = _COMMENT.sub("", line).strip()
        if not entry:
            continue
        if entry.startswith("["):
            section = _section(path, number, entry)
        elif section is None:
            raise WordsInvalid(
                f"{path}:{number}: an entry before any section; put `[blocked]`, `[adult]` or "
                "`[minor]` on a line above it"
            )
        else:
            yield number, section, entry


def _section(path: Path, number: int, header: str) -> Section:
    for section in SECTIONS:
        if header.lower() == f"[{section}]":
            return section
    known = [f"[{section}]" for section in SECTIONS]
    nearest = difflib.get_close_matches(header.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"use one of {', '.join(known)}"
    raise WordsInvalid(f"{path}:{number}: unknown section; {hint}")
