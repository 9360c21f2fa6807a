"""A model of the authors' release as one of ours.

Owns the way from a checkpoint and a store to a model file. Reading the checkpoint is
`systems.release_checkpoint`. A `.pt` file carries no digest, so a flipped bit in it cannot be told
from a weight; the model file that is made of it has one from then on.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.files.atomic import new_folder
from tcaf.settings.experiment import TEXT, Experiment, text_settings
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import AttentionPattern, DataSettings, ModelSettings, TextSettings
from tcaf.systems.release_checkpoint import model_from_state_dict, read_checkpoint
from tcaf.text.class_text import embed_in_spaces
from tcaf.training.model_file import TrainedModel, save_model


def import_release(
    checkpoint: Path,
    store: FeatureStore,
    out: Path,
    *,
    num_heads: int = 8,
    attention: AttentionPattern = "cross",
    gamma: float | None = None,
    split: str = "cls",
    text: TextSettings,
    class_vectors: Literal["by_name", "release_order"] = "release_order",
) -> TrainedModel:
    """Turns weights of the authors' release into a model file; nothing in them is executed.

    Args:
        checkpoint: a `.pt` file with the release's state dict.
        store: with the features that it was trained on.
        out: folder to make for the model.
        num_heads: attention heads, which no weight's shape tells; 8 in the paper.
        attention: the pattern that it was trained with.
        gamma: of calibrated stacking, if known.
        split: class partition in the store.
        text: where class text embeddings come from.
        class_vectors: see `Fidelity`.

    Raises:
        TCAFError: no such checkpoint, one of other dimensions than the store's features or class
            text, or `out` exists.
    """
    if class_vectors == "release_order" and text.source != "stored":
        raise TCAFError(
            "the release's order of class vectors is known of those in a store alone, got "
            f"text.source {text.source!r}; add --class_vectors by_name"
        )
    imported = model_from_state_dict(
        read_checkpoint(checkpoint), num_heads=num_heads, attention=attention
    )
    config = imported.config
    experiment = Experiment(
        data=DataSettings(split=split),
        text=text,
        model=ModelSettings(**{f.name: getattr(config, f.name) for f in fields(ModelSettings)}),
        fidelity=replace(Fidelity.official(), class_vectors=class_vectors),
    )
    classes = store.split(split).stage_2
    vectors = embed_in_spaces({TEXT: text_settings(experiment)}, classes.names, store)
    if vectors.dims[TEXT] != config.text_dim:
        raise TCAFError(
            f"the checkpoint expects text embeddings of size {config.text_dim}, got "
            f"{vectors.dims[TEXT]} from text.source {text.source!r}"
        )
    if (config.audio_dim, config.visual_dim) != (store.spec.audio_dim, store.spec.visual_dim):
        raise TCAFError(
            f"the checkpoint expects audio and visual features of sizes {config.audio_dim} and "
            f"{config.visual_dim}, store {store.path} holds {store.spec.audio_dim} and "
            f"{store.spec.visual_dim}"
        )
    trained = TrainedModel("tcaf", imported, store.spec, classes, vectors, gamma, experiment)
    with new_folder(out) as folder:
        save_model(folder / "model.safetensors", trained)
    return trained
