import numpy as np
import pytest

import write_aligned
from hub_server import COMMIT
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.pretrained.fetch import weights_mark
from tcaf.pretrained.model_folder import model_files
from tcaf.settings.sections import TextSettings
from tcaf.text.class_text import embed_classes, embed_in_spaces, open_text_source, text_origin
from tcaf.text.of_backbone import resolved

SPEC = FeatureSpec(
    1, 13, 1.0, 0.64, "none", "hf:/models/a, b@home,frames=4,seconds=2,weights=5d1c0f3a9b77"
)


def mark(folder):
    return weights_mark(folder, None, model_files(folder))


def of(modality, **more):
    return TextSettings(source="backbone", modality=modality, **more)


def test_the_model_is_that_of_the_features():
    found = resolved(of("visual", prompts="actions"), SPEC)
    assert found == TextSettings(
        source="hf",
        path="/models/a, b@home,weights=5d1c0f3a9b77",
        modality="visual",
        prompts="actions",
    )
    spec = FeatureSpec(1, 1, 1.0, 1.0, "hf:org/m@refs/pr/4", "st:org/m@v1,weights=1f")
    assert resolved(of("audio"), spec).path == "org/m@refs/pr/4"
    found = resolved(of("visual"), spec)
    assert (found.source, found.path, found.modality) == ("st", "org/m@v1,weights=1f", "")
    # A commit says as much, and a folder in its place does not.
    spec = FeatureSpec(1, 1, 1.0, 1.0, "none", f"st:org/m@{COMMIT},weights=1f")
    assert resolved(of("visual"), spec).path == f"org/m@{COMMIT}"
    assert resolved(of("visual", path="here"), spec).path == "here,weights=1f"


def test_the_text_is_of_the_weights_that_made_the_features(tmp_path):
    folders = [write_aligned.write_clip(tmp_path / str(seed), seed)[1] for seed in (0, 1)]
    of_first = FeatureSpec(1, 13, None, 0.64, "none", f"hf:{folders[0]},weights={mark(folders[0])}")
    moved = folders[0].rename(tmp_path / "moved")
    folders[1].rename(folders[0])  # the name stands for other weights now
    other = rf"^the features are of a model with the weights {mark(moved)}, and .*; set text\.path"
    with pytest.raises(TCAFError, match=other):
        open_text_source(resolved(of("visual"), of_first))
    with pytest.raises(TCAFError, match=other):
        text_origin(resolved(of("visual"), of_first))
    found = open_text_source(resolved(of("visual", path=str(moved)), of_first))
    direct = open_text_source(TextSettings(source="hf", path=str(moved)))
    np.testing.assert_array_equal(found.embed(["red cat"]), direct.embed(["red cat"]))


def test_what_is_resolved_stays_so():
    for settings in (of("visual"), of("audio"), TextSettings(source="sentence")):
        once = resolved(settings, SPEC)
        assert resolved(once, SPEC) == once


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (of(""), r"^the source backbone needs text\.modality: visual or audio$"),
        (of("audio", path="x"), r"^text\.path 'x' is not read by the source backbone"),
    ],
)
def test_settings_that_name_no_model_are_refused(settings, message):
    with pytest.raises(TCAFError, match=message):
        resolved(settings, SPEC)
    other = FeatureSpec(1, 1, 1.0, 1.0, "vggish", "clip:weights=5d1c0f3a9b77")
    for modality in ("audio", "visual"):
        with pytest.raises(TCAFError, match=rf"^the {modality} features are of .*which embeds"):
            resolved(of(modality), other)


def test_a_store_of_pictures_alone_has_text_of_both(tmp_path):
    _, folder = write_aligned.write_clip(tmp_path / "clip")
    spec = FeatureSpec(1, 13, None, 0.64, "none", f"hf:{folder},weights={mark(folder)}")
    with new_store(tmp_path / "store", spec) as writer:
        empty = np.empty((0, 1), np.float32)
        writer.add(VideoFeatures("clip", empty, np.ones((2, 13)), "red cat"))
    store = FeatureStore.open(tmp_path / "store")
    spaces = {m: of(m, prompts="general") for m in ("visual", "audio")}
    text = embed_in_spaces(spaces, ["red cat", "dog"], store)
    assert text.dims == {"visual": 13, "audio": 1}
    np.testing.assert_array_equal(text["audio"], [[1], [1]])
    direct = TextSettings(source="hf", path=str(folder), prompts="general")
    expected = embed_classes(direct, ["red cat", "dog"])
    np.testing.assert_allclose(text["visual"], expected, atol=1e-6)
    # A modality that no model of text made can be left out by hand.
    nothing = TextSettings(source="none")
    np.testing.assert_array_equal(embed_classes(nothing, ["a", "b"], store), [[1], [1]])
    with pytest.raises(TCAFError, match=r"^text\.path 'x' is not read by the source none"):
        embed_classes(TextSettings(source="none", path="x"), ["a"])
    # What was embedded is kept with the store.
    assert len(store.text_names) == 1
    assert store.given_text_names == []
