"""What is wrong with a request, one by one, from the two forms in which servers say it.

Invariant: nothing here raises, however odd, large or deep what a server sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

DEPTH_MAX: Final = 64
"""Levels of a tree that are read, as deep as a request may be; below there are no issues."""
INDEX_DIGITS_MAX: Final = 9


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong with a request."""

    path: tuple[str | int, ...]
    """Where in the body it is; empty for the body itself."""
    message: str
    code: str | None = None
    """Its kind, such as `invalid_type`; None where the server only gave a sentence."""

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.message}" if self.path else self.message


def issues_of(listed: Any, details: Any) -> tuple[Issue, ...]:
    """The issues that are listed (`issues` of a body), or else those in the tree of `details`."""
    return tuple(_of_list(listed, DEPTH_MAX)) or tuple(_of_tree(details, ()))


def _of_list(listed: Any, depth: int) -> Iterator[Issue]:
    """A list as Zod writes it; of a union that nothing matched, the issues of its branches."""
    for item in listed if isinstance(listed, list) and depth else ():
        if not isinstance(item, dict) or not isinstance(message := item.get("message"), str):
            continue
        branches = item.get("unionErrors")
        nested = [
            issue
            for branch in (branches if isinstance(branches, list) else ())
            if isinstance(branch, dict)
            for issue in _of_list(branch.get("issues"), depth - 1)
        ]
        code = item.get("code")
        alone = Issue(_path(item.get("path")), message, code if isinstance(code, str) else None)
        yield from dict.fromkeys(nested) or (alone,)


def _path(path: Any) -> tuple[str | int, ...]:
    steps = path if isinstance(path, list) else [path]
    return tuple(step for step in steps if isinstance(step, str | int))


def _of_tree(node: Any, path: tuple[str | int, ...]) -> Iterator[Issue]:
    """A tree with sentences under `_errors` at its nodes; or one sentence instead of a tree."""
    if isinstance(node, str) and node and not path:
        yield Issue((), node)
    if not isinstance(node, dict) or len(path) > DEPTH_MAX:
        return
    sentences = node.get("_errors")
    for sentence in sentences if isinstance(sentences, list) else ():
        if isinstance(sentence, str):
            yield Issue(path, sentence)
    for name, child in node.items():
        if name != "_errors":
            is_index = name.isdecimal() and len(name) <= INDEX_DIGITS_MAX
            yield from _of_tree(child, (*path, int(name) if is_index else name))
