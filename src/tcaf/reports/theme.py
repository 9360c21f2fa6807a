"""Colours in two themes, the style of figures, and figures as SVG for a page.

Owns the one way in to matplotlib (extra `plot`), which is imported inside functions. Figures are
drawn in the light theme's colours, so that one saved as PNG or PDF is right as it is; `to_svg`
turns each colour into a CSS variable that the page sets for light and for dark.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from tcaf.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure
else:
    Figure = Any  # matplotlib is an extra; shapes are checked without it

Width = Literal["wide", "narrow"]
"""A figure for a desktop's page, or for a phone's."""

WIDTHS: dict[Width, float] = {"wide": 9.0, "narrow": 4.5}
"""Inches. A point is about a CSS pixel on the page, in both."""


@dataclass(frozen=True)
class Colour:
    """One colour of figures and page, in both themes.

    Args:
        light: on a light page, as #rrggbb; figures are drawn with it.
        dark: on a dark page.
    """

    light: str
    dark: str


COLOURS: dict[str, Colour] = {
    "paper": Colour("#ffffff", "#15181c"),
    "raised": Colour("#f5f6f8", "#1d2126"),
    "grid": Colour("#dde1e6", "#323941"),
    "muted": Colour("#5a6370", "#a2abb7"),
    "ink": Colour("#1d2127", "#e6e9ed"),
    "seen": Colour("#2b6cb0", "#6cb0f0"),
    "unseen": Colour("#b04c06", "#f79a4b"),
    "series-1": Colour("#1f5fd0", "#4a7df5"),
    "series-2": Colour("#d57a14", "#d98a40"),
    "series-3": Colour("#12a06a", "#7af0ae"),
    "series-4": Colour("#6a1a62", "#c459a4"),
    "series-5": Colour("#55540e", "#f3ea5a"),
    "series-6": Colour("#2a98d6", "#4fc4f7"),
    "series-7": Colour("#7a1a2a", "#e04a68"),
    "series-8": Colour("#666a70", "#dfe3ee"),
}
"""The series' hues are about those of Okabe and Ito (2008); their lightness keeps any two apart for
colour-blind readers too, and each from the page. `seen` and `unseen` are blue and orange."""

SERIES: tuple[str, ...] = tuple(
    colour.light for name, colour in COLOURS.items() if name.startswith("series-")
)
HEAT = "#2472bd"
"""Full heat. Heat is this colour over the page, more opaque where there is more of it, so that a
map reads on either page."""

_NAMES = {colour.light: name for name, colour in COLOURS.items()}
_FONT = "font-family: inherit"


def light(name: str) -> str:
    """Returns the colour that figures are drawn with."""
    return COLOURS[name].light


def extra(module: str) -> ModuleType:
    """Imports a module of the extra `plot`.

    Raises:
        MissingExtraError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError("reports need the extra 'plot': pip install 'tcaf[plot]'") from None


def _settings() -> dict[str, Any]:
    ink, muted = light("ink"), light("muted")
    return {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.5,
        "text.color": ink,
        "text.parse_math": False,
        "axes.labelcolor": muted,
        "axes.edgecolor": muted,
        "axes.facecolor": light("paper"),
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "axes.linewidth": 0.7,
        "axes.grid": False,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": light("grid"),
        "grid.linewidth": 0.7,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "legend.title_fontsize": 9.5,
        "lines.linewidth": 1.7,
        "figure.facecolor": light("paper"),
        "svg.fonttype": "none",
        "svg.image_inline": True,
    }


@contextmanager
def styled(**settings: Any) -> Iterator[None]:
    """Runs the body with the style of figures; matplotlib's own settings are what they were after.

    Raises:
        TCAFError: matplotlib is not installed.
    """
    matplotlib = extra("matplotlib")
    defaults = {n: v for n, v in matplotlib.rcParamsDefault.items() if n != "backend"}
    with matplotlib.rc_context({**defaults, **_settings(), **settings}):
        yield


