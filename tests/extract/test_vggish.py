"""VGGish: the front end and the coding against recorded numbers, the network against slow ones."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tcaf.errors import TCAFError
from tcaf.extract import vggish
from tcaf.extract.backbones import BACKBONES, AudioBackbone, canonical_name
from tcaf.extract.backbones import open_backbone as open_by_name
from tcaf.seeding import seeded

GOLDEN = Path(__file__).parents[1] / "golden" / "vggish_frontend_16k.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def backbone():
    return open_by_name("vggish:weights=random", "audio")


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.7, 0.7, num_samples).astype(np.float32)


def test_front_end_gives_the_recorded_examples(golden):
    waveform, rate = golden["waveform_int16"], int(golden["sample_rate"])
    expected = golden["log_mel_examples"]
    examples = vggish.log_mel_examples(waveform, rate)
    assert examples.shape == expected.shape
    np.testing.assert_allclose(examples, expected, rtol=0, atol=1e-4)
    scaled = vggish.log_mel_examples(waveform / 32768, rate)
    np.testing.assert_allclose(scaled, examples, rtol=0, atol=1e-6)


def test_coding_gives_the_recorded_numbers(golden):
    vectors, means = golden["pca_eigen_vectors"], golden["pca_means"]
    coded = vggish.quantise(golden["embedding"], vectors, means)
    np.testing.assert_array_equal(coded, golden["quantised"])
    flat = vggish.quantise(golden["embedding"], vectors, means.reshape(-1))
    np.testing.assert_array_equal(flat, coded)


def test_coding_by_hand():
    # -2 is 0, 2 is 255, and 0 is 127.5, cut to 127; what lies beyond is clipped.
    embedding = np.zeros((1, 128), np.float32)
    embedding[0, :5] = -7, -2, 1, 2.99, 9
    means = np.zeros(128)
    means[2:5] = 1
    coded = vggish.quantise(embedding, np.eye(128), means)
    assert coded[0, :6].tolist() == [0, 0, 127, 254, 255, 127]


def slow_frames(waveform):
    """Frames of the whole sound one by one: Fourier sum and triangles as they are defined."""

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    time = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / 400)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(257), time) / 512)
    corners = [mel(125) + (mel(7500) - mel(125)) * k / 65 for k in range(66)]
    triangles = np.zeros((257, 64))
    for line in range(257):
        pitch = mel(line * 16000 / 512)
        for band in range(64):
            low, peak, high = corners[band : band + 3]
            if low < pitch <= peak:
                triangles[line, band] = (pitch - low) / (peak - low)
            elif peak < pitch < high:
                triangles[line, band] = (high - pitch) / (high - peak)
    frames = []
    for start in range(0, len(waveform) - 399, 160):
        magnitude = abs(waves @ (waveform[start : start + 400].astype(float) * window))
        frames.append(np.log(magnitude @ triangles + 0.01))
    return np.array(frames)


def test_windows_give_what_the_whole_sound_gives():
    # Two examples and a tail that is one sample short of a third.
    waveform = noise(15_600 + 2 * 15_360 - 1)
    frames = slow_frames(waveform)
    whole = frames[: len(frames) // 96 * 96].reshape(-1, 96, 64)
    examples = vggish.log_mel_examples(waveform, 16_000)
    assert examples.shape == whole.shape == (2, 96, 64)
    np.testing.assert_allclose(examples, whole, rtol=0, atol=1e-5)
    windows = np.stack([waveform[:15_600], waveform[15_360 : 15_360 + 15_600]])
    np.testing.assert_array_equal(vggish.log_mel_of_windows(windows), examples)


@pytest.mark.parametrize(
    ("num_samples", "examples"),
    [
        (0, 0),
        (399, 0),
        (15_599, 0),
        (15_600, 1),
        (30_959, 1),
        (30_960, 2),
        (15_600 + 22 * 15_360, 23),
    ],
)
def test_number_of_examples(num_samples, examples):
    assert vggish.log_mel_examples(noise(num_samples), 16_000).shape == (examples, 96, 64)


def test_a_tone_is_loudest_in_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(15_600) / 16_000).astype(np.float32)
    (example,) = vggish.log_mel_examples(tone, 16_000)
    # 1000 Hz is 1000 mel; corners lie (2840 - 185) / 65 = 40.9 mel apart from 185 mel on, so it
    # is 19.95 of them above the lowest, at the peak of the band with index 19.
    assert set(example.argmax(axis=1)) == {19}
    silence = vggish.log_mel_examples(np.zeros(15_600, np.float32), 16_000)
    np.testing.assert_allclose(silence, np.log(0.01), rtol=1e-6)


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (noise(7), 0, "expected a sample rate of at least 1, got 0"),
        (noise(8).reshape(2, 2, 2), 16_000, r"\(samples, channels\), found \(2, 2, 2\)"),
        (noise(0).reshape(7, 0), 16_000, r"\(samples, channels\), found \(7, 0\)"),
        (noise(130).reshape(2, 65), 16_000, r"found \(2, 65\), which has 65 channels; transpose"),
        ([0.1, 0.2], 16_000, "expected a numpy array or a tensor, got list"),
        (torch.zeros(7, dtype=torch.int32), 16_000, "expected int16 or floating .* found int32"),
        (torch.full((7,), 2.0), 16_000, r"samples in -1..1, found 2 to 2"),
        (np.zeros(7, np.int32), 16_000, "expected int16 or floating samples, found int32"),
        (
            noise(7) * 20_000,
            16_000,
            r"samples in -1..1, found .*; divide those of 16 bits by 32768",
        ),
        (np.array([0.1, np.nan]), 16_000, "expected floating samples in -1..1, found nan to nan"),
    ],
)
def test_sound_of_another_kind(unchecked, waveform, rate, message):
    with pytest.raises(TCAFError, match=message):
        vggish.log_mel_examples(waveform, rate)


def test_arrays_and_tensors_of_every_kind_are_the_same_sound():
    whole = (noise(16_000) * 20_000).astype(np.int16)
    expected = vggish.log_mel_examples(whole, 16_000)
    assert expected.shape == (1, 96, 64)
    floating = whole / np.float32(32768)
    both = np.stack([floating, floating], axis=1)
    # Two channels whose mean is the sound.
    apart = np.stack([floating * 1.5, floating * 0.5], axis=1)
    for same in (
        floating,
        torch.from_numpy(whole),
        torch.from_numpy(floating),
        torch.from_numpy(floating).requires_grad_(),
        torch.from_numpy(floating).double(),
        both,
        whole[:, None],
        torch.from_numpy(both),
        np.stack([whole, whole], axis=1),
    ):
        np.testing.assert_array_equal(vggish.log_mel_examples(same, 16_000), expected)
    np.testing.assert_allclose(
        vggish.log_mel_examples(apart / 2, 16_000),
        vggish.log_mel_examples(floating / 2, 16_000),
        atol=1e-4,
    )
    rough = vggish.log_mel_examples(torch.from_numpy(floating).bfloat16(), 16_000)
    np.testing.assert_allclose(rough, expected, atol=0.1)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_sound_of_another_rate(rate):
    """A chord below 3.5 kHz, which all of the rates hold."""

    def chord(rate, seconds):
        times = np.arange(round(seconds * rate)) / rate
        return sum(0.2 * np.sin(2 * np.pi * hertz * times) for hertz in (173, 997, 2503, 3301))

    expected = vggish.log_mel_examples(chord(16_000, 3), 16_000)
    found = vggish.log_mel_examples(chord(rate, 3), rate)
    assert found.shape == expected.shape == (3, 96, 64)
    # Where the sound begins and ends there is silence beside it.
    inside = np.s_[:, 3:-3]
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.02)


def test_the_coding_takes_tensors():
    rng = np.random.default_rng(3)
    embedding, vectors, means = rng.normal(size=(7, 128)), rng.normal(size=(128, 128)), np.ones(128)
    expected = vggish.quantise(embedding, vectors, means)
    assert len(np.unique(expected)) > 50
    tensors = (torch.from_numpy(a) for a in (embedding, vectors, means))
    np.testing.assert_array_equal(vggish.quantise(*tensors), expected)


def test_network_flattens_time_band_channel(backbone):
    network = backbone.network
    examples = torch.randn(3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = network.features(examples.reshape(3, 1, 96, 64)).numpy()
        assert maps.shape == (3, 512, 6, 4)
        rows = np.stack([m.transpose(1, 2, 0).ravel() for m in maps])
        expected = network.fc(torch.from_numpy(rows))
        assert torch.equal(network(examples), expected)
        assert not torch.allclose(network.fc(torch.from_numpy(maps).flatten(1)), expected)


def test_layers_have_the_ports_names(backbone):
    shapes = {k: tuple(v.shape) for k, v in backbone.network.state_dict().items() if "weight" in k}
    assert shapes == {
        "features.0.weight": (64, 1, 3, 3),
        "features.3.weight": (128, 64, 3, 3),
        "features.6.weight": (256, 128, 3, 3),
        "features.8.weight": (256, 256, 3, 3),
        "features.11.weight": (512, 256, 3, 3),
        "features.13.weight": (512, 512, 3, 3),
        "fc.0.weight": (4096, 12288),
        "fc.2.weight": (4096, 4096),
        "fc.4.weight": (128, 4096),
    }


@pytest.mark.slow
def test_backbone(backbone):
    assert isinstance(backbone, AudioBackbone)
    assert backbone.name == "vggish:weights=random"
    assert (backbone.dim, backbone.step_s) == (int(BACKBONES["vggish"].dim), 0.96)
    assert (backbone.sample_rate, backbone.window_samples, backbone.hop_samples) == (
        16_000,
        15_600,
        15_360,
    )
    windows = (
        noise(17 * 15_600).reshape(17, -1) * np.linspace(0.01, 1, 17, dtype=np.float32)[:, None]
    )
    tokens = backbone.embed(windows)
    assert tokens.shape == (17, 128)
    assert tokens.dtype == np.float32
    assert backbone.embed(windows[:0]).shape == (0, 128)
    np.testing.assert_array_equal(tokens, tokens.round())
    # Loud and soft sounds differ, and values spread over the range.
    assert tokens.min() < 30
    assert tokens.max() > 225
    assert abs(tokens[0] - tokens[-1]).mean() > 5
    # A window's token does not depend on its neighbours, but for rounding at an edge of a step.
    assert abs(backbone.embed(windows[3:4]) - tokens[3]).max() <= 1


def stand_in(prefix="embeddings"):
    """Weights under the port's names, each a constant: of any size, but few bytes in a file."""
    with torch.device("meta"):
        own = vggish.VGGish().state_dict()
    return {
        key.replace("fc", prefix): torch.full((1,), k / 1024).expand(value.shape)
        for k, (key, value) in enumerate(own.items())
    }


