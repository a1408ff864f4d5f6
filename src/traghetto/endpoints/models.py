"""The model routes: listing, one model, traits, compatibility mapping (contract B.3).

Every answer is bytes that the catalogue encoded, or nearly so. The routes are public: a key only
narrows what is shown, by its `modelPrivacy`.
"""

from __future__ import annotations

import typing
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final

from traghetto.catalog.catalog import Catalog
from traghetto.catalog.listing import encode
from traghetto.catalog.model import ModelType
from traghetto.errors import ApiError, ErrorCode, sentences
from traghetto.wire.zod import refusal

ALL_PRIVACIES: Final = "ALL"
_DEFAULT_TYPE: Final = "text"
_TYPES: Final[tuple[ModelType, ...]] = typing.get_args(ModelType)
_GROUPS: Final = ("all", "code")
_QUERY_FIELDS_MAX: Final = 100


def models_answer(catalog: Catalog, query: bytes, model_privacy: str = ALL_PRIVACIES) -> bytes:
    """`GET /models?type=`: text models unless a type, `all` or `code` is asked for.

    Raises ApiError: INVALID_REQUEST for any other type, as the union of enums that it is.
    """
    kind = _requested_type(query)
    if kind not in _TYPES and kind not in _GROUPS:
        raise _not_in_union(kind, (_TYPES, _GROUPS))
    return catalog.listing(kind, model_privacy)


def model_answer(catalog: Catalog, model_id: str, model_privacy: str = ALL_PRIVACIES) -> bytes:
    """`GET /models/{id}`: one model object; the id may be any name of the model.

    Raises ApiError: MODEL_NOT_FOUND, also for a model that the key may not see.
    """
    model = catalog.by_id(model_id) or catalog.resolve(model_id)
    if model is None or not model.admits(model_privacy):
        raise ApiError(ErrorCode.MODEL_NOT_FOUND)
    return catalog.encoded_object(model)


def traits_answer(catalog: Catalog, query: bytes, model_privacy: str = ALL_PRIVACIES) -> bytes:
    """`GET /models/traits?type=`: model ids by trait. Raises ApiError: INVALID_REQUEST."""
    kind = _requested_model_type(query)
    return _mapping(kind, catalog.traits(kind, model_privacy))


def compatibility_answer(
    catalog: Catalog, query: bytes, model_privacy: str = ALL_PRIVACIES
) -> bytes:
    """`GET /models/compatibility_mapping?type=`: model ids by foreign name.

    Raises ApiError: INVALID_REQUEST, also for `all` and `code`.
    """
    kind = _requested_model_type(query)
    return _mapping(kind, catalog.aliases(kind, model_privacy))


def _mapping(kind: str, names: dict[str, str]) -> bytes:
    return encode({"object": "list", "type": kind, "data": names})


def _requested_type(query: bytes) -> str:
    """The first `type` of the query; other parameters are ignored, an empty one is none."""
    try:
        fields = urllib.parse.parse_qs(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX
        )
    except ValueError:
        # Too many parameters: nobody who wants a listing sends them.
        raise _not_in_enum("", _TYPES) from None
    return fields.get("type", [_DEFAULT_TYPE])[0] or _DEFAULT_TYPE


def _requested_model_type(query: bytes) -> ModelType:
    kind = _requested_type(query)
    if kind not in _TYPES:
        raise _not_in_enum(kind, _TYPES)
    return kind


def _not_in_enum(received: str, options: Sequence[str]) -> ApiError:
    return refusal([_enum_issue(received, options)])


def _not_in_union(received: str, enums: Sequence[Sequence[str]]) -> ApiError:
    errors = [{"issues": [_enum_issue(received, options)], "name": "ZodError"} for options in enums]
    issue = {
        "code": "invalid_union",
        "unionErrors": errors,
        "path": ["type"],
        "message": sentences.INVALID_UNION,
    }
    return refusal([issue])


def _enum_issue(received: str, options: Sequence[str]) -> dict[str, Any]:
    shown = received[: sentences.ECHO_CHARACTERS_MAX]
    expected = " | ".join(f"'{option}'" for option in options)
    return {
        "code": "invalid_enum_value",
        "options": list(options),
        "received": shown,
        "path": ["type"],
        "message": sentences.NOT_IN_ENUM.format(expected=expected, received=shown),
    }