def new_figure(width: Width, height: float) -> Figure:
    """Returns an empty figure, `height` inches high; to be called inside `styled`."""
    figure = extra("matplotlib.figure").Figure(
        figsize=(WIDTHS[width], height), dpi=100, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    return figure


def heat(shares: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns 4"]:
    """Returns the pixels of a map: transparent at 0, full heat at 1 and beyond."""
    pixels = np.empty((*shares.shape, 4))
    pixels[..., :3] = [int(HEAT[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    pixels[..., 3] = np.clip(shares, 0, 1)
    return pixels


def on_heat(share: float) -> str:
    """Returns the colour of text on heat: ink, or near-white where the heat hides dark ink."""
    return "#fefefe" if share > 0.87 else light("ink")


def shortened(name: str, limit: int) -> str:
    """Returns a name on one line, with its middle left out where it is longer than `limit`.

    Names of one family often differ in their last words alone.
    """
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    if len(name) <= limit:
        return name
    end = (limit - 1) // 2
    return name[: limit - 1 - end].rstrip() + "…" + name[len(name) - end :].lstrip()


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """Returns a figure as an SVG element that follows the page's colours and font.

    The same figure gives the same text. Its identifiers begin with `name`, so that SVGs of
    different names share a page.

    Args:
        figure: drawn in the colours of `COLOURS`.
        name: letters, digits and hyphens.
        alt: what the figure shows, in words.
    """
    with styled(**{"svg.hashsalt": name}), warnings.catch_warnings():
        # Text stays text: the reader's fonts draw it, whatever matplotlib's have.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.S)
    # Some of matplotlib's identifiers follow from where objects lie in memory; numbers do not.
    referred = dict.fromkeys(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    used = {identifier: f"{name}-{number}" for number, identifier in enumerate(referred)}
    svg = re.sub(r"<[^>]+>", partial(_mend_tag, used=used), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = _MARKS.sub(_styled_once, svg)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None, "matplotlib writes a viewBox"
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{view[0]} role="img" aria-label="{escape(alt)}" '
        'style="font-family: var(--font, system-ui, sans-serif); '
        'stroke-linejoin: round; stroke-linecap: butt">'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: root, svg).strip()


_MARKS = re.compile(
    r'<g(?P<clip>[^>]*)>\n(?P<marks><use [^>]*? style="(?P<style>[^"]*)"/>\n'
    r'(?:<use [^>]*? style="(?P=style)"/>\n)+)</g>'
)
"""A group of marks of one look, such as the clips of a class in a map."""


def _styled_once(group: re.Match[str]) -> str:
    """Gives the look of equal marks to their group, which they inherit it from."""
    clip, marks, style = group["clip"], group["marks"], group["style"]
    if "style=" in clip or re.search(r"(^|\s)opacity:", style):
        return group[0]  # the opacity of a group is that of all its marks together
    bare = marks.replace(f' style="{style}"', "")
    return f'<g{clip} style="{style}">\n{bare}</g>'


def _mend_tag(match: re.Match[str], used: Mapping[str, str]) -> str:
    """Turns a tag's colours into variables, its font into the page's, its identifiers unique.

    Args:
        match: of the tag.
        used: new identifiers by those that something refers to; the others are dropped.
    """
    tag = match[0]
    tag = re.sub(r'style="([^"]*)"', lambda style: f'style="{_mend_style(style[1])}"', tag)
    tag = re.sub(r'(url\(#|href="#)([^")]+)', lambda ref: ref[1] + used[ref[2]], tag)
    # A hundredth of a point is nothing that anybody sees.
    tag = re.sub(r' (?:d|x|y)="[^"]*"', _rounded, tag)

    def identifier(found: re.Match[str]) -> str:
        return f' id="{used[found[1]]}"' if found[1] in used else ""

    return re.sub(r' id="([^"]*)"', identifier, tag)


def _rounded(place: re.Match[str]) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda number: str(round(float(number[0]), 2)), place[0])


def _mend_style(style: str) -> str:
    def variable(found: re.Match[str]) -> str:
        name = _NAMES.get(found[0])
        return f"var(--{name}, {found[0]})" if name else found[0]

    style = re.sub(r"font-family: [^;]*", _FONT, style)
    # matplotlib may write the whole font in one property, its families last.
    style = re.sub(r"font: ([^;]*?[0-9.]+px) [^;]*", rf"font: \1 sans-serif; {_FONT}", style)
    return re.sub(r"#[0-9a-f]{6}\b", variable, style)


def css_variables() -> str:
    """Returns the colours as CSS variables, for light pages and for dark ones."""

    def block(theme: Literal["light", "dark"]) -> str:
        lines = [f"--{name}: {getattr(colour, theme)};" for name, colour in COLOURS.items()]
        return ":root { " + " ".join(lines) + " }"

    return f"{block('light')}\n@media (prefers-color-scheme: dark) {{ {block('dark')} }}"