def pca_arrays():
    rng = np.random.default_rng(2)
    return {
        "pca_eigen_vectors": rng.normal(size=(128, 128)),
        "pca_means": rng.normal(size=(128, 1)),
    }


def as_tensors(arrays, prefix=""):
    return {prefix + key: torch.from_numpy(value) for key, value in arrays.items()}


def write_folder(folder, pca, **how):
    folder.mkdir()
    torch.save(stand_in(), folder / vggish.NETWORK.name)
    torch.save(pca, folder / vggish.PCA.name, **how)
    return folder


def test_a_folder_with_the_ports_files(tmp_path, monkeypatch):
    arrays = pca_arrays()
    # The published file holds numpy arrays, in the format of its time.
    folder = write_folder(tmp_path / "a", arrays, _use_new_zipfile_serialization=False)
    loaded = vggish.open_backbone({}, folder)
    assert loaded.name.startswith("vggish:weights=")
    for k, value in enumerate(loaded.network.state_dict().values()):
        assert value.min() == value.max() == k / 1024
    np.testing.assert_array_equal(loaded.pca[0], arrays["pca_eigen_vectors"])
    np.testing.assert_array_equal(loaded.pca[1], arrays["pca_means"])
    # The same files under a folder of another name are the same weights; with the known content
    # they are those that the plain name stands for.
    for file in ("NETWORK", "PCA"):
        known = getattr(vggish, file)
        digest = hashlib.sha256((folder / known.name).read_bytes()).hexdigest()
        monkeypatch.setattr(vggish, file, replace(known, sha256=digest[:8]))
    assert vggish._read_weights(folder)[2] is None


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("are_tensors", [True, False])
def test_every_wrapping_of_the_pca(tmp_path, is_zip, are_tensors):
    arrays = pca_arrays()
    content = as_tensors(arrays) if are_tensors else arrays
    torch.save(content, tmp_path / "p.pth", _use_new_zipfile_serialization=is_zip)
    read = vggish._read_pca(tmp_path / "p.pth")
    assert set(read) == set(arrays)
    for key, value in arrays.items():
        np.testing.assert_array_equal(read[key], value)


