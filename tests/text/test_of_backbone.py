import numpy as np
import pytest

import write_aligned
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.settings.sections import TextSettings
from tcaf.text.class_text import embed_classes, embed_in_spaces
from tcaf.text.of_backbone import resolved

SPEC = FeatureSpec(
    1, 13, 1.0, 0.64, "none", "hf:/models/a, b@home,frames=4,seconds=2,weights=5d1c0f3a9b77"
)


def of(modality, **more):
    return TextSettings(source="backbone", modality=modality, **more)


def test_the_model_is_that_of_the_features():
    found = resolved(of("visual", prompts="actions"), SPEC)
    assert found == TextSettings(
        source="hf", path="/models/a, b@home", modality="visual", prompts="actions"
    )
    spec = FeatureSpec(1, 1, 1.0, 1.0, "hf:org/m@refs/pr/4", "st:org/m@v1,weights=12")
    assert resolved(of("audio"), spec).path == "org/m@refs/pr/4"
    found = resolved(of("visual"), spec)
    assert (found.source, found.path, found.modality) == ("st", "org/m@v1", "")


def test_what_is_resolved_stays_so():
    for settings in (of("visual"), of("audio"), TextSettings(source="sentence")):
        once = resolved(settings, SPEC)
        assert resolved(once, SPEC) == once


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (of(""), r"^the source backbone needs text\.modality: visual or audio$"),
        (of("visual", path="x"), r"^text\.path 'x' is not read by the source backbone"),
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
    spec = FeatureSpec(1, 13, None, 0.64, "none", f"hf:{folder},weights=12")
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
