"""A picture with the boxes that are told of it and those that are right, as an inline SVG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
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
    letter = max(height, width) / 24
    names = "".join(_name(box, f"{label} {score:.2f}", letter) for box, label, score in drawn.told)
    said = escape(f"{len(drawn.told)} boxes told, {len(drawn.right)} right")
    return f'<svg class="drawn" role="img" aria-label="{said}" viewBox="0 0 {width} {height}">{image}{right}{told}{names}</svg>'


def _rectangle(box: Box, kind: str, title: str) -> str:
    x, y, far, low = box
    place = f'x="{x:.1f}" y="{y:.1f}" width="{far - x:.1f}" height="{low - y:.1f}"'
    return f'<rect class="{kind}" {place}><title>{escape(title)}</title></rect>'


def _name(box: Box, text: str, letter: float) -> str:
    """Above the box, or in it where there is no room above."""
    x, y = box[0], box[1]
    height = y - 0.25 * letter if y > 1.2 * letter else y + letter
    return f'<text x="{x:.1f}" y="{height:.1f}" font-size="{letter:.1f}">{escape(text)}</text>'


STYLE = """
.drawn{width:100%}
.drawn rect{fill:none;stroke-width:2;vector-effect:non-scaling-stroke;filter:drop-shadow(0 0 1px #000)}
.drawn .told{stroke:#ffdf3f}
.drawn .right{stroke:#fff;stroke-dasharray:5 4}
.drawn text{fill:#fff;stroke:#000;stroke-width:.18em;paint-order:stroke;font-family:var(--sans);font-weight:600}
"""
