"""A flipped bit is noticed by whatever reads the file: no result comes out another in silence."""

import shutil

import numpy as np
import pytest

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.clips import answer_clips
from tcaf.data.parquet import from_parquet, to_parquet
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.reports.report import build_report
from tcaf.training.evaluate import evaluate_run
from tcaf.training.observers import Silence
from tcaf.training.run import train

FLIPS = 31


class Stop(Exception):
    """What a kill is here."""


class Killer(Silence):
    def __init__(self):
        self.epochs = 0

    def epoch_done(self, record):
        self.epochs += 1
        if self.epochs == 3:
            raise Stop


@pytest.fixture(scope="module")
def made(tiny_store, tiny_experiment, tmp_path_factory):
    """A store, its Parquet copy, a run that is over and one that was killed in stage 2."""
    folder = tmp_path_factory.mktemp("damage")
    store = FeatureStore.open(shutil.copytree(tiny_store.path, folder / "store"))
    train(tiny_experiment(), store, folder / "run")
    with pytest.raises(Stop):
        train(tiny_experiment(), store, folder / "killed", observer=Killer())
    to_parquet(store.path, folder / "parquet")
    return folder


@pytest.fixture
def readers(made, tiny_experiment, tmp_path):
    """What reads a file, by what people call it."""
    store = made / "store"

    def open_store():
        return FeatureStore.open(store)

    return {
        "train": lambda: train(tiny_experiment(), open_store(), tmp_path / "new"),
        "evaluate": lambda: evaluate_run(made / "run", store),
        "evaluate val": lambda: evaluate_run(made / "run", store, part="val"),
        "predict": lambda: answer_clips(
            ZeroShotClassifier.load(made / "run"), ["test"], store=store
        ),
        "load": lambda: ZeroShotClassifier.load(made / "run"),
        "resume": lambda: train(tiny_experiment(), open_store(), made / "killed", resume=True),
        "open": open_store,
        "report": lambda: build_report([made / "run"], store=store),
        "from-parquet": lambda: from_parquet(made / "parquet", tmp_path / "back"),
    }


@pytest.mark.parametrize(
    ("file", "reader"),
    [
        ("store/shard-00000.arrow", "train"),
        ("store/shard-00000.arrow", "evaluate"),
        ("store/shard-00000.arrow", "predict"),
        ("store/shard-00000.arrow", "resume"),
        ("store/shard-00000.arrow", "report"),
        ("store/store.json", "open"),
        ("store/text/attributes.safetensors", "train"),
        ("run/text/classes.safetensors", "load"),
        ("killed/text/classes.safetensors", "resume"),
        ("run/model.safetensors", "evaluate"),
        ("run/model.safetensors", "load"),
        ("run/stage_1.safetensors", "evaluate val"),
        ("killed/checkpoint.safetensors", "resume"),
        ("parquet/shard-00000.parquet", "from-parquet"),
        ("parquet/tcaf.json", "from-parquet"),
        ("parquet/text/attributes.safetensors", "from-parquet"),
    ],
)
def test_a_flipped_bit_is_noticed(file, reader, made, readers, unchecked):
    path = made / file
    data = path.read_bytes()
    rng = np.random.default_rng(len(file) + len(reader))
    # Half of them in what comes first, where lengths, names and settings stand.
    bits = [*rng.integers(0, 8 * len(data), FLIPS), *rng.integers(0, 8 * min(300, len(data)), 8)]
    try:
        for bit in bits:
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(TCAFError) as caught:
                readers[reader]()
            said = str(caught.value)
            assert path.name in said, (bit, said)
            assert "\n" not in said
    finally:
        path.write_bytes(data)


@pytest.mark.slow  # draws whole pages
def test_why_the_store_of_a_run_is_not_at_hand_is_said(tiny_store, tiny_experiment, tmp_path):
    store = FeatureStore.open(shutil.copytree(tiny_store.path, tmp_path / "store"))
    train(tiny_experiment(), store, tmp_path / "run")
    file = store.path / "store.json"
    file.write_bytes(file.read_bytes()[:-9])
    (note,) = build_report([tmp_path / "run"]).notes[:1]
    assert "store.json" in note
    assert "damaged" in note
    with pytest.raises(TCAFError, match=r"no class 'xyz'.*store\.json.*damaged"):
        ZeroShotClassifier.load(tmp_path / "run").set_classes(["xyz"])
    shutil.rmtree(store.path)
    with pytest.raises(TCAFError, match=r"no class 'xyz'.*no longer where it was"):
        ZeroShotClassifier.load(tmp_path / "run").set_classes(["xyz"])
