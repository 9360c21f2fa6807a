"""The padded form of every system is its packed form: distances, and probabilities."""

from dataclasses import replace

import pytest
import torch

from tcaf import ZeroShotClassifier
from tcaf.errors import TCAFError
from tcaf.export.portable import PortableText
from tcaf.systems.registry import SYSTEMS
from write_trained import answered, clips, padded, portable_of, write_trained

LENS = [(5, 7), (1, 1), (12, 3), (3, 19), (8, 8), (2, 11)]
LACKING = [(0, 4), (6, 0), (0, 1), (9, 13)]
VARIANTS = [
    *((name, {}, {}) for name in SYSTEMS),
    ("tcaf", {"model": {"attention": "self"}}, {}),
    ("tcaf", {"model": {"attention": "full", "num_layers": 2}}, {}),
    ("tcaf", {"model": {"class_token": False}, "fidelity": {"layer_norm": "shared"}}, {}),
    ("tcaf", {"model": {"modalities": "visual"}}, {}),
    ("tcaf", {"fidelity": {"visual_scaling": "l2_over_time", "evaluation_times": "index"}}, {}),
    ("tcaf", {"evaluation": {"window_s": 3.1}}, {}),
    ("tcaf", {"evaluation": {"window_s": 3.1}, "model": {"modalities": "audio"}}, {}),
    ("tcaf", {"evaluation": {"window_s": 4.0}, "fidelity": {"window_times": "restart"}}, {}),
    ("tcaf", {"evaluation": {"window_s": 4.0}, "fidelity": {"audio_window": "release"}}, {}),
    ("tcaf", {"data": {"average": True}}, {}),
    ("tcaf", {}, {"anchor": 1.7}),
    ("perceiver", {"model": {"num_layers": 2}}, {"num_latents": 3}),
    ("ridge", {}, {"anchor": 0.6}),
    ("ridge", {}, {"missing": "audio"}),
    ("textlda", {}, {"time": "on", "spread": "on", "num_random": 13}),
    ("textlda", {"evaluation": {"window_s": 4.1}}, {"time": "on", "num_random": 13}),
    ("textlda", {}, {"spread": "on", "time": "off"}),
    ("textlda", {}, {"missing": "visual"}),
    ("aligned", {}, {"visual_weight": 1.0, "visual_scale": 3.0}),
]


@pytest.mark.parametrize(("system", "settings", "options"), VARIANTS)
def test_padded_is_packed(system, settings, options, tiny_experiment):
    trained = write_trained(system, tiny_experiment(**settings), **options)
    classifier = ZeroShotClassifier(trained)
    lens = LENS
    if set(classifier.modalities) == {"audio", "visual"}:
        lens = LENS + LACKING
    videos = clips(lens)
    portable = portable_of(classifier)
    text = PortableText(classifier.model, trained.class_text.dims)
    with torch.inference_mode():
        classes = text(dict(trained.class_text))
        torch.testing.assert_close(classes, classifier._class_embedding)
        seen = torch.tensor([name in trained.classes.seen for name in trained.classes.names])
        distances, chances = portable(padded(videos, portable), classes, seen)
    wanted, wanted_chances = answered(classifier, videos)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(distances, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chances.double(), wanted_chances, atol=1e-5, rtol=1e-5)


def test_without_a_temperature_there_are_no_probabilities(tiny_experiment):
    trained = replace(write_trained("ridge", tiny_experiment()), temperature=None)
    portable = portable_of(ZeroShotClassifier(trained))
    assert portable.outputs == ("distances",)
    classes, seen = torch.ones(3, 11), torch.zeros(3, dtype=torch.bool)
    assert len(portable(padded(clips(LENS), portable), classes, seen)) == 1


def test_a_clip_of_nothing_gets_no_answer(tiny_experiment):
    """The packed way refuses it, which a graph cannot."""
    classifier = ZeroShotClassifier(write_trained("tcaf", tiny_experiment()))
    portable = portable_of(classifier)
    seen = torch.zeros(5, dtype=torch.bool)
    videos = clips([(0, 0), (2, 3)])
    distances, chances = portable(padded(videos, portable), classifier._class_embedding, seen)
    assert distances[0].isnan().all()
    assert chances[0].isnan().all()
    assert distances[1].isfinite().all()


def test_a_system_of_ones_own_is_refused(tiny_experiment):
    from tcaf.systems.tcaf import TCAF

    class Mine(TCAF):
        pass

    classifier = ZeroShotClassifier(write_trained("tcaf", tiny_experiment()))
    classifier.model.__class__ = Mine
    with pytest.raises(TCAFError, match=r"system 'tcaf' cannot be exported.* none of Mine"):
        portable_of(classifier)
