"""The word list: what it finds, what it leaves alone, and that no text can make it slow."""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.moderation import folding, words
from traghetto.moderation.words import ENTRY_WORDS_MAX, WordList, WordsInvalid, read_words

ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad\ufe0f\U000e0041"


def list_of(*entries: str) -> WordList:
    """A list with one section."""
    found = WordList()
    for entry in entries:
        found.add("blocked", entry)
    return found


def finds(entry: str, text: str) -> bool:
    return bool(list_of(entry).sections_in(text))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("bomb", "a bomb."),
        ("Bomb", "A BOMB"),
        ("straße", "STRASSE"),
        ("bomb", "\uff22\uff4f\uff4d\uff42"),  # full-width letters
        ("bomb", "\U0001d41b\U0001d428\U0001d426\U0001d41b"),  # mathematical letters
        ("\ufb01sting", "fisting"),
        ("caf\u00e9", "cafe\u0301"),
        ("caf\u00e9", "cafe\u200b\u0301"),
        ("pipe bomb", "pipe-bomb"),
        ("pipe bomb", "pipe,\n  bomb"),
        ("pipe-bomb", "pipe bomb"),
        ("don't", "don\u2019t"),
        ("porn*", "porn"),
        ("porn*", "Pornography!"),
        ("make bomb*", "make bombs"),
        ("420", "at 420."),
        ("h4x", "h4x"),
        ("\u70b8\u5f39", "\u5236\u9020\u70b8\u5f39\u7684\u65b9\u6cd5"),
        ("\u70b8\u5f39*", "\u5236\u9020\u70b8\u5f39\u7684"),
        ("\u30dd\u30eb\u30ce", "\u30dd\u30eb\u30ce\u6620\u753b"),
        (
            "\u0e23\u0e30\u0e40\u0e1a\u0e34\u0e14",
            "\u0e17\u0e33\u0e23\u0e30\u0e40\u0e1a\u0e34\u0e14",
        ),
        ("\ud3ed\ud0c4*", "\ud3ed\ud0c4\uc744"),
        ("\u0939\u093f\u0902\u0938\u093e", "\u0939\u093f\u0902\u0938\u093e!"),
    ],
)
def test_an_entry_is_found_however_it_is_written(entry: str, text: str) -> None:
    """Case, encoding, punctuation and white space make no difference."""
    assert finds(entry, text)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("cunt", "Scunthorpe"),
        ("ass", "a classic assassin passes"),
        ("sex", "Essex, Sussex, Middlesex; unisex"),
        ("hell", "hello, shell"),
        ("porn*", "unpornographic"),
        ("pipe bomb", "pipe. A bomb"),
        ("pipe bomb", "bomb pipe"),
        ("pipe bomb", "pipe bombs"),
        ("ano", "un a\u00f1o"),
        ("ass", "455 people, iPhone 5s, $5"),
        ("cop", "\u0441\u043e\u0440"),  # a Russian word of letters that look Latin
        ("bomb", ""),
        ("bomb", " \n\u200b"),
    ],
)
def test_nothing_is_found_inside_of_other_words(entry: str, text: str) -> None:
    """Boundaries, accents, numbers and other scripts keep innocent texts innocent."""
    assert not finds(entry, text)


@pytest.mark.parametrize(
    "text",
    [
        *(f"bo{character}mb" for character in ZERO_WIDTH),
        "b\x00omb",
        "b\u0336o\u0336m\u0336b\u0336",  # struck out
        "bo\u0336mb",
        "b0mb",
        "b0mb!",
        "b\u043emb",  # a Cyrillic letter
        "b o m b",
        "b.o.m.b.",
        "b - o - m - b",
        "(b_o_m_b)",
    ],
    ids=ascii,
)
def test_simple_tricks_are_seen_through(text: str) -> None:
    """Invisible characters, stand-ins and spaced letters hide no word."""
    assert finds("bomb", text)


@pytest.mark.parametrize(
    ("entry", "text"), [("kill", "k1ll"), ("kill", "k!ll!"), ("slut", "s1ut"), ("sex", "$ex")]
)
def test_a_sign_stands_for_the_letters_it_looks_like(entry: str, text: str) -> None:
    """A one is an i or an l."""
    assert finds(entry, text)


