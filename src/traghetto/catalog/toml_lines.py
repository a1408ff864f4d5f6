"""On which line of a TOML file something stands: what the standard parser does not tell.

The file has been parsed by `tomllib` already, so this scanner may assume that it is well formed;
it only has to know where statements begin, which strings and arrays over several lines hide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

Path = tuple[str | int, ...]

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED: Final = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER: Final = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_ASSIGNMENT: Final = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_KEYS: Final = re.compile(_KEY)
# Whole strings and comments, so that what they contain is skipped; then brackets.
_TOKEN: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""+'
    r"|'''.*?'''+"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}]"
    r"|\n",
    re.DOTALL,
)


class TomlLines:
    """The lines of the statements of one file, by the path of what they set.

    An element of an array of tables has its index in the path: `("models", 0, "pricing")`.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        self._table: Path = ()
        for line, start in _statements(text):
            self._note(line, text, start)

    def line_of(self, path: Sequence[str | int]) -> int:
        """The line of `path`, or of the nearest thing that contains it; 1 if nothing does."""
        steps = tuple(path)
        while steps:
            if steps in self._lines:
                return self._lines[steps]
            steps = steps[:-1]
        return 1

    def _note(self, line: int, text: str, start: int) -> None:
        header = _HEADER.match(text, start)
        if header:
            path = self._indexed(_split(header[2]))
            if header[1] == "[[":
                index = self._counts.get(path, 0)
                self._counts[path] = index + 1
                path = (*path, index)
            self._table = path
            self._lines.setdefault(path, line)
            return
        assignment = _ASSIGNMENT.match(text, start)
        if assignment:
            path = self._table
            for key in _split(assignment[1]):
                path = (*path, key)
                self._lines.setdefault(path, line)

    def _indexed(self, keys: Sequence[str]) -> Path:
        """`keys` with the index of the newest element wherever a prefix is an array of tables."""
        path: Path = ()
        for position, key in enumerate(keys):
            path = (*path, key)
            if path in self._counts and position < len(keys) - 1:
                path = (*path, self._counts[path] - 1)
        return path


def _statements(text: str) -> list[tuple[int, int]]:
    """Line number and offset of every place where a statement can begin."""
    starts = [(1, 0)]
    line, depth = 1, 0
    for token in _TOKEN.finditer(text):
        part = token[0]
        line += part.count("\n")
        if part in {"[", "{"}:
            depth += 1
        elif part in {"]", "}"}:
            depth -= 1
        elif part == "\n" and depth == 0:
            starts.append((line, token.end()))
    return starts


def _split(dotted: str) -> list[str]:
    """The keys of a dotted key, without their quotes (escapes are left as written)."""
    return [key[1:-1] if key[0] in "\"'" else key for key in _KEYS.findall(dotted)]
