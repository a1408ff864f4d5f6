"""HTML that cannot be written wrongly: text is escaped because it is not markup yet.

Only this module makes `Markup`. Everything else that goes
into an element, or into an attribute, is escaped there.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Markup:
    """Text that is HTML already."""

    html: str


Content = str | Markup

_VOID: Final = frozenset({"br", "meta", "wbr"})
"""Elements without content, which have no end."""


def element(name: str, /, *content: Content, **attributes: str) -> Markup:
    """An element; an attribute that is a word of Python ends in `_`, and `_` inside it is `-`."""
    written = "".join(
        f' {attribute.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for attribute, value in attributes.items()
    )
    opened = f"<{name}{written}>"
    return Markup(opened if name in _VOID else f"{opened}{_inside(content)}</{name}>")


def together(*content: Content) -> Markup:
    """Several pieces, one after the other."""
    return Markup(_inside(content))


def style_sheet(text: str) -> Markup:
    """Our own style sheet: the content of this element is not escaped in HTML."""
    assert "</" not in text, "a style sheet does not end its own element"
    return Markup(f"<style>{text}</style>")


def document(language: str, *content: Content) -> str:
    """A whole page in `language`."""
    return f"<!doctype html>\n{element('html', *content, lang=language).html}\n"


def code_name(name: str) -> Markup:
    """The name of a code, which a narrow screen may break after any `_`."""
    first, *others = name.split("_")
    pieces: list[Content] = [first]
    for other in others:
        pieces += ["_", element("wbr"), other]
    return element("code", *pieces, translate="no")


def prose(text: str) -> Markup:
    """A text of the guide: what stands between backquotes is code."""
    return together(
        *(
            element("code", part, translate="no") if index % 2 else part
            for index, part in enumerate(text.split("`"))
        )
    )


def _inside(content: tuple[Content, ...]) -> str:
    return "".join(
        piece.html if isinstance(piece, Markup) else html.escape(piece, quote=False)
        for piece in content
    )
