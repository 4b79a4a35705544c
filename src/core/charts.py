"""Charts in one palette and style: as SVG text for light and dark pages, or as PNG files on white paper.

Both are deterministic. Lines and text of an SVG have the colour of the page (currentColor), so that it fits both.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.core import language, storage
from src.core.language import Message

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK, FAINT = "#010203", "#040506"
"""Placeholders of the page's text colour and of a fainter colour; charts use them for nothing else."""
COLOURS = ("#3d7edb", "#cc7316", "#28986a", "#cf5250", "#8f6bbd", "#808080", "#a67d00", "#1593a8")
"""Colours of data, with a contrast of at least 3 to 1 on light and on dark pages."""
DEEPEST = 0.7
"""Maximum opacity of a background colour under text."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
"""Dashes of lines that are compared, so that their legend can be read without colours."""
PAPER = {INK: "#1b2430", FAINT: "#7f8b97"}
"""Colours on the white paper of PNG files."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ct",
    "text.parse_math": False,  # a file's name may hold dollars
    "font.family": ["sans-serif"],
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
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
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
NARROW = 4
"""Ratio of the ends of a logarithmic axis below which its marks are evenly spaced numbers."""
WIDTH, PANEL, SMALL = 4.8, 3.6, 1.8
"""Widths in inches of a single picture, of one in a row, and of one of many. A phone shows about 5 inches, so that text
keeps its size."""


class Picture:
    """Result of picture(): axes within the context, SVG text afterwards."""

    def __init__(self, panels: Sequence[Axes]):
        self.axes, self.panels = panels[0], panels
        self.svg = ""


@contextmanager
def png(path: Path, pictures: int = 1, height: float = 3.4, width: float = 5.4) -> Iterator[list[Axes]]:
    """Yields axes side by side, each `height` x `width` inches, and writes them as a PNG file on white paper; messages
    are English in it, as matplotlib's own font has no Chinese."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {key: PAPER.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
    with mpl.rc_context({**style, "savefig.facecolor": "#ffffff"}), language.drawn():  # fonts may lack Chinese
        figure = Figure(figsize=(width * pictures, height), layout="constrained")
        yield list(figure.subplots(1, pictures, squeeze=False)[0])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    storage.write_atomic(path, lambda file: file.write(buffer.getbuffer()))


@contextmanager
def picture(
    what: str, height: float = 2.4, width: float = WIDTH, panels: Sequence[float] = (1.0,)
) -> Iterator[Picture]:
    """Yields a figure of `height` and `width` inches; `what` is its description for screen readers.

    `panels`: relative heights of axes below one another, which share the horizontal axis.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE), language.drawn() as messages:
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(len(panels), sharex=len(panels) > 1, squeeze=False, height_ratios=panels)
        chart = Picture(list(axes[:, 0]))
        yield chart
        file = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the page's fonts draw the text, not the one measured here
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    chart.svg = _embedded(file.getvalue(), what, messages)


def _embedded(text: str, what: str, messages: dict[str, Message]) -> str:
    """Returns SVG to embed in a page: without header and size, with unique ids and the page's colours, and with
    messages in every language, of which the page shows one."""
    text = text[text.index("<svg") :]
    stamp = f"g{abs(hash_of(text)):x}"
    text = re.sub(r'\bid="([^"]+)"', rf'id="{stamp}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{stamp}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{stamp}-\1)", text)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    text = re.sub(r"font-family: [^;]*; ", "", text)  # the page sets the font
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # A hundredth of a point is invisible; text between tags is unchanged.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag.group()), text)
    head = re.match(r"<svg[^>]*>", text).group()
    box = re.search(r'viewBox="[^"]*"', head).group()
    size = f'style="--points: {box.split()[2]}"'  # from which the page computes the size
    for english, message in messages.items():
        text = _with_translation(text, english, message)
    label = language.attribute(what, "aria-label")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} {box} {size} role="img" {label}>' + text[len(head) :].strip()


def _with_translation(text: str, english: str, message: Message) -> str:
    """Returns SVG with the translation of a message beside its English lines; a text of SVG is one line."""
    shown = [message.in_language(code).splitlines() for code in language.LANGUAGES]
    if len({len(lines) for lines in shown}) > 1 or shown[0] == shown[1]:
        return text
    for line in zip(*shown, strict=True):
        spans = (
            f'<tspan lang="{code}">{escape(part, quote=False)}</tspan>'
            for code, part in zip(language.LANGUAGES, line, strict=True)
        )
        text = text.replace(f">{escape(line[0], quote=False)}</text>", f">{''.join(spans)}</text>")
    return text


def hash_of(text: str) -> int:
    """Returns a hash that is equal in every process, unlike Python's hash()."""
    import zlib

    return zlib.crc32(text.encode())


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], colour: int = 0, spread: Any = None) -> None:
    """Draws vertical bars with their names below."""
    places = np.arange(len(names))
    axes.bar(places, values, color=COLOURS[colour], width=0.72, yerr=spread, ecolor=INK)
    axes.set_xticks(places, names)
    axes.grid(visible=False, axis="x")


