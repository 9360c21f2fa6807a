import re
import sys
import xml.etree.ElementTree as ET
from itertools import combinations

import numpy as np
import pytest

from tcaf.errors import TCAFError
from tcaf.reports.theme import (
    _MARKS,
    COLOURS,
    HEAT,
    SERIES,
    _styled_once,
    css_variables,
    extra,
    heat,
    light,
    new_figure,
    on_heat,
    shortened,
    styled,
    to_svg,
)

matplotlib = pytest.importorskip("matplotlib")


def drawn(title="title"):
    with styled():
        figure = new_figure("narrow", 2.0)
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=SERIES[0])
        axis.scatter([0], [1], color="#123456")
        axis.imshow(heat(np.array([[0.5]])), interpolation="none")
        axis.set_title(title)
    return figure


def identifiers(svg):
    return set(re.findall(r' id="([^"]*)"', svg))


@pytest.mark.slow
def test_the_same_figure_gives_the_same_text():
    assert to_svg(drawn(), "a", "alt") == to_svg(drawn(), "a", "alt")


@pytest.mark.slow
def test_svgs_share_a_page():
    first, second = to_svg(drawn(), "a", "alt"), to_svg(drawn(), "b", "alt")
    assert identifiers(first)
    assert not identifiers(first) & identifiers(second)
    for svg in (first, second):
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
        assert used == identifiers(svg)
        # Rules of a style element would reach the whole page.
        assert "<style" not in svg


def test_colours_follow_the_page():
    svg = to_svg(drawn(), "a", "alt")
    assert f"stroke: var(--series-1, {SERIES[0]})" in svg
    assert f"fill: var(--ink, {light('ink')})" in svg
    # A colour of nobody's stays what it is; the figure's background is the page.
    assert "#123456" in svg
    assert f"fill: var(--paper, {light('paper')})" not in svg


def test_marks_of_one_look_say_it_once():
    with styled():
        figure = new_figure("narrow", 2.0)
        figure.subplots().scatter([0, 1, 1 / 3], [0, 1, 1 / 3], color=SERIES[0], alpha=0.5)
    root, svg = ET.fromstring(to_svg(figure, "a", "alt")), "{http://www.w3.org/2000/svg}"
    (group,) = (g for g in root.iter(f"{svg}g") if len(g.findall(f"{svg}use")) == 3)
    assert group.get("style").startswith(f"fill: var(--series-1, {SERIES[0]}); fill-opacity: 0.5")
    assert [use.get("style") for use in group] == [None] * 3
    # Places are written to a hundredth of a point.
    places = [use.get(axis) for use in group for axis in "xy"]
    assert all(re.fullmatch(r"\d+(\.\d{1,2})?", place) for place in places)


@pytest.mark.parametrize(
    "looks",
    [
        # Of two looks neither is the group's; and a group's opacity is that of all its marks at
        # once, where two that overlap are as light as one.
        ("fill: red", "fill: blue"),
        ("fill: red; opacity: 0.5", "fill: red; opacity: 0.5"),
    ],
)
def test_other_marks_keep_their_look(looks):
    marks = "".join(f'<use x="1" style="{look}"/>\n' for look in looks)
    group = f'<g clip-path="url(#a)">\n{marks}</g>'
    assert _MARKS.sub(_styled_once, group) == group
    assert (
        _MARKS.sub(_styled_once, group.replace("blue", "red").replace("opacity", "stroke")) != group
    )


def test_an_svg_names_no_other_place():
    svg = to_svg(drawn(), "a", "alt")
    links = set(re.findall(r'https?://[^"<\s]+', svg))
    assert links == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "matplotlib" not in svg


@pytest.mark.parametrize(
    "title",
    [
        "costs $5, then $6",
        '<script>alert("&")</script>',
        'style="fill: #1d2127" id="x" url(#y)',
        "--> <!-- ]]> </svg>",
        "演奏长笛 🎻",
    ],
)
def test_text_stays_what_it_was(title):
    svg = to_svg(drawn(title), "a", f"shows {title}")
    root = ET.fromstring(svg)
    assert title in {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert root.get("aria-label") == f"shows {title}"
    assert root.get("role") == "img"


def test_settings_are_what_they_were():
    before = dict(matplotlib.rcParams)
    to_svg(drawn(), "a", "alt")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_the_users_settings_change_nothing():
    expected = to_svg(drawn(), "a", "alt")
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "font.size": 30}):
        assert to_svg(drawn(), "a", "alt") == expected


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG 2's contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stand_out(theme):
    colours = {name: getattr(colour, theme) for name, colour in COLOURS.items()}
    for name in ("ink", "muted", "seen", "unseen"):
        for page in ("paper", "raised"):
            assert contrast(colours[name], colours[page]) >= 4.5, (name, page)
    for name, colour in colours.items():
        if name.startswith("series-"):
            assert contrast(colour, colours["paper"]) >= 3, name


EYES = {
    "all cones": np.eye(3),
    # Machado et al. (2009), severity 1, on linear light.
    "no green cones": np.array(
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    ),
    "no red cones": np.array(
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    ),
}


def lab(colour, eyes):
    """CIE L*a*b* (D65) of a colour as these eyes see it."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = to_xyz @ np.clip(EYES[eyes] @ linear, 0, 1) / (0.9505, 1, 1.089)
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", EYES)
def test_colours_differ_for_all_eyes(theme, eyes):
    colours = {name: lab(getattr(colour, theme), eyes) for name, colour in COLOURS.items()}
    series = [name for name in colours if name.startswith("series-")]
    for one, other in [*combinations(series, 2), ("seen", "unseen")]:
        # 2 is about the least that is noticed, side by side.
        assert np.linalg.norm(colours[one] - colours[other]) >= 15, (one, other)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.87, 0.88, 1.0])
def test_text_on_heat_is_readable(theme, share):
    colours = {c.light: getattr(c, theme) for c in COLOURS.values()}
    under = [int(colours[light("paper")][i : i + 2], 16) for i in (1, 3, 5)]
    over = [int(HEAT[i : i + 2], 16) for i in (1, 3, 5)]
    mixed = [round(share * o + (1 - share) * u) for o, u in zip(over, under, strict=True)]
    text = colours.get(on_heat(share), on_heat(share))
    assert contrast(text, "#{:02x}{:02x}{:02x}".format(*mixed)) >= 3.9


def test_heat_is_opacity():
    pixels = heat(np.array([[0.0, 0.25, 2.0]]))
    assert pixels[0, :, 3].tolist() == [0.0, 0.25, 1.0]
    assert len(np.unique(pixels[..., :3], axis=1)[0]) == 1


def test_both_themes_set_all_colours():
    style = css_variables()
    bright, dark = style.split("@media (prefers-color-scheme: dark)")
    for name, colour in COLOURS.items():
        assert f"--{name}: {colour.light};" in bright
        assert f"--{name}: {colour.dark};" in dark
    # `to_svg` finds a colour's name by its light value.
    assert len({colour.light for colour in COLOURS.values()}) == len(COLOURS)


def test_long_names_are_cut():
    assert shortened("archery", 7) == "archery"
    assert shortened("apply eye makeup", 8) == "appl…eup"
    assert shortened("apply eye makeup", 13) == "apply…makeup"
    assert shortened("two\nlines\x00", 20) == "two lines "


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TCAFError, match=r"extra 'plot': pip install 'tcaf\[plot\]'"):
        extra("matplotlib")
    with pytest.raises(TCAFError, match="extra 'plot'"), styled():
        pass
