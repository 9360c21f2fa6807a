"""A world and settings small enough to train in a second, for tests of whole runs."""

from pathlib import Path

from tcaf.config import (
    EvaluationSettings,
    Experiment,
    Fidelity,
    ModelSettings,
    TrainingSettings,
)
from tcaf.sources.synthetic import prepare_synthetic
from tcaf.store import FeatureStore

TOML = """
[model]
num_layers = 2
num_heads = 2
head_dim = 5
token_dim = 13
joint_dim = 7
encoder_hidden_dim = 11
projection_hidden_dim = 17
feed_forward_dim = 19
position_dim = 6
fourier_scale = 0.2

[fidelity]
audio_scaling = "none"
visual_scaling = "none"

[training]
epochs = 3
batches_per_epoch = 5
batch_size = 16
learning_rate = 3e-3
device = "cpu"

[evaluation]
gamma_max = 1.0
"""


def small_store(path: Path, seed: int = 0) -> FeatureStore:
    """Makes a store of 12 classes with 20 clips each."""
    return prepare_synthetic(
        path,
        looks=2,
        motions=1,
        sounds=2,
        relations=("together", "late", "alternating"),
        clips_per_class=20,
        audio_dim=5,
        visual_dim=7,
        seed=seed,
    )


def small_experiment(seed: int = 0) -> Experiment:
    """Returns the settings of `TOML`."""
    return Experiment(
        model=ModelSettings(
            num_layers=2,
            num_heads=2,
            head_dim=5,
            token_dim=13,
            joint_dim=7,
            encoder_hidden_dim=11,
            projection_hidden_dim=17,
            feed_forward_dim=19,
            position_dim=6,
            fourier_scale=0.2,
        ),
        fidelity=Fidelity(audio_scaling="none", visual_scaling="none"),
        training=TrainingSettings(
            epochs=3, batches_per_epoch=5, batch_size=16, learning_rate=3e-3, device="cpu"
        ),
        evaluation=EvaluationSettings(gamma_max=1.0),
        seed=seed,
    )
