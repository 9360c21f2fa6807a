"""For every setting another legal value, and what has to stand beside it to make it count."""

from dataclasses import fields, replace
from typing import Any

from tcaf.settings.sections import ModelSettings

NO_DROPOUT = {f.name: 0.0 for f in fields(ModelSettings) if f.name.startswith("dropout")}
"""For settings of the model."""

GLOVE = {"source": "glove", "path": "words.txt"}
STORED = {"source": "stored", "name": "attributes"}
ATTRIBUTES = {"source": "attributes", "path": "one.csv"}

OTHER_VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "data.split": ("main", {}),
    "data.average": (True, {}),
    "data.clips_per_class": (3, {}),
    "data.auxiliary": ("further", {}),
    "data.auxiliary_similarity": (1.0, {"auxiliary": "further"}),
    "data.start": ("imagenet", {}),
    "text.source": ({"name": "", **ATTRIBUTES}, STORED),
    "text.name": ("attributes_release_order", STORED),
    "text.path": ("two.csv", ATTRIBUTES),
    "text.modality": ("audio", {"source": "backbone", "modality": "visual"}),
    "text.phrases": (("name", "said"), GLOVE),
    "text.phrases_file": ("phrases.csv", GLOVE),
    "text.prompts": ("templates.txt", GLOVE),
    "text.normalise": (False, ATTRIBUTES),
    "text.words": ("list.txt", GLOVE),
    "text.words_temperature": (0.5, {"words": "list.txt", **GLOVE}),
    "model.num_layers": (3, {}),
    "model.num_heads": (2, {"head_dim": 3}),
    "model.head_dim": (5, {}),
    "model.token_dim": (11, {}),
    "model.joint_dim": (11, {}),
    "model.encoder_hidden_dim": (11, {}),
    "model.projection_hidden_dim": (11, {}),
    "model.feed_forward_dim": (11, {}),
    "model.position_dim": (6, {}),
    "model.fourier_scale": (0.9, {}),
    "model.attention": ("self", {"num_layers": 2}),
    "model.class_token": (False, {}),
    "model.modalities": ("audio", {}),
    "model.dropout_encoder": (0.5, {}),
    "model.dropout_position": (0.5, {}),
    "model.dropout_transformer": (0.5, {}),
    "model.dropout_text_projection": (0.5, {}),
    "model.dropout_video_projection": (0.5, {}),
    "fidelity.class_vectors": ("release_order", {}),
    "fidelity.audio_scaling": ("l2", {}),
    "fidelity.visual_scaling": ("none", {}),
    "fidelity.evaluation_times": ("index", {}),
    "fidelity.window_times": ("restart", {}),
    "fidelity.audio_window": ("release", {}),
    "fidelity.layer_norm": ("shared", {}),
    "fidelity.batch_norm_momentum": (0.19, {}),
    "fidelity.text_statistics": ("clips", {}),
    "fidelity.squared_error": ("sum", {}),
    "fidelity.plateau_epochs": (4, {}),
    "fidelity.stage_2_schedule": ("validation", {}),
    "fidelity.stage_2_epochs": ("release", {}),
    "fidelity.cjme_attention": ("separate_means", {}),
    "fidelity.avca_modality_tokens": ("fixed", {}),
    "objective.cross_entropy": (False, {}),
    "objective.regression": (False, {}),
    "objective.reconstruction": (False, {}),
    "training.epochs": (1, {}),
    "training.batches_per_epoch": (5, {}),
    "training.batch_size": (13, {}),
    "training.optimiser": ("adamw", {}),
    "training.learning_rate": (2e-3, {}),
    "training.weight_decay": (0.1, {}),
    "training.beta1": (0.5, {}),
    "training.beta2": (0.5, {}),
    "training.schedule": ("constant", {}),
    "training.warmup_epochs": (1, {}),
    "training.clip_norm": (0.1, {}),
    "training.plateau_factor": (0.5, {}),
    "training.sampling": ("uniform", {}),
    "training.window_s": (2.0, {}),
    "training.device": ("auto", {}),
    "training.precision": ("bfloat16", {}),
    "training.static_shapes": (True, {}),
    "evaluation.window_s": (2.0, {}),
    "evaluation.batch_size": (17, {}),
    "evaluation.gamma_grid": ("margins", {}),
    "evaluation.gamma_max": (2.0, {}),
    "evaluation.gamma_step": (0.5, {}),
    "evaluation.anchored": (True, {}),
}
"""Of every field of a section. The other value may be a few that only go together; what stands
beside it stands in its section. Sizes are those of `tiny_experiment`; the files of `text.path` and
`text.phrases_file` are for the tests to write."""


def replace_in(experiment, **changes):
    """Returns an experiment with some fields of sections changed, and some plain settings."""
    sections = {
        name: replace(getattr(experiment, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return replace(experiment, **sections)


def with_other_values(experiment, names):
    """Returns the experiment with what stands beside settings, and with their other values too."""
    base = experiment
    for name in names:
        base = replace_in(base, **{name.partition(".")[0]: OTHER_VALUES[name][1]})
    changed = base
    for name in names:
        section, _, field = name.partition(".")
        value = OTHER_VALUES[name][0]
        change = value if isinstance(value, dict) else {field: value}
        assert change[field] != getattr(getattr(base, section), field)
        changed = replace_in(changed, **{section: change})
    return base, changed
