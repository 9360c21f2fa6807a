import numpy as np
import pytest
import torch

from tcaf.data.batches import FeatureBatch
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import PARTS, Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.errors import TCAFError
from tcaf.settings.experiment import Experiment
from tcaf.systems.aligned import WEIGHTS, Aligned, AlignedConfig, num_choices
from tcaf.systems.interface import Reduces, ZeroShotModel
from tcaf.systems.registry import find_system
from tcaf.systems.stages import Chooses
from tcaf.text.spaces import ClassText
from tcaf.training.protocol import TwoStages
from tcaf.training.run import train

SPEC = FeatureSpec(3, 2, 1.0, 0.5, "hf:org/hears", "hf:org/sees")


def config(**settings):
    return AlignedConfig(audio_dim=3, visual_dim=2, text_dims={"visual": 2, "audio": 3}, **settings)


def rows(numbers, dim):
    return np.array(numbers, np.float32).reshape(-1, dim)


def batch(*clips):
    videos = [VideoFeatures(str(i), rows(a, 3), rows(v, 2)) for i, (a, v) in enumerate(clips)]
    return FeatureBatch.from_videos(videos, SPEC)


TEXT = ClassText(
    {
        "visual": torch.tensor([[2.0, 0.0], [0.0, 3.0]]),
        "audio": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.5, 0.0]]),
    }
)


def distances(model, clips):
    return model.scores(clips, model.embed_text(TEXT).class_embedding)


def test_distances_by_hand():
    model = Aligned(config(visual_weight=0.75)).eval()
    assert isinstance(model, ZeroShotModel)
    assert isinstance(model, Reduces)
    # Means (0, 2, 0) and (0.6, 0.8): cosines 0 and 1 for the sound, 0.6 and 0.8 for the picture.
    clips = batch(([[0, 1, 0], [0, 3, 0]], [[0.3, 0.4], [0.9, 1.2]]))
    found = distances(model, clips)
    expected = [0.75 * (1 - 0.6) + 0.25 * (1 - 0), 0.75 * (1 - 0.8) + 0.25 * (1 - 1)]
    np.testing.assert_allclose(found, [expected], atol=1e-6)
    np.testing.assert_allclose(distances(model, model.reduced(clips)), found)


