"""Anchored distances: by hand, and one and the same in validation, test, files and answers."""

from dataclasses import dataclass, replace
from shutil import copytree

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tcaf import ZeroShotClassifier
from tcaf.data.batches import FeatureBatch, load_batch
from tcaf.data.packed import Packed
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.experiments.layers import Layer, resolve
from tcaf.settings.sections import TextSettings
from tcaf.systems.anchored import Anchored
from tcaf.systems.interface import ClassEmbeddings, FeatureConfig
from tcaf.systems.reads import read_changes
from tcaf.systems.registry import SYSTEMS
from tcaf.text.spaces import ClassText
from tcaf.training.evaluate import evaluate_run
from tcaf.training.model_file import load_model
from tcaf.training.run import Run, train
from write_aligned_text import keep_aligned_text

TEXT = ClassText(
    {
        "text": torch.tensor([[4.0], [9.0]]),
        "visual": torch.tensor([[0.0, 2.0], [3.0, 4.0]]),
        "audio": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 5.0]]),
    }
)


@dataclass(frozen=True)
class Output:
    video_embedding: torch.Tensor


class Ruler:
    """A model that measures a clip's first visual number against a class's only one."""

    config = FeatureConfig(audio_dim=3, visual_dim=2)
    modalities = ("audio", "visual")

    def __call__(self, batch):
        return Output(batch.visual.mean()[:, :1])

    def embed_text(self, text_embedding):
        assert isinstance(text_embedding, torch.Tensor), "of its own space alone"
        return ClassEmbeddings(text_embedding)

    def scores(self, batch, class_embedding):
        return (self(batch).video_embedding - class_embedding.T).abs()

    def eval(self):
        return self

    def to(self, device):
        return self


def two_clips():
    """The first has both modalities, two visual tokens of mean (6, 8); the second no sound."""
    visual = torch.tensor([[5.0, 8.0], [7.0, 8.0], [2.0, 0.0]])
    return FeatureBatch(
        Packed(torch.tensor([[0.0, 3.0, 4.0]]), torch.tensor([1, 0]), torch.zeros(1)),
        Packed(visual, torch.tensor([2, 1]), torch.zeros(3)),
    )


def test_by_hand():
    """Cosines of the first clip: visual (.6, .8) with (0, 1) and (.6, .8): .8 and 1; audio
    (0, .6, .8) with (1, 0, 0) and (0, 0, 1): 0 and .8. Halves: .4 and .9. Of the second, visual
    (1, 0) alone: 0 and .6. The ruler's distances are |6 - 4|, |6 - 9|, |2 - 4|, |2 - 9|.
    """
    model = Anchored(Ruler(), ("text",), 3.0, TEXT.dims)
    classes = model.embed_text(TEXT).class_embedding
    own, raw = model.parts(two_clips(), classes)
    torch.testing.assert_close(own, torch.tensor([[2.0, 3.0], [2.0, 7.0]]))
    torch.testing.assert_close(raw, torch.tensor([[0.6, 0.1], [1.0, 0.4]]))
    expected = torch.tensor([[(2 + 1.8) / 2, (3 + 0.3) / 2], [(2 + 3) / 2, (7 + 1.2) / 2]])
    torch.testing.assert_close(model.scores(two_clips(), classes), expected)
    kept = model.reduced(two_clips())
    torch.testing.assert_close(model.scores(kept, classes), expected)


@pytest.fixture(scope="module")
def world(tiny_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anchored") / "store"
    copytree(tiny_store.path, folder)
    store = FeatureStore.open(folder)
    spaces = keep_aligned_text(store)
    return FeatureStore.open(folder), spaces


@pytest.fixture
def asked(world, tiny_experiment):
    def build(system, **changes):
        text = TextSettings(source="stored", name="attributes")
        made = tiny_experiment(evaluation={"anchored": True, "gamma_grid": "margins"})
        return replace(made, system=system, text=text, text_spaces=world[1], **changes)

    return build


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("tcaf", "textlda")]


@pytest.fixture(scope="module", params=["ridge", "clipclap", *SLOW])
def run(request, world, tiny_experiment, tmp_path_factory):
    """A run with anchors: of a system that descends, of fits, and of one that reads the spaces."""
    text = TextSettings(source="stored", name="attributes")
    made = tiny_experiment(evaluation={"anchored": True, "gamma_grid": "margins"})
    out = tmp_path_factory.mktemp("runs") / request.param
    options = {"num_random": 7} if request.param == "textlda" else {}
    spaces = {"text_spaces": world[1], "text": text, "options": options}
    train(replace(made, system=request.param, **spaces), world[0], out)
    return Run(out)


