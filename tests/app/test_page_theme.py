import re

from tcaf.app.page_theme import css, css_variables, head
from tcaf.reports.theme import COLOURS


def test_every_colour_has_both_themes():
    light, dark = css_variables().splitlines()
    assert light.startswith(":root {")
    assert dark.startswith(".dark {")
    for name, colour in COLOURS.items():
        assert f"--{name}: {colour.light};" in light
        assert f"--{name}: {colour.dark};" in dark


def test_style_and_script_load_nothing():
    for text in (css(), head({})):
        assert not re.search(r"https?:|@import|url\(", text)


def test_the_style_uses_colours_that_there_are():
    used = set(re.findall(r"var\(--([\w-]+)", css()))
    assert used - set(COLOURS) == set()


def test_no_label_ends_the_script():
    assert head({"a": "</script>"}).count("</script>") == 1
