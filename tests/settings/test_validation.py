"""Settings that check themselves: what is wrong with a value is one line in words."""

import pickle
import re
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import pytest
from pydantic import Field

from tcaf.errors import TCAFError
from tcaf.settings.validation import (
    Count,
    Fraction,
    NotNegative,
    Positive,
    check_values,
    choices_of,
    range_of,
    settings,
    type_name,
)

Shade = Literal["light", "dark"]


@settings("here")
class Paint:
    coats: Count = 2
    weight: Positive = 0.5
    rest: NotNegative = 0.0
    share: Fraction = 0.1
    shade: Shade = "light"
    name: str = ""
    gloss: bool = False
    dry_s: Positive | None = None
    layers: Annotated[tuple[str, ...], Field(strict=False)] = ("base",)

    def __post_init__(self):
        if self.gloss and self.shade == "dark":
            raise TCAFError("here: dark paint has no gloss")


@pytest.mark.parametrize(
    "values",
    [
        {"coats": 1},
        {"weight": 3},
        {"dry_s": None},
        {"dry_s": 2},
        {"shade": "dark"},
        {"layers": ["a", "b"]},
        {"share": 0.0},
    ],
)
def test_what_is_allowed(values):
    made = asdict(Paint(**values))
    assert made == {**asdict(Paint()), **values, "layers": tuple(values.get("layers", ("base",)))}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coats": 0.5}, "here.coats: expected int, got 0.5"),
        ({"coats": True}, "here.coats: expected int, got True"),
        ({"coats": "3"}, "here.coats: expected int, got '3'"),
        ({"coats": 0}, "here.coats must be at least 1, got 0"),
        ({"weight": False}, "here.weight: expected float, got False"),
        ({"weight": [3]}, "here.weight: expected float, got [3]"),
        ({"weight": 0.0}, "here.weight must be above 0, got 0.0"),
        ({"weight": float("inf")}, "here.weight must be above 0, got inf"),
        ({"rest": -1}, "here.rest must be at least 0, got -1"),
        ({"share": 1.0}, "here.share must be at least 0 and below 1, got 1.0"),
        ({"name": 3}, "here.name: expected str, got 3"),
        ({"gloss": 1}, "here.gloss: expected bool, got 1"),
        ({"dry_s": "3"}, "here.dry_s: expected float | None, got '3'"),
        ({"dry_s": 0.0}, "here.dry_s must be above 0 seconds, got 0.0"),
        ({"layers": "base"}, "here.layers: expected list, got 'base'"),
        (
            {"shade": "drak"},
            "here.shade: expected one of 'light', 'dark', got 'drak'; did you mean 'dark'?",
        ),
        ({"shade": 3}, "here.shade: expected one of 'light', 'dark', got 3"),
        ({"coat": 3}, "there is no setting here.coat; did you mean 'coats'?"),
        ({"shade": "dark", "gloss": True}, "here: dark paint has no gloss"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(TCAFError, match=f"^{re.escape(message)}$"):
        Paint(**values)


def test_a_changed_copy_is_checked_too():
    with pytest.raises(TCAFError, match="at least 1"):
        replace(Paint(), coats=0)
    assert pickle.loads(pickle.dumps(Paint(coats=5))) == Paint(coats=5)


@dataclass(frozen=True, kw_only=True)
class Plain(Paint):
    """As a file of a user's would have it: checked by nobody."""

    alpha: float = 0.5
    beta: Annotated[float, Field(ge=-1, le=1)] = 0.0


def test_values_for_a_class_that_does_not_check_itself():
    check_values(Plain, {"alpha": 0.001, "beta": -1.0, "coats": 3}, "options")
    check_values(Plain, {"alpha": -7.5}, "options")  # its own annotation sets no range
    for values, message in (
        ({"alpha": "x"}, "options.alpha: expected float, got 'x'"),
        ({"beta": 2.0}, "options.beta must be at least -1 and at most 1, got 2.0"),
        ({"coats": 0}, "options.coats must be at least 1, got 0"),
        ({"gamma": 0}, "there is no setting options.gamma"),
    ):
        with pytest.raises(TCAFError, match=f"^{re.escape(message)}"):
            check_values(Plain, values, "options")
    assert Plain(alpha="x").alpha == "x"


def test_words_for_annotations():
    assert range_of(Fraction) == "at least 0 and below 1"
    assert range_of(Positive | None) == "above 0"
    assert range_of(str) == ""
    assert choices_of(Shade) == ("light", "dark")
    assert choices_of(Count) == ()
    names = [type_name(hint) for hint in (Count, Positive | None, bool, tuple[str, ...])]
    assert names == ["int", "float | None", "bool", "list"]