def test_one_distance_everywhere(run, world):
    """Trained, tested, read back from the file and answered with: the same to rounding."""
    store, _ = world
    trained = load_model(run.path)
    choice = run.result["choice"]
    assert trained.anchor == choice["validation"]["anchor"] > 0
    for part, name in (("test", "test"), ("val", "validation")):
        again = evaluate_run(run.path, store, part=part).result
        kept = run.result["test"] if part == "test" else choice["validation"]
        for score in ("seen", "unseen", "harmonic_mean", "zsl"):
            assert getattr(again, score) == pytest.approx(kept[score]), (name, score)
    rows = store.rows("cls", "test")[:7]
    answers = ZeroShotClassifier.load(run.path).classify_store(store, rows, top_k=12)
    system = SYSTEMS[trained.system]
    batch = load_batch(store, rows, system.windows(trained.settings, training=False))
    classes = trained.classes.names
    with torch.no_grad():
        own_text = trained.model.embed_text(trained.own_text.model_input).class_embedding
        own = trained.model.scores(batch, own_text).numpy()
    cosines = [
        (F.normalize(batch.modality(m).mean()) @ F.normalize(trained.class_text[m]).T).numpy()
        for m in ("visual", "audio")
    ]
    expected = (own + trained.anchor * (1 - np.mean(cosines, axis=0))) / 2
    for clip, ranking in enumerate(answers):
        for answer in ranking.answers:
            wanted = expected[clip, classes.index(answer.name)]
            assert answer.distance == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(TCAFError, match=r"has anchored distances, and clips are not answered"):
        evaluate_run(run.path, store, together=True)


def test_both_halves_have_one_mean_on_validation(run, world):
    store, _ = world
    trained = load_model(run.path / "stage_1.safetensors")
    rows = store.rows("cls", "val")
    windows = SYSTEMS[trained.system].windows(trained.settings, training=False)
    batch = load_batch(store, rows, windows)
    with torch.no_grad():
        classes = trained.answering.embed_text(trained.class_text).class_embedding
        own, raw = trained.answering.parts(batch, classes)
    assert own.mean().item() == pytest.approx(trained.anchor * raw.mean().item(), rel=1e-4)


def test_features_without_text_of_their_own(asked, world, tmp_path):
    store, spaces = world
    bare = replace(asked("ridge"), text_spaces={"visual": spaces["visual"]})
    message = r"text space 'audio': the audio features are of .*, which embeds no text"
    with pytest.raises(TCAFError, match=message):
        train(bare, store, tmp_path / "run")
    other = {**spaces, "audio": TextSettings(source="stored", name="attributes")}
    message = r"evaluation\.anchored: .* compares audio features with .* got sizes 5 and "
    with pytest.raises(TCAFError, match=message):
        train(replace(asked("ridge"), text_spaces=other), store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_space_that_nothing_reads():
    """Of a modality it is read where distances are anchored, and by systems that have it."""
    spaces = {"text_spaces": {"visual": {"source": "stored", "name": "v"}}}
    for system in ("ridge", "tcaf"):
        mine = Layer("mine.toml", {"system": system, **spaces}, by_hand=True)
        message = r"does not read 'text_spaces\.visual\..* or set evaluation\.anchored, which does"
        with pytest.raises(TCAFError, match=message):
            resolve([mine])
        made = resolve([mine, Layer("options", {"evaluation": {"anchored": True}}, by_hand=True)])
        assert read_changes(made)["text_spaces"] == spaces["text_spaces"]
        assert "text_spaces" not in resolve([replace(mine, by_hand=False)]).changes()
    assert resolve([Layer("mine.toml", {"system": "clipclap", **spaces}, by_hand=True)]).text_spaces


def test_a_run_that_is_over_is_known_again(run, world):
    made = run.experiment
    assert train(made, world[0], run.path, resume=True) == run.result
    other = replace(made, evaluation=replace(made.evaluation, anchored=False), text_spaces={})
    if made.system == "clipclap":  # which reads the spaces itself
        other = replace(other, text_spaces=made.text_spaces)
    with pytest.raises(TCAFError, match=r"it was started with .*anchored = True|text_spaces"):
        train(other, world[0], run.path, resume=True)
