"""Exported graphs answer as the Python model does, on clips of any number and length."""

import io

import numpy as np
import pytest
import torch

from tcaf import ZeroShotClassifier
from tcaf.errors import TCAFError
from tcaf.export import graphs
from tcaf.export.portable import PortableText
from tcaf.systems.registry import SYSTEMS
from write_trained import answered, clips, padded, portable_of, write_trained

LENS = [
    [(5, 7)],
    [(1, 1)],
    [(12, 3), (3, 19), (0, 4), (6, 0)],
    [(0, 9)] * 3,
    [(40, 60), (1, 2)],
    [(9, 8)] * 7,
]
VARIANTS = [
    *((name, {}) for name in SYSTEMS),
    ("textlda", {"time": "on", "spread": "on", "num_random": 13}),
    ("textlda", {"missing": "audio"}),
    ("tcaf", {"anchor": 1.7}),
]


def check(classifier, run, run_text):
    """Compares what functions of feeds return with the Python model."""
    trained = classifier.trained
    classes = run_text({space: matrix.numpy() for space, matrix in trained.class_text.items()})
    np.testing.assert_allclose(classes, classifier.class_embedding.numpy(), atol=1e-5)
    portable = portable_of(classifier)
    seen = np.array([name in trained.classes.seen for name in trained.classes.names])
    for number, lens in enumerate(LENS):
        videos = clips(lens, seed=number)
        feeds = {name: each.numpy() for name, each in padded(videos, portable).items()}
        # One class, some, each of them twice: their number is open too.
        for columns in (slice(0, 1), slice(None), np.tile(np.arange(5), 2)):
            distances, chances = run(feeds, classes[columns], seen[columns])
            wanted, wanted_chances = answered(classifier, videos)
            np.testing.assert_allclose(distances, wanted[:, columns], atol=1e-4)
            assert chances.sum(axis=1) == pytest.approx(1, abs=1e-4)
            if len(classes[columns]) == len(classes):
                np.testing.assert_allclose(chances, wanted_chances, atol=1e-4)


def exported(classifier, kind):
    model = portable_of(classifier).eval()
    text = PortableText(classifier.model, classifier.class_text.dims).eval()
    size = classifier.class_embedding.shape[1]
    return graphs.model_graph(model, size, kind), graphs.text_graph(text, kind)


def by_onnxruntime(files):
    import onnxruntime

    model, text = (onnxruntime.InferenceSession(content) for content in files)

    def run(feeds, classes, seen):
        return model.run(None, {**feeds, "class_embedding": classes, "seen": seen})

    return run, lambda feeds: text.run(None, feeds)[0]


def by_torch(files):
    model, text = (torch.export.load(io.BytesIO(content)).module() for content in files)

    def tensors(feeds):
        return {name: torch.from_numpy(each) for name, each in feeds.items()}

    def run(feeds, classes, seen):
        found = model(
            clips=tensors(feeds),
            class_embedding=torch.from_numpy(classes),
            seen=torch.from_numpy(seen),
        )
        return [each.numpy() for each in found]

    return run, lambda feeds: text(text=tensors(feeds)).numpy()


RUNNERS = {"onnx": by_onnxruntime, "pt2": by_torch}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(RUNNERS))
@pytest.mark.parametrize(("system", "options"), VARIANTS)
def test_every_system_answers_as_in_python(system, options, kind, tiny_experiment):
    classifier = ZeroShotClassifier(write_trained(system, tiny_experiment(), **options))
    check(classifier, *RUNNERS[kind](exported(classifier, kind)))


@pytest.mark.slow
def test_one_system_answers_as_in_python(tiny_experiment):
    classifier = ZeroShotClassifier(write_trained("aligned", tiny_experiment()))
    check(classifier, *by_torch(exported(classifier, "pt2")))


def test_without_the_extra_there_is_one_line(monkeypatch, tiny_experiment):
    classifier = ZeroShotClassifier(write_trained("aligned", tiny_experiment()))
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(TCAFError, match=r"onnxscript is not installed; pip install 'tcaf\[export"):
        exported(classifier, "onnx")


def test_what_cannot_be_traced_is_said_in_one_line(tiny_experiment):
    class Numbers(PortableText):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.dims = {"text": 3}

        def forward(self, text):
            return text["text"] * float(text["text"].sum().item() > 0)

    module = Numbers()
    with pytest.raises(TCAFError, match="torch cannot trace this model: ") as caught:
        graphs.text_graph(module, "pt2")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_size_that_is_taken_for_a_constant_is_found():
    """Torch writes such a graph without a word."""

    class Fixed(PortableText):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.dims = {"text": 3}

        def forward(self, text):
            return text["text"] * int(text["text"].shape[0])

    module = Fixed()
    with pytest.raises(TCAFError, match="cannot leave the size of text open along axis 0"):
        graphs.text_graph(module, "onnx")
