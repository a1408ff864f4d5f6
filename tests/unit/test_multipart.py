"""Forms: what they become, and what is no form or too large."""

import gc
import weakref
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.wire.multipart import PARTS_MAX, Form, FormReader, form_boundary, typed
from traghetto.wire.schema import validator_for

FILE_BYTES_MAX = 1000
BOUNDARY = b"frontier"


def part(name: str, content: bytes, extra: str = "", headers: str = "") -> bytes:
    head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n{headers}\r\n'
    return head.encode() + content + b"\r\n"


def file_part(name: str, content: bytes) -> bytes:
    return part(name, content, '; filename="a.png"', "Content-Type: image/png\r\n")


END = b"--frontier--\r\n"


def read(body: bytes, piece_bytes: int = 65536) -> Form:
    reader = FormReader(BOUNDARY, file_bytes_max=FILE_BYTES_MAX)
    for start in range(0, len(body), piece_bytes):
        reader.feed(body[start : start + piece_bytes])
    return reader.finish()


def code_of(body: bytes) -> object:
    with pytest.raises(ApiError) as caught:
        read(body)
    return caught.value.code


@pytest.mark.parametrize("piece_bytes", [1, 3, 64, 10_000])
def test_fields_are_text_and_files_are_bytes(piece_bytes: int) -> None:
    """However the body is cut into pieces, the form is the same."""
    content = bytes(range(256)) + b"\r\n--frontie\r\n--\r\n"
    body = part("prompt", "größer".encode()) + file_part("image", content) + END
    assert read(body, piece_bytes) == {"prompt": "größer", "image": content}


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_form_is_forgotten_with_its_request(is_whole: bool) -> None:
    """Files are large, so that none may wait for the garbage collector."""
    reader = FormReader(BOUNDARY, file_bytes_max=FILE_BYTES_MAX)
    reader.feed(file_part("image", b"1") + (END if is_whole else b""))
    form = weakref.ref(reader._fields.form)
    gc.disable()
    try:
        del reader
        assert form() is None
    finally:
        gc.enable()


def test_a_repeated_name_is_a_list() -> None:
    """So are names with brackets, as some clients write them, even if there is only one."""
    twice = file_part("images", b"1") + file_part("images", b"2") + file_part("images", b"3") + END
    assert read(twice) == {"images": [b"1", b"2", b"3"]}
    assert read(file_part("images[]", b"1") + END) == {"images": [b"1"]}


def test_a_file_without_a_name_is_told_by_its_type() -> None:
    """A part is a file if it has a file name or says that it is no text."""
    body = part("image", b"\xff", headers="Content-Type: application/octet-stream\r\n") + END
    assert read(body) == {"image": b"\xff"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--frontier",
        part("a", b"1"),
        b'{"image": "x"}',
        b"--other\r\n\r\n--other--\r\n",
        part("", b"1") + END,
        b"--frontier\r\nContent-Type: text/plain\r\n\r\n1\r\n" + END,
        part("a", b"\xff\xfe") + END,
        part("a", b"1", headers="Content-Transfer-Encoding: base64\r\n") + END,
        part("a", b"1", headers="X-Long: " + "x" * 5000 + "\r\n") + END,
        part("a", b"1", headers="X-Many: 1\r\n" * 20) + END,
        part("a", b"1") * (PARTS_MAX + 1) + END,
    ],
    ids=[
        "empty",
        "begun",
        "without end",
        "JSON",
        "another boundary",
        "nameless",
        "without disposition",
        "not UTF-8",
        "encoded",
        "a long header",
        "many headers",
        "many parts",
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    """All of it is one error, which tells nothing of the parser."""
    assert code_of(body) is Adjunct.INVALID_FORM


def test_a_refused_form_leaves_no_record(caplog: pytest.LogCaptureFixture) -> None:
    """Anybody may send one, and the parser would warn of each."""
    assert code_of(b"--frontier\r\nno header\r\n\r\n") is Adjunct.INVALID_FORM
    assert code_of(part("image", b"1") + b"--frontier!") is Adjunct.INVALID_FORM
    assert caplog.records == []


def test_a_file_has_a_largest_size() -> None:
    """One byte more is too many, and it is refused before the form has ended."""
    assert read(file_part("image", b"x" * FILE_BYTES_MAX) + END)
    assert code_of(file_part("image", b"x" * (FILE_BYTES_MAX + 1))) is ErrorCode.PAYLOAD_TOO_LARGE


@given(st.binary(max_size=400))
def test_junk_raises_nothing_else(junk: bytes) -> None:
    """Whatever arrives, it is a form or an error of the catalogue."""
    for body in (junk, b"--frontier\r\n" + junk, file_part("image", junk[:200]) + junk + END):
        with suppress(ApiError):
            read(body, 7)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (b"multipart/form-data", None),
        (b"multipart/form-data; boundary=" + b"x" * 71, None),
        (b"multipart/mixed; boundary=abc", None),
        (b"application/json", None),
    ],
)
def test_boundaries(content_type: bytes, boundary: bytes | None) -> None:
    """Only a form with a usable boundary is one."""
    assert form_boundary(content_type) == boundary


def test_text_takes_the_type_of_its_schema() -> None:
    """Numbers, booleans and lists of one are read; what cannot be read stays for the schema."""
    document = validator_for("MultiEditImageRequest").document
    form = Form(prompt="7", safe_mode="FALSE", images=b"x", enhance_prompt="perhaps")
    assert typed(form, document) == {
        "prompt": "7",
        "safe_mode": False,
        "images": [b"x"],
        "enhance_prompt": "perhaps",
    }
    upscale = validator_for("UpscaleImageRequest").document
    assert typed(Form(scale="2.0", creativity=""), upscale) == {"scale": 2, "creativity": None}
    arabic = Form(scale="\N{ARABIC-INDIC DIGIT TWO}")
    assert typed(arabic, upscale) == arabic, "not a number of JSON"
    assert typed({"scale": "2"}, upscale) == {"scale": "2"}, "JSON has types of its own"