def test_marks_tell_networks_and_pcas_apart(tmp_path):
    first = write_folder(tmp_path / "a", pca_arrays())
    second = write_folder(tmp_path / "b", pca_arrays())
    other = write_folder(tmp_path / "c", {**pca_arrays(), "pca_means": np.ones(128)})
    marks = [vggish._read_weights(folder)[2] for folder in (first, second, other)]
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize("prefix", ["", "pproc."])
def test_one_file_with_everything(tmp_path, prefix):
    arrays = pca_arrays()
    own = {key: value.clone() for key, value in stand_in().items() if "bias" in key}
    save_file({**own, **as_tensors(arrays, prefix)}, tmp_path / "w.safetensors")
    state, pca, mark = vggish._read_weights(tmp_path / "w.safetensors")
    assert {"features.0.bias", "fc.4.bias"} < set(state)
    assert not any("pca" in key for key in state)
    np.testing.assert_array_equal(pca[0], arrays["pca_eigen_vectors"])
    assert mark == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()[:12]


def test_weights_that_are_not_whole(tmp_path):
    torch.save(stand_in(), tmp_path / "network.pth")
    with pytest.raises(
        TCAFError, match=r"network.pth: expected pca_eigen_vectors .*; found neither"
    ):
        vggish.open_backbone({}, tmp_path / "network.pth")
    with pytest.raises(TCAFError, match=r"gone.pth, found nothing"):
        vggish.open_backbone({}, tmp_path / "gone.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TCAFError, match=r"empty/vggish-10086976.pth, found nothing"):
        vggish.open_backbone({}, tmp_path / "empty")
    folder = write_folder(tmp_path / "small", {"pca_means": np.ones(7)})
    with pytest.raises(TCAFError, match=r"970ea276.pth: expected .*; found pca_means \(7,\)"):
        vggish.open_backbone({}, folder)
    torch.save({**stand_in("head"), **as_tensors(pca_arrays())}, tmp_path / "other.pth")
    with pytest.raises(TCAFError, match=r"weights of VGGish in .*other.pth .*missing: fc.0.weight"):
        vggish.open_backbone({}, tmp_path / "other.pth")


@pytest.mark.parametrize("content", [b"", b"no torch file", b"PK\x03\x04 broken"])
def test_a_damaged_pca_is_one_line(tmp_path, content):
    (tmp_path / "p.pth").write_bytes(content)
    with pytest.raises(TCAFError, match=r"p\.pth") as caught:
        vggish._read_pca(tmp_path / "p.pth")
    assert "\n" not in str(caught.value)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_in_a_pca_is_run(tmp_path, monkeypatch, is_zip):
    monkeypatch.chdir(tmp_path)
    torch.save({"pca_means": Hostile()}, "p.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(TCAFError, match=r"^p\.pth would import"):
        vggish._read_pca(Path("p.pth"))
    assert not Path("touched").exists()


def test_random_weights_are_of_a_fixed_seed(backbone):
    first, *_, last = backbone.network.parameters()
    with seeded(0, "vggish"):
        expected = torch.nn.init.kaiming_normal_(torch.empty(64, 1, 3, 3), nonlinearity="relu")
    assert torch.equal(first, expected)
    assert not last.any()
    rotation = backbone.pca[0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(128), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_without_the_last_activation_numbers_may_be_negative(backbone):
    options = {"activation": "none"}
    other = vggish.VGGishBackbone("other", backbone.network, *backbone.pca, activated=False)
    windows = noise(3 * 15_600).reshape(3, 15_600)
    examples = torch.from_numpy(vggish.log_mel_of_windows(windows))
    with torch.inference_mode():
        before = backbone.network.before_activation(examples)
        np.testing.assert_allclose(backbone.network(examples), before.clamp_min(0))
    coded = vggish.quantise(before.numpy(), *backbone.pca)
    np.testing.assert_array_equal(other.embed(windows), coded.astype(np.float32))
    assert (other.embed(windows) != backbone.embed(windows)).any()
    assert canonical_name("vggish", options) == "vggish:activation=none"
    with pytest.raises(TCAFError, match=r"^vggish: expected activation to be one of relu, none, g"):
        open_by_name("vggish:activation=tanh", "audio")
