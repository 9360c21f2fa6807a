"""`docs/odd-inputs.md`: its lists are those of the code, its patterns and commands work."""

import re
import shlex
from pathlib import Path

from tcaf.commands import entry as cli
from tcaf.sources.labels import PART_COLUMNS, USES, group_finder
from tcaf.sources.media_files import SUFFIXES
from tcaf.sources.partition import PART_OF_USE, PARTS_OF

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "odd-inputs.md").read_text(encoding="utf-8")
ROWS = [[c.strip() for c in r.strip("|").split("|")] for r in TEXT.splitlines() if r[:1] == "|"]


def test_suffixes():
    (listed,) = re.findall(r"Media files end in (.*?), in any", TEXT, re.DOTALL)
    words = re.findall(r"\b[a-z0-9]+\b", re.sub("or, for sound alone", "", listed))
    assert sorted(f".{word}" for word in words) == sorted(SUFFIXES)


def test_words_of_uses():
    told = {row[0]: tuple(row[1].split()) for row in ROWS if row[0] in USES}
    assert told == USES


def test_columns():
    (row,) = [row for row in ROWS if row[0].startswith("a column `part`")]
    assert tuple(re.findall(r"`(\w+)`", row[0])) == PART_COLUMNS


def test_what_uses_mean():
    told = {row[1].strip("`"): row[2:] for row in ROWS if row[1].strip("`") in PART_OF_USE}
    assert set(told) == set(PART_OF_USE)
    for subset, cells in told.items():
        for use, cell in zip(USES, cells, strict=True):
            # With clips for training a class is one of training, unless it was drawn or named.
            assert cell in ("-", f"`{PART_OF_USE[subset][use]}`")
    assert list(PARTS_OF["train"].values()) == [0.7, 0.15, 0.15]


def test_patterns():
    number, youtube = (group_finder(p) for p in re.findall(r"`--group '(.*?)'`", TEXT))
    assert number("PlayingGuitar/v_PlayingGuitar_g07_c02.avi") == "07"
    assert youtube("dog/vggsound_-1pRmoJIGQc_000010.mp4") == "-1pRmoJIGQc"
    assert group_finder()("v_PlayingGuitar_g01_c02.avi") == "PlayingGuitar_g01"


def test_commands():
    for line in re.findall(r"`tcaf ([^`]* -- [^`]*)`", TEXT):
        _, bound = cli.parse(shlex.split(line))
        assert bound.arguments["clips"] == ["-0abc.mp4"]


def test_it_can_be_found():
    assert "(odd-inputs.md)" in (DOCS / "your-own-videos.md").read_text(encoding="utf-8")