def test_scales_multiply_cosines():
    model = Aligned(config(visual_weight=0.5, visual_scale=100.0, audio_scale=20.0))
    clips = batch(([[0, 1, 0]], [[0.6, 0.8]]))
    expected = [0.5 * 100 * 0.4 + 0.5 * 20 * 1, 0.5 * 100 * 0.2 + 0.5 * 20 * 0]
    np.testing.assert_allclose(distances(model, clips), [expected], atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_what_a_clip_lacks_counts_nothing(weight):
    model = Aligned(config(visual_weight=weight))
    heard, seen = ([[0, 1, 0]], []), ([], [[0.6, 0.8]])
    found = distances(model, batch(heard, seen))
    np.testing.assert_allclose(found, [[1, 0], [0.4, 0.2]], atol=1e-6)
    for row, clip in enumerate((heard, seen)):
        np.testing.assert_allclose(distances(model, batch(clip))[0], found[row], atol=1e-7)


def test_an_epoch_is_a_weight():
    model = Aligned(config())
    assert isinstance(model, Chooses)
    assert float(model.weight) == WEIGHTS[0]
    for epoch, weight in enumerate(WEIGHTS, start=1):
        model.choose(epoch)
        assert float(model.weight) == pytest.approx(weight)
    fixed = Aligned(config(visual_weight=0.3))
    fixed.choose(1)
    assert float(fixed.weight) == pytest.approx(0.3)
    assert num_choices(Experiment(system="aligned")) == len(WEIGHTS) == 11
    assert num_choices(Experiment(system="aligned", options={"visual_weight": 0.0})) == 1


def test_a_modality_that_no_clip_has_is_not_read():
    alone = AlignedConfig(audio_dim=1, visual_dim=2, text_dims={"visual": 2, "audio": 1})
    model = Aligned(alone)
    assert model.modalities == ("visual",)
    text = ClassText({"visual": TEXT["visual"], "audio": torch.ones(2, 1)})
    spec = FeatureSpec(1, 2, None, 0.5, "none", "hf:org/sees")
    video = VideoFeatures("a", np.empty((0, 1), np.float32), np.array([[0.6, 0.8]], np.float32))
    clips = FeatureBatch.from_videos([video], spec)
    found = model.scores(clips, model.embed_text(text).class_embedding)
    np.testing.assert_allclose(found, [[0.4, 0.2]], atol=1e-6)


def test_features_and_text_of_two_models_are_refused():
    for dims in ({"visual": 5, "audio": 3}, {"visual": 2, "audio": 7}):
        with pytest.raises(TCAFError, match=r"^aligned compares .* set the source of text_spac"):
            Aligned(AlignedConfig(audio_dim=3, visual_dim=2, text_dims=dims))
    with pytest.raises(TCAFError, match=r"^aligned reads pictures or sounds, and the features"):
        Aligned(AlignedConfig(audio_dim=1, visual_dim=1, text_dims={"visual": 1, "audio": 1}))
    model = Aligned(config())
    with pytest.raises(TCAFError, match=r"of size 2 in the space 'visual', got 3$"):
        model.embed_text({"visual": torch.ones(2, 3), "audio": torch.ones(2, 3)})
    with pytest.raises(
        TCAFError, match=r"visual_weight must be at least 0 and at most 1, got 1\.5"
    ):
        config(visual_weight=1.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Clips near the text of their class in the picture; of their sound only some are."""
    rng = np.random.default_rng(0)
    names = [f"class {letter}" for letter in "abcdefghij"]
    split = Split(tuple(names[:4]), tuple(names[4:7]), tuple(names[7:]))
    text = {
        space: {n: rng.normal(size=dim).astype(np.float32) for n in names}
        for space, dim in (("visual", 11), ("audio", 7))
    }
    path = tmp_path_factory.mktemp("aligned") / "store"
    with new_store(path, FeatureSpec(7, 11, 1.0, 0.5, "hears", "sees")) as writer:
        writer.splits["cls"] = split
        for space, vectors in text.items():
            writer.add_text(space, vectors)
        for number in range(300):
            part = PARTS[number % len(PARTS)]
            allowed = split.part_classes(part)
            name = allowed[number // len(PARTS) % len(allowed)]
            visual = text["visual"][name] + rng.normal(size=(3, 11))
            audio = text["audio"][name] * (number % 3 == 0) + 2 * rng.normal(size=(2, 7))
            writer.add(
                VideoFeatures(
                    f"clip {number}",
                    audio.astype(np.float32),
                    visual.astype(np.float32),
                    class_name=name,
                    part=part,
                )
            )
    return FeatureStore.open(path)


SPACES = {m: {"source": "stored", "name": m} for m in ("visual", "audio")}


def test_validation_chooses_the_weight(store):
    experiment = Experiment.from_layers(
        {"system": "aligned", "text_spaces": SPACES, "evaluation": {"gamma_grid": "margins"}}
    )
    text = {space: store.text(space) for space in SPACES}
    protocol = TwoStages(experiment, store, text)
    stage = protocol.new_stage(1)
    by_weight = {}
    for epoch, weight in enumerate(WEIGHTS, start=1):
        assert stage.run_epoch(epoch, 0.0) == {"loss": 0.0}
        found = protocol.evaluate(stage.model, protocol.validation, None)
        by_weight[weight] = found.harmonic_mean
    # The sound is of the class in a third of the clips, and noise in the others.
    assert by_weight[1.0] > by_weight[0.0] + 0.2
    assert len(set(by_weight.values())) > 5


def test_a_run_learns_its_weight_and_answers(store, tmp_path):
    from tcaf.answers.classifier import ZeroShotClassifier

    experiment = Experiment.from_layers(
        {"system": "aligned", "text_spaces": SPACES, "evaluation": {"gamma_grid": "margins"}}
    )
    result = train(experiment, store, tmp_path / "run")
    assert result["test"]["harmonic_mean"] > 0.6
    classifier = ZeroShotClassifier.load(tmp_path / "run")
    best = WEIGHTS[result["choice"]["epoch"] - 1]
    assert float(classifier.model.weight) == pytest.approx(best)
    assert classifier.temperature is not None
    clip = store[0]
    told = classifier.classify(clip, why=True)
    assert set(told.answers[0].alone) == {"audio", "visual"}


def test_the_preset_reads_the_models_of_the_features():
    from tcaf.experiments.layers import experiment_layers, resolve

    experiment = resolve(experiment_layers(None, system="aligned"))
    settings = find_system("aligned").text_settings(experiment)
    assert {space: (each.source, each.modality) for space, each in settings.items()} == {
        "visual": ("backbone", "visual"),
        "audio": ("backbone", "audio"),
    }
