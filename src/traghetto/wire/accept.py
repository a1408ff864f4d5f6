"""What a client would rather have: the `Accept` and `Accept-Language` headers (RFC 9110, 12.5).

Only what is named counts. Who sends `*/*`, or nothing, has no wish and gets what is usual here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def prefers(accept: bytes | None, wanted: str, usual: str) -> bool:
    """Whether an `Accept` header asks for the media type `wanted` rather than for `usual`."""
    weights = dict(_weights(accept))
    return weights.get(wanted, 0.0) > weights.get(usual, 0.0)


def prefers_language(accept_language: bytes | None, wanted: str, usual: str) -> bool:
    """The same for `Accept-Language`; a language of a country (`it-CH`) counts as the language."""
    best = dict.fromkeys((wanted, usual), 0.0)
    for tag, weight in _weights(accept_language):
        language = tag.partition("-")[0]
        if language in best:
            best[language] = max(best[language], weight)
    return best[wanted] > best[usual]


def _weights(header: bytes | None) -> Iterator[tuple[str, float]]:
    """What a header names, in lower case, each with its weight."""
    for part in (header or b"").decode("latin-1").lower().split(","):
        named, *parameters = (piece.strip() for piece in part.split(";"))
        yield named, _weight(parameters)


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
