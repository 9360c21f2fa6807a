import numpy as np
import pytest

import write_aligned
from tcaf.errors import TCAFError
from tcaf.extract.backbones import VisualBackbone, open_backbone
from tcaf.pretrained.aligned_model import load_aligned
from tcaf.settings.sections import TextSettings
from tcaf.text.class_text import open_text_source
from tcaf.text.encoders import packaged_model
from write_aligned import random_windows


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_aligned.write_clip(tmp_path_factory.mktemp("clip") / "model")[1]


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    """A sentence-transformers model that encodes by a CLIP model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    path = tmp_path_factory.mktemp("st") / "model"
    SentenceTransformer(modules=[Transformer(str(clip))], device="cpu").save(str(path))
    return path


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_pictures_are_encoded_as_by_the_model_inside(folder, clip):
    backbone = open_backbone(f"st:{folder}", "visual")
    assert isinstance(backbone, VisualBackbone)
    windows = random_windows(2, 2)
    expected = unit(unit(load_aligned(clip).embed_frames(windows)).mean(axis=1))
    np.testing.assert_allclose(backbone.embed(windows), expected, atol=1e-5)
    assert (backbone.dim, backbone.step_s, backbone.window_frames) == (13, 0.64, 2)
    assert backbone.embed(windows[:0]).shape == (0, 13)
    assert open_backbone(backbone.name, "visual").name == backbone.name


def test_text_is_of_the_same_model(folder, clip):
    source = open_text_source(TextSettings(source="st", path=str(folder)))
    expected = load_aligned(clip).embed_text(["red cat"], "visual")
    np.testing.assert_allclose(unit(source.embed(["red cat"])), unit(expected), atol=1e-5)


def test_a_model_of_text_alone_is_refused():
    folder, _ = packaged_model()
    for modality, wanted in (("visual", "image or video"), ("audio", "audio")):
        with pytest.raises(TCAFError, match=rf"takes text; expected one that takes {wanted} \("):
            open_backbone(f"st:{folder}", modality)


def test_frames_are_of_pictures(folder):
    with pytest.raises(TCAFError, match=r"takes text, image; expected one that takes audio"):
        open_backbone(f"st:{folder}", "audio")
    with pytest.raises(TCAFError, match=r"^st: expected frames to be one of 1, 2, 4, 8, 16"):
        open_backbone(f"st:{folder},frames=3", "visual")
