"""What a trained run makes of clips, as a store of features on which other systems learn.

Owns which weights may do that. The two-stage protocol chooses on validation clips, so whatever made
the features must not have learnt from them: it is always the weights of stage 1, for both stages of
what is trained on the new store.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tcaf.data.batches import in_reads, load_batch
from tcaf.data.features import NO_BACKBONE, FeatureSpec, VideoFeatures
from tcaf.data.store import FeatureStore
from tcaf.data.writer import check_store_place, new_store
from tcaf.errors import TCAFError
from tcaf.execution.devices import pick_device
from tcaf.files.remote import local_path
from tcaf.progress import Track, silent
from tcaf.settings.sections import Device
from tcaf.systems.registry import find_system
from tcaf.training.model_file import load_model
from tcaf.training.provenance import split_sha256
from tcaf.training.run import Run


def embed_store(
    run: str | Path,
    store: str | Path | FeatureStore,
    out: str | Path,
    *,
    device: Device = "auto",
    overwrite: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Writes the store of a run anew, each clip as its embedding by the weights of stage 1.

    A clip is one visual token, theta_o, and has no sound. Parts, splits, phrases and class text are
    those of the store.

    Args:
        run: folder of a run.
        store: the feature store that it was trained on.
        out: folder of the store to make.
        device: where to compute.
        overwrite: replace a store that is there already.
        track: shows progress.

    Raises:
        TCAFError: no such run or store, a damaged one, a store with other clips or other parts than
            the run's, or something is at `out`.
    """
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    opened.verify_once()
    check_store_place(Path(out), overwrite=overwrite)
    run = local_path(run)
    trained = load_model(run / "stage_1.safetensors")
    experiment = trained.settings
    data: Mapping[str, Any] = Run(run).provenance["data"]
    own = (opened.fingerprint, split_sha256(opened, experiment))
    if (data["fingerprint"], data["split"]) != own:
        raise TCAFError(
            f"store {opened.path} holds other clips or splits than {run} was trained on, which may "
            "have learnt from what is validation or test here; give the run's own store"
        )
    windows = find_system(trained.system).windows(experiment, training=False)
    batch_size = experiment.evaluation.batch_size
    place = pick_device(device)
    model = trained.model.to(place)
    made_by = f"stage 1 of {trained.system}, seed {experiment.seed}"
    rows = np.arange(len(opened))

    def embedded(chosen: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found = model(load_batch(opened, chosen, windows).to(place)).video_embedding
        return np.asarray(found.float().cpu().numpy())

    size = embedded(rows[:1]).shape[1]
    spec = FeatureSpec(1, size, None, None, NO_BACKBONE, f"theta_o of {made_by}")
    with new_store(out, spec, dtype="float32", overwrite=overwrite) as writer:
        writer.splits, writer.phrases = dict(opened.splits), dict(opened.phrases)
        writer.left_out = {reason: [*names] for reason, names in opened.left_out.items()}
        writer.source = {**opened.source, "embedded_by": made_by, "embedded": opened.fingerprint}
        for name in opened.given_text_names:
            writer.add_text(name, opened.text(name))
        silence = np.zeros((0, 1), np.float32)
        reads = list(in_reads(opened, rows, windows, batch_size))
        for chosen in track(reads, "Embedding clips"):
            for row, visual in zip(chosen.tolist(), embedded(chosen), strict=True):
                writer.add(
                    VideoFeatures(
                        opened.ids[row],
                        silence,
                        visual[None],
                        opened.class_names[row],
                        opened.parts[row],
                        labels=opened.labels[row],
                    )
                )
    return FeatureStore.open(out)
