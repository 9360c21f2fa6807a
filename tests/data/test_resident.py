"""Tokens on a device: the same batches as from the store. The device is the CPU here."""

import numpy as np
import pytest
import torch

from tcaf.data.batches import load_batch
from tcaf.data.features import MODALITIES
from tcaf.data.resident import ResidentClips, num_bytes, on_device
from tcaf.data.windows import Windows
from tcaf.seeding import generator
from tcaf.training.protocol import TwoStages

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def resident(tiny_store):
    with pytest.MonkeyPatch.context() as patch:
        # In several pieces, the last of them smaller.
        patch.setattr("tcaf.data.resident.ROWS_AT_ONCE", 37)
        return ResidentClips(tiny_store, CPU)


@pytest.mark.parametrize(
    "windows",
    [
        Windows(),
        Windows(average=True),
        Windows(window_s=2.0, place="random"),
        Windows(window_s=2.0, restart=True, times="index"),
    ],
)
def test_batches_are_those_of_the_store(tiny_store, resident, windows):
    rows = np.array([3, 239, 0, 3, 117])
    found, expected = (
        load_batch(clips, rows, windows, labels=rows, generator=generator(5, "windows"))
        for clips in (resident, tiny_store)
    )
    assert torch.equal(found.labels, expected.labels)
    for modality in MODALITIES:
        one, other = found.modality(modality), expected.modality(modality)
        for name in ("tokens", "lens", "times"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert one.tokens.dtype == torch.float32


def test_a_share_of_a_batch_has_the_windows_of_the_whole(tiny_store):
    windows, rows = Windows(window_s=2.0, place="random"), np.arange(11)
    whole = load_batch(tiny_store, rows, windows, labels=rows, generator=generator(0))
    share = load_batch(
        tiny_store, rows, windows, labels=rows, generator=generator(0), share=slice(4, 9)
    )
    assert share.labels.tolist() == [4, 5, 6, 7, 8]
    times = whole.visual.times.split(whole.visual.lens.tolist())[4:9]
    assert torch.equal(share.visual.times, torch.cat(times))


def test_how_much_memory_tokens_take(tiny_store):
    audio, visual = (int(tiny_store.lens(modality).sum()) for modality in MODALITIES)
    size = np.dtype(tiny_store.dtype).itemsize
    assert num_bytes(tiny_store) == size * (5 * audio + 7 * visual)


def test_a_gpu_takes_what_fits_into_half_of_its_memory(tiny_store, monkeypatch):
    needed, gpu = num_bytes(tiny_store), torch.device("cuda")
    for free, fits in ((2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device, free=free: (free, 9 * free))
        found = on_device(tiny_store, gpu)
        assert isinstance(found, ResidentClips) == fits
        assert (found.device == gpu) if fits else (found is tiny_store)
    assert on_device(tiny_store, CPU) is tiny_store


@pytest.mark.slow
@pytest.mark.parametrize("system", ["tcaf", "avca", "ridge"])
def test_a_training_on_resident_clips_is_the_same(
    tiny_store, resident, tiny_experiment, monkeypatch, system
):
    made, text = tiny_experiment(system=system), {"text": tiny_store.text("attributes")}
    plain = TwoStages(made, tiny_store, text)
    monkeypatch.setattr("tcaf.training.protocol.on_device", lambda store, device: resident)
    forced = TwoStages(made, tiny_store, text)
    assert forced.clips is resident
    results = []
    for protocol in (plain, forced):
        *_, finished = protocol.run()
        results.append((finished.choice, finished.result.scores(), finished.model.state_dict()))
    assert repr(results[0][:2]) == repr(results[1][:2])
    for name, weight in results[0][2].items():
        assert torch.equal(weight, results[1][2][name])
