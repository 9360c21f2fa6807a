"""Names of backbones, and what is said before any weights are looked for."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcaf.data.features import MODALITIES
from tcaf.errors import TCAFError
from tcaf.extract.backbones import (
    BACKBONES,
    AudioBackbone,
    BackboneInfo,
    VisualBackbone,
    canonical_name,
    frames_option,
    open_backbone,
    parse_name,
    register_backbone,
)
from tcaf.plugins import Registry
from tcaf.pretrained import fetch


def test_names_by_hand():
    assert parse_name("logmel") == ("logmel", {})
    assert parse_name("efficientnet_lite0:frames=4") == ("efficientnet_lite0", {"frames": "4"})
    assert parse_name("c3d:weights=5d1c0f3a9b77,colours=release") == (
        "c3d",
        {"weights": "5d1c0f3a9b77", "colours": "release"},
    )
    # Sorted, without what is the default anyway.
    told = {"weights": "random", "colours": "release"}
    assert canonical_name("c3d", told) == "c3d:colours=release,weights=random"
    assert canonical_name("c3d", {"colours": "paper"}) == "c3d"
    assert canonical_name("efficientnet_lite0", {"frames": "16"}) == "efficientnet_lite0"


@given(st.data())
def test_a_canonical_name_is_the_same_once_more(data):
    name = data.draw(st.sampled_from(sorted(BACKBONES)))
    known = [*BACKBONES[name].options, "weights"]
    values = st.text("abc019", min_size=1, max_size=5)
    options = data.draw(st.dictionaries(st.sampled_from(known), values))
    if BACKBONES[name].takes_model:
        options["model"] = data.draw(st.text("aw/@:,= .", min_size=1, max_size=9))
    again, told = parse_name(canonical_name(name, options))
    assert (again, told) == (name, options)
    assert canonical_name(again, told) == canonical_name(name, dict(reversed(options.items())))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vgish", "no backbone 'vgish'; there are vggish, logmel, .*; did you mean 'vggish'"),
        ("", "no backbone ''"),
        ("c3d:colour=paper", "got 'colour=paper'; did you mean 'colours'"),
        ("c3d:colours", "expected options such as colours=VALUE, .*; got 'colours'"),
        ("c3d:colours=", "got 'colours='"),
        ("c3d:colours=paper,colours=release", "each once, .*; got 'colours=release'"),
        ("c3d:weights=random,", "got ''"),
        ("logmel:frames=4", "of weights; got 'frames=4'"),
    ],
)
def test_names_that_are_none(text, told):
    with pytest.raises(TCAFError, match=told):
        parse_name(text)


@pytest.mark.slow
def test_what_is_opened_is_what_was_asked_for():
    opened = open_backbone("logmel", "audio")
    assert isinstance(opened, AudioBackbone)
    assert (opened.name, opened.dim, opened.step_s) == ("logmel", 128, 0.96)
    seen = open_backbone("c3d:weights=random,colours=release", "visual")
    assert isinstance(seen, VisualBackbone)
    assert (seen.name, seen.dim) == ("c3d:colours=release,weights=random", 4096)


def test_the_other_modality():
    with pytest.raises(TCAFError, match="'c3d' is visual; for audio there are vggish, logmel, hf"):
        open_backbone("c3d", "audio")
    with pytest.raises(TCAFError, match="'logmel' is audio; for visual there are c3d, "):
        open_backbone("logmel", "visual")


def test_random_weights_and_a_file_exclude_each_other():
    with pytest.raises(TCAFError, match=r"asks for random weights; leave out w\.pt"):
        open_backbone("c3d:weights=random", "visual", Path("w.pt"))


@pytest.mark.parametrize("name", [n for n, info in BACKBONES.items() if not info.takes_model])
def test_weights_of_ones_own_are_not_looked_for_elsewhere(name, monkeypatch):
    def refuse(*_):
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(fetch, "find_weights", refuse)
    modality = BACKBONES[name].modality
    text = f"{name}:weights=5d1c0f3a9b77"
    with pytest.raises(TCAFError) as caught:
        open_backbone(text, modality)
    told = f"{text!r} needs its own weights: give their path with --{modality}_weights"
    assert str(caught.value) == told


def test_the_table_names_modules_and_modalities():
    assert {info.modality for info in BACKBONES.values()} == {*MODALITIES, None}
    for name, info in BACKBONES.items():
        assert info.to_json()["open"].startswith("tcaf.extract."), name
        model = "org/model," if info.takes_model else ""
        assert all(parse_name(f"{name}:{model}{k}={value}") for k, value in info.options.items())


class Named:
    """An audio backbone in all but what is taken away."""

    dim, step_s, sample_rate, window_samples, hop_samples = 1, 0.5, 8, 4, 4

    def __init__(self, name):
        self.name = name

    def embed(self, windows):
        return windows[:, :1]


def info_of(opened, **more):
    return BackboneInfo("audio", opened, "1", 0.5, "none", "none needed", **more)


@pytest.fixture
def table(monkeypatch):
    """A table of one's own to register in."""
    copy = Registry("backbone", BACKBONES)
    monkeypatch.setattr("tcaf.extract.backbones.BACKBONES", copy)
    return copy


def test_a_registered_backbone_is_one_of_them(table):
    def opened(options, weights):
        return Named(canonical_name("mine", {"width": "3", **options}))

    register_backbone("mine", info_of(opened, options={"width": "3"}))
    assert parse_name("mine:width=5") == ("mine", {"width": "5"})
    assert open_backbone("mine", "audio").name == "mine"
    assert open_backbone("mine:width=5", "audio").name == "mine:width=5"
    with pytest.raises(TCAFError, match=r"got 'wide=5'; did you mean 'width'\?"):
        open_backbone("mine:wide=5", "audio")
    with pytest.raises(TCAFError, match="'mine' is audio"):
        open_backbone("mine", "visual")
    with pytest.raises(TCAFError, match=r"no backbone 'min'; .* logmel.*mine; did you mean 'mine'"):
        open_backbone("min", "audio")
    assert json.loads(json.dumps(table["mine"].to_json()))["open"] == __name__


def test_a_name_that_is_taken(table):
    with pytest.raises(TCAFError, match="there is a backbone 'vggish' already"):
        register_backbone("vggish", info_of(lambda *_: Named("vggish")))
    for name in ("", "a:b", "a,b", "a=b", "a b"):
        with pytest.raises(TCAFError, match="expected a name without"):
            register_backbone(name, info_of(lambda *_: Named("mine")))
    assert table == BACKBONES


def test_what_is_opened_must_be_a_backbone(table):
    register_backbone("mine", info_of(lambda *_: object()))
    with pytest.raises(TCAFError, match=r"'mine' opens has no .*sample_rate.*embed; see .*\.Audio"):
        open_backbone("mine", "audio")
    register_backbone("other", info_of(lambda *_: Named("yours")))
    with pytest.raises(TCAFError, match="'other' calls itself 'yours'; expected that name"):
        open_backbone("other", "audio")


def test_frames_are_read_in_one_place():
    assert frames_option("efficientnet_lite0", {}) == 16
    assert frames_option("efficientnet_lite0", {"frames": "8"}) == 8
    with pytest.raises(TCAFError, match=r"lite0: expected frames to be one of 1, 2, .*, got '3'"):
        frames_option("efficientnet_lite0", {"frames": "3"})
