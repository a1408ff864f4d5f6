"""The catalogue is the published contract, and nothing beside it speaks to clients of failure."""

import ast
import json
from http import HTTPStatus
from pathlib import Path

from support.repository import ROOT, SOURCE, python_sources
from traghetto.errors import Adjunct, ErrorCode

STATUSES_ALLOWED = {
    "client/recognition.py": "the statuses of servers, whose wordings it translates to codes",
    "endpoints/api_keys.py": "500 active keys",
    "engines/classify.py": "the statuses of backends, which it translates to failure kinds",
    "http/dispatch.py": "health answers, which are not errors, and 499, which is never sent",
    "limits/rates.py": "500 requests per minute",
}
"""Modules outside `errors/` that may write an error status, and why."""

SENTENCE_CHARACTERS_MIN = 15
"""Shorter texts of the catalogue (`Not found`) may occur by chance."""


STATUSES = {status.value for status in HTTPStatus if status >= 400} | {499, 529}
"""The error statuses of HTTP, and the two unofficial ones that gateways meet."""


def literals(path: Path, kind: type) -> list[tuple[int, object]]:
    """(line, value) of every literal of exactly `kind` in a module; docstrings included."""
    tree = ast.parse(path.read_text(), str(path))
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [(node.lineno, node.value) for node in nodes if type(node.value) is kind]


def outside_errors() -> list[Path]:
    return [path for path in python_sources() if SOURCE / "errors" not in path.parents]


def statuses_in(path: Path) -> list[tuple[int, object]]:
    return [(line, value) for line, value in literals(path, int) if value in STATUSES]


def test_catalogue_is_the_published_contract() -> None:
    """The 40 codes have the status, text, log level and order of spec/errors.json."""
    published = json.loads((ROOT / "spec" / "errors.json").read_text())
    ours = [
        {
            "code": code.name,
            "status": code.value.status,
            "message": code.value.message,
            "log_level": code.value.log_level,
        }
        for code in ErrorCode
    ]
    assert len(ours) == 40
    assert ours == published


def test_adjuncts_name_published_codes() -> None:
    """A further wording of a published code names one that exists, with the same status."""
    for adjunct in Adjunct:
        if adjunct.value.of is not None:
            assert ErrorCode[adjunct.value.of].value.status == adjunct.value.status


def test_no_name_is_in_both_tables() -> None:
    """`x-error-code` is unambiguous."""
    assert not set(ErrorCode.__members__) & set(Adjunct.__members__)


def test_statuses_are_written_in_the_catalogue_only() -> None:
    """No module outside `errors/` writes an error status, unless the list says why."""
    written = [
        f"{path.relative_to(ROOT)}:{line}: {status}"
        for path in outside_errors()
        if path.relative_to(SOURCE).as_posix() not in STATUSES_ALLOWED
        for line, status in statuses_in(path)
    ]
    assert written == []


def test_every_exception_is_needed() -> None:
    """The list of exceptions names no module that has stopped needing one."""
    stale = [name for name in STATUSES_ALLOWED if not statuses_in(SOURCE / name)]
    assert stale == []


def test_client_sentences_are_written_in_the_catalogue_only() -> None:
    """No module outside `errors/` repeats a sentence of the catalogue."""
    sentences = {row.value.message for table in (ErrorCode, Adjunct) for row in table}
    distinctive = {text for text in sentences if len(text) >= SENTENCE_CHARACTERS_MIN}
    copies = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in outside_errors()
        for line, text in literals(path, str)
        if any(sentence in text for sentence in distinctive)
    ]
    assert copies == []
