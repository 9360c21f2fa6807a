"""Writes a small synthetic store in which each setting of data and class text has two sides."""

import json

from tcaf.data.store import FeatureStore
from tcaf.files.sealed import SEAL, seal_json
from tcaf.sources.synthetic import prepare_synthetic


def world_of_two_splits(path):
    """Returns a store with the splits cls and main, two kept class texts and two kinds of phrases.

    Its dimensions are those of `tiny_experiment`.
    """
    store = prepare_synthetic(
        path,
        looks=3,
        motions=3,
        sounds=2,
        relations=("together",),
        clips_per_class=20,
        audio_dim=5,
        visual_dim=7,
        noise=0.4,
    )
    given = store.text("attributes")
    shuffled = dict(zip(given, list(given.values())[::-1], strict=True))
    store.add_text("attributes_release_order", shuffled)
    manifest = json.loads((path / "store.json").read_text())
    del manifest[SEAL]
    cls = manifest["splits"]["cls"]
    manifest["splits"]["main"] = {**cls, "test_unseen": cls["test_unseen"][1:]}
    for name, kinds in manifest["phrases"].items():
        kinds["said"] = [f"{name} said"]
    (path / "store.json").write_text(json.dumps(seal_json(manifest)))
    return FeatureStore.open(path)
