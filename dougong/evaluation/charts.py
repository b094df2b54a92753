"""Charts of the report: matplotlib draws, and what comes out is plain inline SVG that takes its colours from the page.

Equal data give equal bytes: no date, no random ids, no settings of the user's matplotlib.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (5.4, 3.1)  # inches at 72 points: text of 10 points stays legible on a phone, where a chart takes the full width
MOST_POINTS = 400  # drawn per line; more are averaged in buckets
INK, MUTED, LINE = "#100001", "#100002", "#100003"  # stand-ins that `_svg` replaces by the variables of the page
FIRST, SECOND = "#100004", "#100005"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", FIRST: "--first", SECOND: "--second"}


@dataclass(frozen=True)
class Line:
    """One line of a chart; `smooth` draws its points faintly and their moving average above them."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    smooth: bool = False


def line_chart(name: str, lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """At most two lines over the same axes -> SVG. `name` keeps the ids of several charts in one page apart."""
    figure, axes = _figure(x_label, y_label)
    for line, colour in zip(lines, (FIRST, SECOND), strict=False):
        x, y = thinned(np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float))
        if line.smooth and len(y) >= 40:
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.3)
            y = moving_average(y, len(y) // 20)
        marker = "o" if len(x) < 25 else None  # few points: show where they are
        axes.plot(x, y, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=line.label)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=10, labelcolor=INK, loc="best")
    return _svg(name, figure)


def calibration_chart(name: str, confidence: Sequence[float], accuracy: Sequence[float], rows: Sequence[int]) -> str:
    """Confidence against the share that is right, dots as large as their rows -> SVG."""
    figure, axes = _figure("confidence", "share right")
    sizes = 20 + 180 * np.asarray(rows, dtype=float) / max(1, *rows)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(confidence, accuracy, color=FIRST, linewidth=1.4)
    axes.scatter(confidence, accuracy, s=sizes, color=FIRST, alpha=0.75, linewidths=0)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    return _svg(name, figure)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points: means of neighbours."""
    size = -(-len(x) // MOST_POINTS)
    if size <= 1:
        return x, y
    starts = np.arange(0, len(x), size)
    counts = np.diff(np.r_[starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def moving_average(y: np.ndarray, window: int) -> np.ndarray:
    """Mean of the neighbours within half a window on both sides, fewer at the ends."""
    sums = np.r_[0.0, np.cumsum(y)]
    index = np.arange(len(y))
    low, high = np.maximum(index - window // 2, 0), np.minimum(index + window // 2 + 1, len(y))
    return (sums[high] - sums[low]) / (high - low)


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    import matplotlib.style
    from matplotlib.figure import Figure  # here, since `import dougong` must stay fast

    with matplotlib.style.context("default"):  # not the settings of whoever runs it
        figure = Figure(figsize=SIZE, dpi=72, layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.tick_params(colors=MUTED, labelsize=10, length=3)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.locator_params(axis="both", nbins=6)
        axes.xaxis.set_major_formatter(_short)
        axes.yaxis.set_major_formatter(_short)
        axes.set_xlabel(x_label, color=MUTED, fontsize=10)
        axes.set_ylabel(y_label, color=MUTED, fontsize=10)
    return figure, axes


def _short(value: float, _position: Any = None) -> str:
    """1500 -> 1.5k, 0.0003 -> 3e-4: tick labels that fit."""
    size = abs(value)
    if size >= 1e3:
        scale, letter = next((s, letter) for s, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if size >= s)
        return f"{value / scale:.4g}{letter}"
    if 0 < size < 1e-2:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _svg(name: str, figure: Figure) -> str:
    import matplotlib

    target = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # measured in matplotlib's font, shown in the browser's
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")  # inline in HTML it needs neither
    svg = re.sub(r' id="[a-zA-Z][\w.]*_\d+"', "", svg)  # figure_1, axes_1, …: nothing refers to them
    svg = re.sub(r"font-family: [^;]*; ", "", svg)  # that of the page
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)  # the page decides the width
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", '<svg role="img"', 1).strip()
