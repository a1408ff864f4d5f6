"""Forms: a `multipart/form-data` body as the object that the same request would be in JSON.

A file is `bytes`, a field is text until `typed` gives it the type that its schema asks for, and a
name that comes several times (or ends in `[]`) is a list. The names of files and their declared
types are not looked at. Invariants: nothing is written to disk; parts, their headers and their
sizes are bounded while they arrive, before anything is kept.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.wire.schema import Schema

BOUNDARY_BYTES_MAX: Final = 70
"""The bound of RFC 2046."""
PARTS_MAX: Final = 32
PART_HEADERS_MAX: Final = 8
PART_HEADER_BYTES_MAX: Final = 4096

_MEDIA_TYPE: Final = b"multipart/form-data"
_NUMBER: Final = re.compile(
    r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,3})?", re.ASCII
)
_BOOLEANS: Final = {"true": True, "false": False}

# The parser warns of every form that is none, and anybody may send one: a refusal is told to its
# caller, and not written down.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def form_boundary(content_type: bytes) -> bytes | None:
    """The boundary of a form; None for another media type, or without a usable one."""
    media_type, parameters = parse_options_header(content_type.decode("latin-1"))
    boundary = parameters.get(b"boundary", b"")
    if media_type != _MEDIA_TYPE or not 0 < len(boundary) <= BOUNDARY_BYTES_MAX:
        return None
    return boundary


class Form(dict[str, Any]):
    """The fields of a form: files are bytes, everything else is text."""


class FormReader:
    """Takes a form as it arrives, piece by piece.

    Its methods raise ApiError: INVALID_FORM for what is no form or has too many parts or headers,
    PAYLOAD_TOO_LARGE for a file above `file_bytes_max`.
    """

    def __init__(self, boundary: bytes, *, file_bytes_max: int) -> None:
        # The parser knows the fields, and they do not know the parser: were there a way back, a
        # form would stay in memory after its request, until the garbage collector comes by.
        self._fields = _Fields(file_bytes_max)
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._fields.begin_part,
                "on_header_field": self._fields.add_name,
                "on_header_value": self._fields.add_value,
                "on_header_end": self._fields.end_header,
                "on_headers_finished": self._fields.end_headers,
                "on_part_data": self._fields.add_data,
                "on_part_end": self._fields.end_part,
                "on_end": self._fields.end,
            },
            max_header_count=PART_HEADERS_MAX,
            max_header_size=PART_HEADER_BYTES_MAX,
        )

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _invalid(type(error).__name__) from None

    def finish(self) -> Form:
        """The fields of a form that has arrived whole."""
        if not self._fields.is_ended:
            raise _invalid("the form has no end")
        return self._fields.form


class _Fields:
    """What the parser tells of a form, put together."""

    def __init__(self, file_bytes_max: int) -> None:
        self.form = Form()
        self.is_ended = False
        self._file_bytes_max = file_bytes_max
        self._parts = 0
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_file = False
        self._name = b""

    def begin_part(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise _invalid("more parts than allowed")
        self._headers = {}
        self._pieces = []
        self._size = 0

    def add_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def end_headers(self) -> None:
        disposition, parameters = parse_options_header(
            self._headers.get(b"content-disposition", b"").decode("latin-1")
        )
        name = parameters.get(b"name", b"")
        if disposition != b"form-data" or not name:
            raise _invalid("a part without a name")
        if b"content-transfer-encoding" in self._headers:
            raise _invalid("a part with a transfer encoding")  # RFC 7578 has done away with them
        kind = self._headers.get(b"content-type", b"text/plain").strip().lower()
        self._is_file = b"filename" in parameters or not kind.startswith(b"text/")
        self._name = name

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._is_file and self._size > self._file_bytes_max:
            raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE)
        self._pieces.append(data[start:end])

    def end_part(self) -> None:
        data = b"".join(self._pieces)
        self._pieces = []
        try:
            name = self._name.decode()
            content = data if self._is_file else data.decode()
        except UnicodeDecodeError:
            raise _invalid("a field that is not UTF-8") from None
        if name.endswith("[]"):
            name = name.removesuffix("[]")
            self.form.setdefault(name, [])
        known = self.form.get(name)
        if isinstance(known, list):
            known.append(content)
        elif name in self.form:
            self.form[name] = [known, content]
        else:
            self.form[name] = content

    def end(self) -> None:
        self.is_ended = True


def typed(body: dict[str, Any], document: Schema) -> dict[str, Any]:
    """A form's fields with numbers, booleans and lists where the schema asks for them.

    What cannot be read as its type stays text, for the schema to refuse; so does all of JSON.
    """
    if not isinstance(body, Form):
        return body
    properties: dict[str, Schema] = document.get("properties", {})
    return {name: _typed(value, properties.get(name, {})) for name, value in body.items()}


def _typed(value: Any, schema: Schema) -> Any:
    kinds = schema.get("type", ())
    if "array" in kinds and not isinstance(value, list):
        return [value]
    if not isinstance(value, str):
        return value
    if "boolean" in kinds:
        return _BOOLEANS.get(value.strip().lower(), value)
    if ("number" in kinds or "integer" in kinds) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        return int(number) if number.is_integer() else number
    if "null" in kinds and value in {"", "null"}:
        return None
    return value


def without_contents(body: dict[str, Any], files: Collection[str]) -> dict[str, Any]:
    """`body` with each file, and each text as long as one, replaced by something short.

    What is left is what a schema has something to say about. Under the names in `files` a file
    becomes a text; elsewhere, where it was sent instead of a text, it becomes an object.
    """
    return {name: _short(value, _STAND_IN if name in files else {}) for name, value in body.items()}


def _short(value: Any, file: Any) -> Any:
    if isinstance(value, bytes):
        return file
    if isinstance(value, str):
        return value if len(value) <= _TEXT_CHARACTERS_MAX else value[:_PREFIX_CHARACTERS]
    if isinstance(value, dict):
        return {name: _short(member, file) for name, member in value.items()}
    if isinstance(value, list):
        return [_short(member, file) for member in value]
    return value


_STAND_IN: Final = "file"
_TEXT_CHARACTERS_MAX: Final = 1 << 16
"""Longer than any text that a schema bounds."""
_PREFIX_CHARACTERS: Final = 40_000


def _invalid(reason: str) -> ApiError:
    return ApiError(Adjunct.INVALID_FORM, reason=reason)
