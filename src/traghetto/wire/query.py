"""The query of a request as an object that a schema can judge."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any, Final

from traghetto.wire.schema import Validator
from traghetto.wire.zod import require_valid

PARAMETERS_MAX: Final = 100
_NUMBER: Final = re.compile(r"(-?(?:0|[1-9]\d{0,14}))(\.\d{1,15})?", re.ASCII)


def parse_query(query: bytes, validator: Validator) -> dict[str, Any]:
    """The parameters of a query; an integer of the schema is read as one, an empty value is none.

    Raises ApiError: INVALID_REQUEST with every violation. A repeated parameter is a list, which no
    schema of a query accepts.
    """
    properties = validator.document["properties"]
    try:
        pairs = urllib.parse.parse_qsl(query.decode("latin-1"), max_num_fields=PARAMETERS_MAX)
    except ValueError:
        pairs = [("", "")]  # more than anybody needs: the schema refuses the nameless one
    values: dict[str, Any] = {}
    for name, text in pairs:
        value: Any = text
        if "integer" in properties.get(name, {}).get("type", ()):
            number = _NUMBER.fullmatch(text)
            if number is not None:
                value = float(text) if number[2] else int(text)
        values[name] = [values[name], value] if name in values else value
    require_valid(validator, values)
    return values
