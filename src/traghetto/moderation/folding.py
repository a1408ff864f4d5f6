"""From a text to the words that are compared: what a reader sees, not how it is encoded.

A text and the entries of a word list are folded alike: compatibility forms, case and invisible
characters make no difference, and everything that is neither letter, digit nor mark separates
words. In scripts that are written without spaces each character is a word of its own.

Invariant: folding takes time in proportion to the text, whatever is in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

_UNSEEN: Final = re.compile(
    # Control characters that are no white space; then `Default_Ignorable_Code_Point` of Unicode.
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_SPACELESS: Final = (
    range(0x0E00, 0x0F00),  # Thai, Lao
    range(0x1000, 0x10A0),  # Burmese
    range(0x1780, 0x1800),  # Khmer
    range(0x3040, 0x3130),  # Hiragana, Katakana, Bopomofo
    range(0x31F0, 0x3200),
    range(0x3400, 0xA000),  # Han; the compatibility forms are gone by then
    range(0x20000, 0x40000),
)
_STRAY_MARKS: Final = range(0x0300, 0x0370)
"""Marks of Latin, Greek and Cyrillic: those that composed with no letter are decoration."""
_CLASSES_MAX: Final = 16_384
"""Characters whose class is remembered."""
_PIECE: Final = re.compile(r"\S{1,512}\s*|\s+")
"""What is normalised at once: sorting a run of marks takes the square of its length in Python
releases that are still in use."""

_STAND_INS: Final = {
    # Digits and signs; then Cyrillic, Greek and phonetic letters that look like the Latin one.
    "a": "4@\u0430\u03b1\u0251",
    "c": "\u0441",
    "d": "\u0501",
    "e": "3\u20ac\u0435\u03b5",
    "g": "\u0261",
    "h": "\u04bb",
    "i": "\u0456\u03b9\u0131",
    "j": "\u0458",
    "k": "\u03ba",
    "o": "0\u043e\u03bf",
    "p": "\u0440\u03c1",
    "q": "\u051b",
    "s": "5$\u0455",
    "t": "7\u03c4",
    "u": "\u03c5",
    "v": "\u03bd",
    "w": "\u051d",
    "x": "\u0445\u03c7",
    "y": "\u0443",
}
_STAND_INS_OF_I_OR_L: Final = "1!|"
_DISGUISES: Final = tuple(
    {
        ord(stand_in): letter
        for letter, stand_ins in (*_STAND_INS.items(), (i_or_l, _STAND_INS_OF_I_OR_L))
        for stand_in in stand_ins
    }
    for i_or_l in "il"
)
_DISGUISED: Final = re.compile(f"[{re.escape(''.join(map(chr, _DISGUISES[0])))}]")
_CHUNK: Final = re.compile(r"\S+")
_TWO_LATIN_LETTERS: Final = re.compile("[a-z][^a-z]*[a-z]")
_CLOSING: Final = ".,;:!?)]}\"'"
_SPELLED: Final = re.compile(r"(?<!\S)\S(?: +\S){2,}(?!\S)")


def words_of(text: str) -> list[str]:
    """The words of `text`, folded."""
    return _separated(_folded(text)).split()


def readings_of(text: str) -> Iterator[list[str]]:
    """The words of `text` as written, and then as a reader takes them who sees through a trick.

    The tricks are letters spaced out (`b o m b`), and digits, signs and foreign letters in the
    place of Latin ones (`b0mb`). A word with fewer than two Latin letters stays what it is:
    numbers and other scripts are not turned into words.
    """
    folded = _folded(text)
    plain = _separated(folded)
    yield plain.split()
    joined = _SPELLED.sub(lambda run: run[0].replace(" ", ""), plain)
    if joined != plain:
        yield joined.split()
    if _DISGUISED.search(folded):
        seen = {plain}
        for table in _DISGUISES:
            shown = _separated(_undisguised(folded, table))
            if shown not in seen:
                seen.add(shown)
                yield shown.split()


def _folded(text: str) -> str:
    """`text` without what nobody sees, in compatibility form and without case."""
    text = _UNSEEN.sub("", text)
    if text.isascii():
        return text.lower()
    normal = unicodedata.normalize
    # Once more after folding the case, which takes some letters apart.
    return "".join(
        normal("NFKC", normal("NFKC", piece).casefold()) for piece in _PIECE.findall(text)
    )


def _separated(folded: str) -> str:
    """`folded` with a space, or several, between any two words."""
    return folded.translate(_CLASSES)


def _undisguised(folded: str, table: dict[int, str]) -> str:
    """`folded` with Latin letters for what stands in their place."""

    def chunk_shown(chunk: re.Match[str]) -> str:
        if _TWO_LATIN_LETTERS.search(chunk[0]) is None:
            return chunk[0]
        return chunk[0].rstrip(_CLOSING).translate(table)

    return _CHUNK.sub(chunk_shown, folded)


class _Classes(dict[int, str]):
    """What each character becomes in `_separated`, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if code in _STRAY_MARKS:
            becomes = ""
        elif unicodedata.category(character)[0] not in "LNM":
            becomes = " "
        elif any(code in block for block in _SPACELESS):
            becomes = f" {character} "
        else:
            becomes = character
        if len(self) < _CLASSES_MAX:
            self[code] = becomes
        return becomes


_CLASSES: Final = _Classes()