def test_what_one_reading_finds_does_not_hide_what_another_would() -> None:
    """A word in clear beside one in disguise: both sections are found."""
    both = list_of("bomb")
    both.add("adult", "nude")
    for text in ("bomb n u d e", "nud3 bomb", "b0mb nude"):
        assert both.sections_in(text) == {"blocked", "adult"}


LETTERS = st.text("abc", min_size=2, max_size=5)
GAPS = st.sampled_from([" ", ", ", "-", " \n", "... "])


@given(
    entries=st.lists(
        st.tuples(st.lists(LETTERS, min_size=1, max_size=3), st.booleans()), min_size=1, max_size=6
    ),
    text=st.lists(st.tuples(LETTERS, GAPS), max_size=30),
)
def test_it_finds_what_a_pattern_for_each_entry_finds(
    entries: list[tuple[list[str], bool]], text: list[tuple[str, str]]
) -> None:
    """Whole words and phrases, no more and no less, for any list and any text."""
    written = "".join(word + gap for word, gap in text)
    patterns = [
        r"\b" + r"[^a-z]+".join(parts) + (r"[a-z]*" if is_open else "") + r"\b"
        for parts, is_open in entries
    ]
    found = list_of(*(" ".join(parts) + "*" * is_open for parts, is_open in entries))
    assert bool(found.sections_in(written)) == any(
        re.search(pattern, written) for pattern in patterns
    )


@given(before=LETTERS, after=LETTERS, word=LETTERS)
def test_a_word_within_a_word_is_never_found(before: str, after: str, word: str) -> None:
    """Letters on either side make it another word."""
    looked_for = list_of(f"x{word}x")
    for text in (f"{before}x{word}x", f"x{word}x{after}", f"{before}x{word}x{after}"):
        assert not looked_for.sections_in(text)


@given(
    word=st.text(st.characters(categories=["Ll", "Lu", "Lo"]), min_size=2, max_size=8),
    form=st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]),
    case=st.sampled_from([str.lower, str.upper, str.title, str.casefold, str]),
    unseen=st.sampled_from(ZERO_WIDTH),
    data=st.data(),
)
def test_encoding_and_case_do_not_count(
    word: str, form: Any, case: Callable[[str], str], unseen: str, data: st.DataObject
) -> None:
    """Any word of any script is found in any normal form and case, invisible characters within."""
    import unicodedata  # noqa: PLC0415 - of this test only

    if not folding.words_of(word):
        return
    # Some letters have no other case that leads back to them; those are other words.
    if folding.words_of(case(word)) != folding.words_of(word):
        return
    text = unicodedata.normalize(form, case(word))
    place = data.draw(st.integers(0, len(text)))
    assert list_of(word).sections_in(f"({text[:place]}{unseen}{text[place:]})")


@given(st.text())
def test_every_text_has_words(text: str) -> None:
    """No text makes it fail, and words are never empty."""
    for reading in folding.readings_of(text):
        assert all(reading)


