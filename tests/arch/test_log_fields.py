"""The allow-list of log fields is exactly what the package writes down."""

import ast
import inspect
from collections.abc import Iterator

from support.repository import python_sources
from traghetto.telemetry import FIELDS, log_failure

WRITERS = {"log_event", "_report", "_say"}
"""Functions whose keywords become fields of a record."""

OF_FAILURES = {*inspect.signature(log_failure).parameters, "causes"} - {"level", "error"}
"""The fields of the one record of a failed request; its error becomes the causes."""


def fields_given() -> Iterator[str]:
    """Every field that some call gives to a record of the server's state."""
    for path in python_sources():
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", None))
                if name in WRITERS:
                    yield from (keyword.arg for keyword in node.keywords if keyword.arg)


def test_every_field_that_is_written_is_allowed() -> None:
    """No record loses a field because its name was never added to the list."""
    assert ({*fields_given()} | OF_FAILURES) - FIELDS == set()


def test_every_field_that_is_allowed_is_written() -> None:
    """The list admits nothing that nobody writes: each name is a thing that may be logged."""
    assert FIELDS - {*fields_given()} - OF_FAILURES == set()