def parts_of(colour: str) -> tuple[float, ...]:
    """Returns red, green and blue of a colour, from 0 to 1."""
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def look(place: int) -> dict[str, Any]:
    """Returns colour and dashes of the line at a place of a legend; both tell lines apart."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)], "linewidth": 1.4}


def lines(axes: Axes, x: Sequence[float], series: dict[str, Sequence[float]]) -> None:
    for i, (name, values) in enumerate(series.items()):
        axes.plot(x, values, label=name, **look(i))
    if len(series) > 1:
        axes.legend()


def steps(axes: Axes, edges: np.ndarray, series: dict[str, np.ndarray]) -> None:
    """Draws histograms as outlines, to compare several."""
    for i, (name, counts) in enumerate(series.items()):
        axes.stairs(counts, edges, label=name, **look(i))
    if len(series) > 1:
        axes.legend()


def grouped(
    axes: Axes,
    names: Sequence[str],
    series: dict[str, Sequence[float]],
    spans: dict[str, Any] | None = None,
    horizontal: bool = False,
    first: int = 0,
) -> None:
    """Draws bars of several series (R,) beside one another at each of R names, with the legend.

    `spans`: lengths of the error bars of each series, (R,) or (2, R). `first`: place of the first series' colour.
    """
    width, places = 0.8 / max(len(series), 1), np.arange(len(names))
    for i, (name, values) in enumerate(series.items()):
        at, size = places + (i - (len(series) - 1) / 2) * width, width * 0.92
        about = {"color": COLOURS[(first + i) % len(COLOURS)], "label": name, "ecolor": INK}
        span = None if spans is None else spans[name]
        if horizontal:
            axes.barh(at, values, size, xerr=span, **about)
        else:
            axes.bar(at, values, size, yerr=span, **about)
    if horizontal:
        rows(axes, names)
    else:
        axes.set_xticks(places, names)
        axes.grid(visible=False, axis="x")
    axes.legend()


def heat(values: np.ndarray, names: Sequence[str], what: str, form: Callable[[float], str], axis: str) -> str:
    """Returns the SVG of a square of numbers on a background that is deeper for larger numbers; `axis` is what `names`
    are."""
    widest = max(map(len, names))
    size = 0.55 + 0.07 * widest + 0.28 * len(names)
    with picture(what, size + 0.2, max(size, 0.6 + 0.075 * len(what))) as chart:  # the title is the widest
        heat_table(chart.axes, values, names, names, form)
        chart.axes.set(title=what, xlabel=axis, ylabel=axis)
        if widest > 2:
            chart.axes.tick_params(axis="x", labelrotation=90)
    return chart.svg


def heat_table(
    axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], form: Callable[[float], str]
) -> None:
    """Draws numbers (R, C) on a background that is deeper for larger numbers; NaN is blank."""
    paint = np.zeros((*values.shape, 4))
    paint[..., :3] = parts_of(COLOURS[0])
    paint[..., 3] = DEEPEST * np.maximum(np.nan_to_num(values), 0) / max(np.nanmax(values, initial=0.0), 1e-12)
    axes.imshow(paint, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    for i, j in np.argwhere(np.isfinite(values)):
        axes.text(j, i, form(values[i, j]), ha="center", va="center", fontsize=7, in_layout=False)


def shades(
    axes: Axes, values: np.ndarray, rows: Sequence[str], limit: float, what: str, extent: Sequence[float] | None = None
) -> None:
    """Paints a matrix (R, C) without numbers, with a bar that explains the colours. `limit`: the deepest blue; where
    there are negative values -`limit` is the deepest orange, and where there are none the scale is that of square
    roots, to tell small values apart. NaN and 0 are blank. `rows` are the names of the rows, `what` is the name of the
    values. `extent` are the ends of the x axis where these are not numbers of columns."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm, to_rgb

    blue, orange = to_rgb(COLOURS[0]), to_rgb(COLOURS[1])
    is_signed = bool((np.nan_to_num(values) < 0).any())
    # Colours differ in opacity alone, so that nothing is the page's own colour, light or dark.
    ends = [(*orange, 1.0), (*orange, 0.0), (*blue, 0.0), (*blue, 1.0)] if is_signed else [(*blue, 0.0), (*blue, 1.0)]
    places = [0, 0.5, 0.5, 1] if is_signed else [0, 1]
    colours = LinearSegmentedColormap.from_list("shades", list(zip(places, ends, strict=True)))
    left, right = extent or (-0.5, values.shape[1] - 0.5)
    image = axes.imshow(
        values,
        cmap=colours,
        norm=Normalize(-limit, limit) if is_signed else PowerNorm(0.5, 0, limit),
        aspect="auto",
        interpolation="nearest",
        extent=(left, right, len(values) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, label=what)
    bar.solids.set_rasterized(True)  # hundreds of translucent strips would show their seams
    bar.outline.set_visible(False)


def forest(axes: Axes, names: Sequence[str], values: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Draws values with their intervals, all (R,), one below the other, and a line at zero. NaN ends are not drawn."""
    places = np.arange(len(names))
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.hlines(places, low, high, color=COLOURS[0], linewidth=1.4)
    axes.plot(values, places, "o", color=COLOURS[0], markersize=4)
    rows(axes, names)


def rows(axes: Axes, names: Sequence[str]) -> None:
    """Names the rows of a chart, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def plain_log(axis: Axis, shown: Callable[[float], float] = lambda value: value) -> None:
    """Makes an axis logarithmic with plain numbers (0.02, not a power of ten), mapped by `shown`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    powers = LogLocator(subs=(1.0,) if high > 200 * low else (1.0, 2.0, 5.0))
    axis.set_major_locator(MaxNLocator(5) if high < NARROW * low else powers)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{shown(value):,.10g}"))
    axis.set_minor_formatter(NullFormatter())
