"""A picture with the boxes that are told of it and those that are right, as an inline SVG."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """A picture (PNG) of `size` (height, width), what is told of it with its score, and what is right; boxes in its pixels."""

    png: bytes
    size: tuple[int, int]
    told: Sequence[tuple[Box, str, float]]
    right: Sequence[tuple[Box, str]]


def svg(drawn: Drawn) -> str:
    """What is right dashed, what is told in whole lines above it, with its name and score."""
    height, width = drawn.size
    data = base64.b64encode(drawn.png).decode()
    image = f'<image href="data:image/png;base64,{data}" width="{width}" height="{height}" preserveAspectRatio="none"/>'
    right = "".join(_rectangle(box, "right", label) for box, label in drawn.right)
    told = "".join(_rectangle(box, "told", f"{label} {score:.2f}") for box, label, score in drawn.told)
    names = "".join(_names(drawn))
    said = escape(f"{len(drawn.told)} boxes told, {len(drawn.right)} right")
    return f'<svg class="drawn" role="img" aria-label="{said}" viewBox="0 0 {width} {height}">{image}{right}{told}{names}</svg>'


def _rectangle(box: Box, kind: str, title: str) -> str:
    x, y, far, low = box
    place = f'x="{x:.1f}" y="{y:.1f}" width="{far - x:.1f}" height="{low - y:.1f}"'
    return f'<rect class="{kind}" {place}><title>{escape(title)}</title></rect>'


def _names(drawn: Drawn) -> Iterator[str]:
    """Names with scores, the surest first; one that would lie on another is left to its title. Of one name only scores."""
    height, width = drawn.size
    letter = max(height, width) / 24
    alone = len({label for _, label, _ in drawn.told}) == 1 and len(drawn.told) > FEW
    written: list[Box] = []
    for box, label, score in sorted(drawn.told, key=lambda told: -told[2]):
        text = f"{score:.2f}" if alone else f"{label} {score:.2f}"
        x = max(min(box[0], width - WIDE * letter * len(text)), 0.0)
        # above the box, or in it where there is no room above
        y = box[1] - 0.25 * letter if box[1] > 1.2 * letter else box[1] + letter
        place = (x, y - letter, x + WIDE * letter * len(text), y)
        if not any(_overlap(place, other) for other in written):
            written.append(place)
            yield f'<text x="{x:.1f}" y="{y:.1f}" font-size="{letter:.1f}">{escape(text)}</text>'


FEW = 8  # boxes of one name that may each say it
WIDE = 0.62  # of a letter, as a share of its height


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


STYLE = """
.drawn{width:100%}
.drawn rect{fill:none;stroke-width:2;vector-effect:non-scaling-stroke;filter:drop-shadow(0 0 1px #000)}
.drawn .told{stroke:#ffdf3f}
.drawn .right{stroke:#fff;stroke-dasharray:5 4}
.drawn text{fill:#fff;stroke:#000;stroke-width:.18em;paint-order:stroke;font-family:var(--sans);font-weight:600}
"""
