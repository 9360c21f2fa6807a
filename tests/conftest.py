"""Runs shapes as types in every test, and holds what several test files share.

`tcaf` is imported inside fixtures: the import hook has to be in place before.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings as hypothesis_settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

install_import_hook("tcaf", "beartype.beartype")

torch.set_num_threads(1)

# A job in the background inherits an ignored Ctrl-C, which several tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: what passed here passes everywhere.
hypothesis_settings.register_profile("fixed", derandomize=True)
hypothesis_settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keeps what tests remember out of the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        if "TCAF_CACHE" not in os.environ:
            patch.setenv("TCAF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, one for all tests of a process."""
    from browsers import started_browser

    with started_browser() as found:
        yield found


@pytest.fixture
def unchecked(monkeypatch):
    """Turns the shapes off for a test of what a user is told, who has none."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def forkserver():
    """A context whose processes start in no time: forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    # Which Adam imports.
    context.set_forkserver_preload(["tcaf.experiments.reproduce", "torch._dynamo"])
    return context


@pytest.fixture
def quick(monkeypatch, forkserver):
    """Starts processes quickly. That the real ones are spawned is left to the slow tests."""

    def get_context(kind):
        assert kind == "spawn"
        return forkserver

    # Nor do they have to import what pytest was started from.
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    fast = SimpleNamespace(get_context=get_context, parent_process=multiprocessing.parent_process)
    monkeypatch.setattr("tcaf.execution.worker.multiprocessing", fast)
    yield
    assert not multiprocessing.active_children()


@pytest.fixture
def at_work():
    """Starts other processes, each at work on a folder until it is ended or reads a line."""
    code = (
        "import sys; from pathlib import Path; from tcaf.files.atomic import only_writer\n"
        "with only_writer(Path(sys.argv[1])): print('at work', flush=True); input()"
    )
    with ExitStack() as stack:

        def start(path):
            command = [sys.executable, "-c", code, str(path)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = stack.enter_context(subprocess.Popen(command, text=True, **pipes))
            stack.callback(process.kill)
            assert process.stdout.readline() == "at work\n"
            return process

        yield start


@pytest.fixture(scope="session")
def small_config():
    """Builds a `TCAFConfig` whose sizes are all different, most of them prime."""
    from tcaf.systems.joint_space import TCAFConfig

    sizes = {
        "audio_dim": 5,
        "visual_dim": 7,
        "text_dim": 11,
        "num_layers": 2,
        "num_heads": 3,
        "head_dim": 2,
        "token_dim": 13,
        "joint_dim": 17,
        "encoder_hidden_dim": 19,
        "projection_hidden_dim": 23,
        "feed_forward_dim": 29,
        "position_dim": 4,
        "fourier_scale": 0.3,
        "audio_scaling": "none",
    }
    return lambda **settings: TCAFConfig(**{**sizes, **settings})


@pytest.fixture(scope="session")
def small_model(small_config):
    """Builds a `TCAF` in evaluation mode, with running statistics that are no longer 0 and 1."""
    from tcaf.seeding import seeded
    from tcaf.systems.tcaf import TCAF

    def build(seed=0, **settings):
        with seeded(seed, "model"):
            model = TCAF(small_config(**settings)).eval()
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.3)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
        return model

    return build


@pytest.fixture(scope="session")
def random_batch():
    """Builds a `FeatureBatch` with these numbers of tokens, for `small_model`."""
    from tcaf.data.batches import FeatureBatch
    from tcaf.data.packed import Packed
    from tcaf.data.windows import ranges

    def build(audio_lens, visual_lens, seed=0, audio_dim=5, visual_dim=7):
        rng = np.random.default_rng(seed)
        packed = {}
        for name, lens, dim, step_s in (
            ("audio", audio_lens, audio_dim, 0.96),
            ("visual", visual_lens, visual_dim, 0.64),
        ):
            lens = np.array(lens, np.int64)
            tokens = rng.normal(size=(lens.sum(), dim)).astype(np.float32)
            packed[name] = Packed(
                torch.from_numpy(tokens),
                torch.from_numpy(lens),
                torch.from_numpy(ranges(lens) * step_s).float(),
            )
        return FeatureBatch(**packed)

    return build


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory):
    """A synthetic world of 12 classes and 240 clips."""
    from tcaf.sources.synthetic import prepare_synthetic

    return prepare_synthetic(
        tmp_path_factory.mktemp("tiny") / "store",
        looks=3,
        motions=2,
        sounds=2,
        relations=("together",),
        clips_per_class=20,
        audio_dim=5,
        visual_dim=7,
        noise=0.4,
    )


@pytest.fixture(scope="session")
def sound_store(tiny_store, tmp_path_factory):
    """The clips of `tiny_store` as a store that knows of no picture."""
    from dataclasses import replace

    from tcaf.data.store import FeatureStore
    from tcaf.data.writer import new_store

    place = tmp_path_factory.mktemp("sound") / "store"
    spec = replace(tiny_store.spec, visual_dim=1, visual_step_s=None, visual_backbone="none")
    with new_store(place, spec) as writer:
        writer.splits.update(tiny_store.splits)
        writer.add_text("attributes", tiny_store.text("attributes"))
        for clip in tiny_store:
            writer.add(replace(clip, visual=np.zeros((0, 1)), visual_backbone="none"))
    return FeatureStore.open(place)


@pytest.fixture(scope="session")
def tiny_experiment():
    """Builds an `Experiment` that takes well under a second on `tiny_store`."""
    from dataclasses import is_dataclass, replace

    from tcaf.settings.experiment import Experiment
    from tcaf.settings.fidelity import Fidelity
    from tcaf.settings.sections import EvaluationSettings, ModelSettings, TrainingSettings

    experiment = Experiment(
        model=ModelSettings(
            num_layers=1,
            num_heads=3,
            head_dim=2,
            token_dim=13,
            joint_dim=17,
            encoder_hidden_dim=19,
            projection_hidden_dim=23,
            feed_forward_dim=29,
            position_dim=4,
            fourier_scale=0.3,
        ),
        fidelity=Fidelity(audio_scaling="none"),
        training=TrainingSettings(
            epochs=2, batches_per_epoch=3, batch_size=11, learning_rate=1e-3, device="cpu"
        ),
        evaluation=EvaluationSettings(batch_size=31),
    )

    def build(**changes):
        """Replaces settings: `training={"epochs": 3}` changes one field of a section."""
        sections = {
            name: replace(getattr(experiment, name), **value)
            for name, value in changes.items()
            # Options are a mapping and no section.
            if isinstance(value, dict) and is_dataclass(getattr(experiment, name))
        }
        return replace(experiment, **{**changes, **sections})

    return build


@pytest.fixture(scope="session")
def toml():
    """Writes settings as a configuration file of the command line."""
    import json

    from tcaf.systems.reads import read_settings

    def write(path, experiment):
        lines = []
        for name, section in read_settings(experiment).items():
            if isinstance(section, dict):
                lines.append(f"[{name}]")
                lines += [f"{k} = {json.dumps(v)}" for k, v in section.items() if v is not None]
        path.write_text("\n".join(lines))
        return path

    return write
