"""The look of the page: the colours of the reports, the system's fonts, nothing from elsewhere.

Owns what Gradio is given as theme, style and script.
"""

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from tcaf.reports.theme import COLOURS

if TYPE_CHECKING:
    from gradio.themes import Base

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")


def css_variables() -> str:
    """Returns the colours as CSS variables: light, and dark where Gradio says so."""

    def block(selector: str, theme: Literal["light", "dark"]) -> str:
        lines = [f"--{name}: {getattr(colour, theme)};" for name, colour in COLOURS.items()]
        return f"{selector} {{ {' '.join(lines)} }}"

    return f"{block(':root', 'light')}\n{block('.dark', 'dark')}"


def css() -> str:
    """Returns the style of the page."""
    return f"{css_variables()}\n{_part('page.css')}"


def head(labels: dict[str, str]) -> str:
    """Returns what stands in the head of the page: its script.

    Args:
        labels: what parts are called for who does not see them, by selector.
    """
    # `</` would end the script.
    given = json.dumps(labels).replace("</", "<\\/")
    return f"<script>window.tcafLabels = {given};\n{_part('page.js')}</script>"


def _part(name: str) -> str:
    return files("tcaf.app").joinpath(name).read_text(encoding="utf-8")


def theme() -> "Base":
    """Returns Gradio's theme in our colours; its fonts are those that a machine has."""
    import gradio as gr

    def both(what: str, name: str) -> dict[str, str]:
        colour = COLOURS[name]
        return {what: colour.light, f"{what}_dark": colour.dark}

    found = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=FONTS,
        font_mono=MONO,
    )
    settings = {"input_border_width": "1px", "layout_gap": "12px"}
    for what, name in (
        ("body_background_fill", "paper"),
        ("body_text_color", "ink"),
        ("body_text_color_subdued", "muted"),
        ("background_fill_primary", "paper"),
        ("background_fill_secondary", "raised"),
        ("block_background_fill", "paper"),
        ("block_border_color", "grid"),
        ("block_label_background_fill", "paper"),
        ("block_label_text_color", "muted"),
        ("block_title_text_color", "ink"),
        ("block_info_text_color", "muted"),
        ("border_color_primary", "grid"),
        ("input_background_fill", "paper"),
        ("input_border_color", "muted"),
        ("input_placeholder_color", "muted"),
        ("link_text_color", "seen"),
        ("slider_color", "seen"),
        ("button_primary_background_fill", "seen"),
        ("button_primary_background_fill_hover", "ink"),
        ("button_primary_text_color", "paper"),
        ("button_primary_text_color_hover", "paper"),
        ("button_secondary_background_fill", "raised"),
        ("button_secondary_background_fill_hover", "grid"),
        ("button_secondary_text_color", "ink"),
        ("button_secondary_border_color", "grid"),
    ):
        settings |= both(what, name)
    return found.set(**settings)
