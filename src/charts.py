"""Pictures as SVG text: sharp at any size, readable on light and on dark paper, the same bytes for the same data.

Lines and text take the colour of the page (currentColor), so that a dark page needs no second picture.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#010203", "#040506"
"""Stand for the colour of the page's text, and for one that is fainter; no picture uses them otherwise."""
COLOURS = ("#3d7edb", "#e08a2c", "#2fa06f", "#cf5250", "#8f6bbd", "#8a8a8a", "#b58900", "#17a2b8")
"""Readable on white and on black."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ct",
    "font.family": ["sans-serif"],
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.3,
    "grid.alpha": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
WIDTH = 7.0
"""Inches; pages scale it."""


class Picture:
    """What picture() yields: its axes while it is drawn, its SVG text afterwards."""

    def __init__(self, axes: Any):
        self.axes = axes
        self.svg = ""


@contextmanager
def picture(what: str, height: float = 3.0, rows: int = 1, columns: int = 1, **subplots: Any) -> Iterator[Picture]:
    """A figure of WIDTH x height inches; `what` it shows is told to those who cannot see it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        drawn = Picture(figure.subplots(rows, columns, **subplots))
        yield drawn
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    drawn.svg = _embedded(file.getvalue(), what)


def _embedded(text: str, what: str) -> str:
    """SVG to stand within a page: no header, no size of its own, ids that are its own, the page's colours."""
    text = text[text.index("<svg") :]
    stamp = f"g{abs(hash_of(text)):x}"
    text = re.sub(r'\bid="([^"]+)"', rf'id="{stamp}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{stamp}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{stamp}-\1)", text)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A hundredth of a point is less than can be seen; what is written stays as it is.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag.group()), text)
    head = re.match(r"<svg[^>]*>", text).group()
    box = re.search(r'viewBox="[^"]*"', head).group()
    label = what.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} {box} role="img" aria-label="{label}">' + text[len(head) :].strip()


def hash_of(text: str) -> int:
    """The same on every machine, where Python's own changes from start to start."""
    import zlib

    return zlib.crc32(text.encode())


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], colour: int = 0, spread: Any = None) -> None:
    """Vertical bars with their names below them."""
    places = np.arange(len(names))
    axes.bar(places, values, color=COLOURS[colour], width=0.72, yerr=spread, ecolor=INK)
    axes.set_xticks(places, names)
    axes.grid(visible=False, axis="x")


def lines(axes: Axes, x: Sequence[float], series: dict[str, Sequence[float]]) -> None:
    for i, (name, values) in enumerate(series.items()):
        axes.plot(x, values, color=COLOURS[i % len(COLOURS)], label=name, linewidth=1.4)
    if len(series) > 1:
        axes.legend(fontsize=8)


def steps(axes: Axes, edges: np.ndarray, series: dict[str, np.ndarray]) -> None:
    """Histograms as outlines, so that several can be compared."""
    for i, (name, counts) in enumerate(series.items()):
        axes.stairs(counts, edges, color=COLOURS[i % len(COLOURS)], label=name, linewidth=1.4)
    if len(series) > 1:
        axes.legend(fontsize=8)


def heat(axes: Axes, values: np.ndarray, names: Sequence[str], low: float, high: float, form: str = ".0%") -> None:
    """A square of figures, coloured by size; the figures stand in the cells where there is room for them."""
    axes.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=low, vmax=high)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    if len(names) <= 18:
        for i, j in np.argwhere(np.isfinite(values)):
            dark = (values[i, j] - low) / max(high - low, 1e-12) > 0.55
            shown = format(values[i, j], form).replace("0.", ".") if form != ".0%" else f"{values[i, j]:.0%}"[:-1]
            axes.text(j, i, shown, ha="center", va="center", fontsize=6, color="#ffffff" if dark else "#10243e")