def steps(work: Callable[[], object]) -> int:
    """How many lines of the matcher run during `work`: a measure that no neighbour disturbs."""
    count = 0
    files = {folding.__file__, words.__file__}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def random_words(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghij", k=draw.randint(3, 8))) for _ in range(count)]


def large_list(count: int) -> WordList:
    """Words, phrases that begin alike, beginnings, and one phrase that is as long as any."""
    found = list_of(*random_words(count, 1))
    for number, word in enumerate(random_words(count, 2)):
        found.add("adult", f"aa {word} {number}")
        found.add("adult", f"{word}*")
    found.add("minor", "a " * (ENTRY_WORDS_MAX - 1) + "b")
    return found


PIECES = {
    "prose": " ".join(random_words(1000, 3)) + " ",
    "one word": "kkk",
    "the beginning of a long phrase": "a ",
    "the beginning of many phrases": "aa ",
    "stand-ins": "k1l!0 ",
    "letters spaced out": "k l ",
    "marks out of order": "\u0300\u0323",
    "marks that are letters": "\uff9e\u0300",
    "a letter that becomes eighteen": "\ufdfa",
    "no spaces": "\u70b8\u5f39\u7684",
}


def filled(piece: str, characters: int) -> str:
    return (piece * (characters // len(piece) + 1))[:characters]


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_work_is_in_proportion_to_the_text(piece: str) -> None:
    """Four times the text is at most four times the work, and a few steps."""
    looked_for = large_list(300)
    looked_for.sections_in(piece)  # the classes of its characters are known from now on
    short, long = (
        steps(lambda size=size: looked_for.sections_in(filled(piece, size)))  # type: ignore[misc]
        for size in (2_000, 8_000)
    )
    assert long <= 4.2 * short + 200


def test_work_does_not_depend_on_the_length_of_the_list() -> None:
    """A list of thousands costs a text without its words what a short one costs."""
    text = filled("kkk lll mmm ", 8_000)
    short, long = large_list(50), large_list(5_000)
    assert steps(lambda: long.sections_in(text)) <= steps(lambda: short.sections_in(text)) + 200


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_no_text_takes_long(piece: str) -> None:
    """A prompt ten times the longest takes seconds of processor time at the very most.

    Work that grows with the square of the text, also within the Unicode library, would take minutes.
    """
    looked_for, text = large_list(5_000), filled(piece, 327_680)
    began = time.process_time()
    looked_for.sections_in(text)
    assert time.process_time() - began < 15


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes a list to a file."""

    def write(content: bytes) -> Path:
        path = tmp_path / "words.txt"
        path.write_bytes(content)
        return path

    return write


def test_a_file_has_sections_entries_and_comments(written: Callable[[bytes], Path]) -> None:
    """Sections say what entries mean; comments, empty lines, a mark and line ends of Windows do not."""
    path = written(
        "\ufeff# comment\r\n\r\n[Blocked]\r\n  pipe bomb  # why\r\nc# major\r\n"
        "[adult]\r\nnude\r\n[minor]\r\nchild\r\n[blocked]\r\nlate\r\n".encode()
    )
    found = read_words(path)
    for text, sections in {
        "a pipe bomb": {"blocked"},
        "in c major": {"blocked"},
        "late": {"blocked"},
        "nude": {"adult"},
        "child": {"minor"},
        "nude child, late": {"blocked", "adult", "minor"},
        "why comment adult minor": set(),
    }.items():
        assert found.sections_in(text) == sections


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (b"", 1, "no entries"),
        (b"[blocked]\n# nothing\n", 1, "no entries"),
        (b"bomb\n", 1, "before any section"),
        (b"[blocked]\nbomb\n[bloked]\n", 3, "did you mean `[blocked]`?"),
        (b"[x]\n", 1, "use one of [blocked], [adult], [minor]"),
        (b"[blocked\n", 1, "did you mean `[blocked]`?"),
        (b"[blocked]\n\xff\n", 2, "not UTF-8"),
        (b"[blocked]\nok\n!!!\n", 3, "no letter and no digit"),
        (b"[blocked]\n*\n", 2, "no letter and no digit"),
        (b"[blocked]\na*\n", 2, "at least 2"),
        (b"[blocked]\nb*mb\n", 2, "at the end only"),
        (b"[blocked]\n" + b"x" * 201, 2, "longer than 200 characters"),
        (b"[blocked]\n" + b"x " * 17, 2, "more than 16 words"),
        (b"[blocked]\n" + b"ab\n" * 50_001, 50_002, "more than 50000 entries"),
        (b"#" * ((4 << 20) + 1), 1, "larger than 4194304 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(
    written: Callable[[bytes], Path], content: bytes, line: int, problem: str
) -> None:
    """Each refusal starts with file and line and says what to do."""
    path = written(content)
    with pytest.raises(WordsInvalid) as refusal:
        read_words(path)
    assert str(refusal.value).startswith(f"{path}:{line}: ")
    assert problem in str(refusal.value)


def test_a_file_that_is_not_there_is_the_machines_refusal(tmp_path: Path) -> None:
    """It is an OSError that names the file."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_words(tmp_path / "nowhere.txt")


def test_the_largest_list_is_taken(written: Callable[[bytes], Path]) -> None:
    """Fifty thousand entries are read, and the last one counts."""
    path = written(("[adult]\n" + "\n".join(f"word{n}" for n in range(50_000))).encode())
    assert read_words(path).sections_in("word49999") == {"adult"}
