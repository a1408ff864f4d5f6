"""THE STYLES: what a `style_preset` adds to a prompt, by its public name (contract B.5).

The names are those that clients know; the words are ours, and work alike with every engine.
"""

from __future__ import annotations

from typing import Final

STYLES: Final = {
    "3D Model": "as a clean 3D render with soft studio light and smooth materials",
    "Abstract": "as abstract art, reduced to shapes, rhythm and colour",
    "Advertising": "as a polished advertising photograph with a clear product and bright light",
    "Analog Film": "as a grainy photograph on analogue film with faded colours",
    "Anime": "in the style of hand-drawn anime with clear outlines and flat shading",
    "Cinematic": "as a still from a film, wide framing, shallow focus, dramatic light",
    "Comic Book": "as a comic book panel with bold ink lines and halftone dots",
    "Craft Clay": "as a model made of modelling clay, with visible fingerprints",
    "Cubist": "as a cubist painting of interlocking facets",
    "Digital Art": "as detailed digital art with vivid colours",
    "Fantasy Art": "as an epic fantasy illustration",
    "Food Photography": "as an appetising close-up photograph of food in natural light",
    "Graffiti": "as graffiti sprayed on a wall",
    "Hyperrealism": "as a hyperrealistic painting with minute detail",
    "Impressionist": "as an impressionist oil painting with loose, visible brush strokes",
    "Isometric Style": "as an isometric drawing with crisp edges",
    "Line Art": "as line art: clean black lines on white, no shading",
    "Lowpoly": "as a low-poly scene of flat triangles",
    "Neon Punk": "in neon light and deep shadow, futuristic and rebellious",
    "Origami": "as folded paper, with sharp creases",
    "Photographic": "as a sharp, natural photograph",
    "Pixel Art": "as pixel art with a small palette",
    "Pointillism": "as a pointillist painting made of small dots of pure colour",
    "Pop Art": "as pop art with loud colours and repetition",
    "Psychedelic": "with swirling psychedelic colours",
    "Real Estate": "as a bright wide-angle photograph of a room or a house",
    "Renaissance": "as a Renaissance oil painting with soft modelling of light",
    "Steampunk": "in a steampunk world of brass, gears and steam",
    "Surrealist": "as a surrealist painting, dreamlike and precise",
    "Texture": "as a seamless texture seen from above",
    "Typography": "as a typographic composition",
    "Watercolor": "as a watercolour with soft washes on rough paper",
}
NAMES: Final = tuple(STYLES)


def styled(prompt: str, style: str | None) -> str:
    """`prompt` with what the style adds to it."""
    return prompt if style is None else f"{prompt}, {STYLES[style]}"
