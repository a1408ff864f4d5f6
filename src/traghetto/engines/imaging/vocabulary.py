"""The vocabulary of the classical editor: verbs, and the phrases in which prompts name them.

Phrases are regular expressions without capturing groups. They are matched as whole words, in any
case; where two overlap, the longer one counts.
"""

from __future__ import annotations

from typing import Final

from traghetto.engines.imaging.colours import COLOUR_PATTERN

_MORE: Final = r"(?:more|increase[ds]?|higher|high|boost(?:ed)?|stronger|raise|add|extra)"
_LESS: Final = r"(?:less|reduce[ds]?|decrease[ds]?|lower(?:ed)?|low|weaker)"
_FILL: Final = r"(?:\s+(?:the|its|some|a|of|in|bit|little|lot|image|picture|photo))*\s+"
_VIVID: Final = r"(?:saturat(?:ion|ed)|vibrant|vivid|colou?rful)"
_LIGHT: Final = r"(?:bright(?:ness)?|light|exposure)"
_IT: Final = r"(?: it| the (?:image|picture|photo))?"
_EACH_OTHER: Final = r"(?:each other|one another)"

VOCABULARY: Final[dict[str, tuple[str, ...]]] = {
    # Composing several pictures; `combine` leaves open how.
    "side-by-side": (
        r"side[- ]by[- ]side",
        rf"(?:next to|beside) {_EACH_OTHER}",
        r"in a row",
    ),
    "stack": (
        rf"(?:on top of|above|below|under) {_EACH_OTHER}",
        r"stack(?:ed)?(?: vertically)?",
        r"in a column",
    ),
    "grid": (r"grid", r"collage", r"contact sheet", r"mosaic of"),
    "overlay": (r"overla(?:y|id)", r"superimposed?", r"double exposure", r"blend(?:ed)?"),
    "combine": (
        r"combined?",
        r"merged?",
        r"join(?:ed)?",
        r"compose",
        r"put (?:(?:them|these|both|all) )?together",
    ),
    # Colour.
    "grayscale": (
        r"gr[ae]y[- ]?scale",
        r"black & white",
        r"b\s?&\s?w",
        r"monochrom(?:e|atic)",
        r"remove (?:all |the )*colou?rs?",
    ),
    "sepia": (r"sepia",),
    "invert": (r"invert(?:ed)?(?: (?:the )?colou?rs)?", r"(?:photo )?negative(?: image)?"),
    "tint": (
        r"tint(?:ed)?",
        r"colou?ri[sz]ed?",
        rf"{COLOUR_PATTERN} (?:hue|tone|cast|filter|wash)",
    ),
    "warmer": (r"warm(?:er|th)?(?: (?:up|tones?|colou?rs?))?",),
    "cooler": (r"cool(?:er)? (?:down|tones?|colou?rs?)", r"cooler", r"colder"),
    "more-saturated": (
        rf"{_MORE}{_FILL}{_VIVID}",
        r"saturated?",
        r"vibrant",
        r"vivid",
        r"colou?rful",
    ),
    "less-saturated": (
        rf"{_LESS}{_FILL}{_VIVID}",
        r"desaturated?",
        r"muted",
        r"mute the colou?rs",
    ),
    # Tone.
    "brighter": (
        rf"{_MORE}{_FILL}{_LIGHT}",
        r"bright(?:er|en|ened)",
        r"light(?:er|en|ened)",
    ),
    "darker": (rf"{_LESS}{_FILL}{_LIGHT}", r"dark(?:er|en|ened)", r"dim(?:mer|med)?"),
    "more-contrast": (rf"{_MORE}{_FILL}contrast", r"high[- ]contrast", r"contrasty", r"punchier"),
    "less-contrast": (rf"{_LESS}{_FILL}contrast", r"low[- ]contrast", r"flatter"),
    "auto-contrast": (r"auto[- ]?(?:contrast|levels?)", r"normali[sz]e"),
    "posterize": (r"posteri[sz]ed?",),
    "solarize": (r"solari[sz]ed?",),
    # Structure.
    "sharpen": (
        r"sharp(?:en|ened|er)",
        r"crisp(?:er)?",
        r"less blur(?:ry|red)?",
        r"(?:de-?|un)blur(?:red)?",
    ),
    "blur": (r"blur(?:red|ry)?", r"soft(?:en|ened|er)", r"out of focus"),
    "pixelate": (r"pixell?at(?:e|ed)", r"pixel art", r"mosaic"),
    "sketch": (r"(?:pencil )?sketch", r"(?:(?:pencil|line) )?drawing", r"line art"),
    "edges": (r"edges?(?: detection)?", r"(?:outlines?|contours?)(?: only)?"),
    "emboss": (r"emboss(?:ed)?", r"relief"),
    "grain": (r"(?:film )?grain",),
    # Shape.
    "mirror": (
        r"mirror(?:ed)?(?: image)?",
        rf"flip(?:ped)?{_IT}(?: horizontally| left to right)?",
    ),
    "flip": (rf"(?:flip(?:ped)?|mirror(?:ed)?){_IT} (?:vertically|top to bottom|upside[- ]down)",),
    "rotate": (
        r"rotat(?:e|ed|ion)",
        rf"turn(?:ed)?(?={_IT} (?:by )?(?:\d|left|right|clockwise|counter|anti|upside))",
        r"upside[- ]down",
    ),
    "square": (
        rf"(?:crop(?:ped)?|cut|trim){_IT}(?: (?:to|into|as))?(?: a)? square",
        r"square crop",
        r"make it square",
    ),
    "vignette": (
        r"vignett(?:e|ing)",
        r"dark(?:en|er)? (?:the )?(?:edges|corners)",
        r"(?:edges|corners) darker",
    ),
    "border": (r"border", r"frame"),
}

COMPOSING: Final = frozenset({"side-by-side", "stack", "grid", "overlay", "combine"})
"""The verbs that say how several pictures become one."""
