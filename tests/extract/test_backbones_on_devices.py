"""Where backbones compute. Without a GPU it is seen on a device whose tensors have no content."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import write_aligned
from tcaf.errors import TCAFError
from tcaf.execution.devices import GPU_BYTES, fitting_processes, on_cpu
from tcaf.extract import backbones, c3d, efficientnet, vggish
from tcaf.extract.backbones import Moves, check_device, move, open_backbone, processes_on
from tcaf.extract.corpus import Backbones, extract_files
from tcaf.pretrained import aligned_model

META = torch.device("meta")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def fetched(monkeypatch):
    """Where what was fetched from a device came from; without content it becomes zeros."""
    devices = []

    def fetch(tensor):
        devices.append(tensor.device.type)
        return np.zeros(tensor.shape, np.float32)

    for module in (c3d, efficientnet, vggish, aligned_model):
        monkeypatch.setattr(module, "on_cpu", fetch)
    return devices


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {
        kind: getattr(write_aligned, f"write_{kind}")(place / kind)[1] for kind in ("clip", "clap")
    }


def windows_for(backbone, number=2):
    """Windows of noise, none like another."""
    rng = np.random.default_rng(0)
    if not hasattr(backbone, "fps"):
        return rng.uniform(-0.5, 0.5, (number, backbone.window_samples)).astype(np.float32)
    size = backbone.frame_size
    height, width = (64, 64) if size is None else (size.height, size.width)
    shape = (number, backbone.window_frames, height, width, 3)
    return rng.integers(0, 256, shape, np.uint8)


OPENED = [
    ("c3d:weights=random", "visual"),
    ("efficientnet_lite0:weights=random,frames=2", "visual"),
    ("vggish:weights=random", "audio"),
    ("hf:clip", "visual"),
    ("hf:clap", "audio"),
]


@pytest.fixture
def opened(folders):
    def build(name, modality):
        if name.startswith("hf:"):
            name = f"hf:{folders[name.removeprefix('hf:')]}"
        elif name.startswith("efficientnet"):
            pytest.importorskip("efficientnet_lite_pytorch")
        return open_backbone(name, modality)

    return build


@pytest.mark.slow
@pytest.mark.parametrize(("name", "modality"), OPENED)
def test_all_is_computed_where_the_network_is(opened, fetched, name, modality):
    backbone = opened(name, modality)
    assert isinstance(backbone, Moves)
    fetched.clear()
    backbone.move_to(META)
    found = backbone.embed(windows_for(backbone))
    assert set(fetched) == {"meta"}
    assert found.shape == (2, backbone.dim)


@pytest.mark.slow
def test_a_model_that_moved_stays_where_it_was_for_others(opened, fetched, folders):
    backbone, other = (opened("hf:clip", "visual") for _ in range(2))
    before = other.embed(windows_for(other))
    backbone.move_to(META)
    assert aligned_model.load_aligned(folders["clip"]).model.device == torch.device("cpu")
    fetched.clear()
    np.testing.assert_array_equal(other.embed(windows_for(other)), before)
    assert set(fetched) == {"cpu"}


@pytest.mark.slow
def test_text_is_brought_there_too(folders, fetched):
    """Its network looks at the mask of the text, which has no content here."""
    model = aligned_model.load_aligned(folders["clip"], "meta")
    given = {}

    def embed(tokens):
        given.update(tokens)
        return torch.zeros(2, 13, device="meta")

    model.halves["visual"] = replace(model.half("visual"), embed_text=embed)
    assert model.embed_text(["red cat", "dog"], "visual").shape == (2, 13)
    assert {value.device.type for value in given.values()} == {"meta"}
    assert fetched == ["meta"]
    aligned_model._load.cache_clear()


@pytest.mark.slow
def test_a_sentence_model_moves(folders, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    path = tmp_path / "model"
    SentenceTransformer(modules=[Transformer(str(folders["clip"]))], device="cpu").save(str(path))
    backbone, other = (open_backbone(f"st:{path}", "visual") for _ in range(2))
    assert isinstance(backbone, Moves)
    backbone.move_to(META)
    assert backbone._model.device == META
    assert other._model.device == torch.device("cpu")


class Still:
    """A backbone that knows of no device."""

    name, dim, step_s = "still", 3, 1.0
    sample_rate = window_samples = hop_samples = 4

    def embed(self, windows):
        return np.zeros((len(windows), 3), np.float32)


class Moving(Still):
    """One that does."""

    moved: torch.device | None = None

    def move_to(self, device):
        self.moved = device


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as is asked for one, with room for five processes."""
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (5 * GPU_BYTES, 0))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_is_taken_where_there_is_one(gpu, device):
    some = [Moving(), Still(), Moving()]
    move(some, device)
    assert [some[n].moved for n in (0, 2)] == [torch.device("cuda")] * 2
    assert not torch.backends.cudnn.allow_tf32


def test_the_cpu_is_taken_where_it_is_asked_for_or_all_there_is(gpu, monkeypatch):
    one = Moving()
    move([one], "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    move([one], "auto")
    assert one.moved is None
    assert torch.backends.cudnn.allow_tf32


def test_a_gpu_that_is_not_there(monkeypatch, tmp_path):
    told = "the device is 'cuda', but torch finds no GPU; use 'cpu' or 'auto'"
    with pytest.raises(TCAFError, match=told):
        move([Moving()], "cuda")
    pytest.importorskip("av")
    known = backbones.BackboneInfo("visual", lambda options, weights: Frames(), "3", 1.0, "", "")
    monkeypatch.setitem(backbones.BACKBONES, "frames", known)
    work = tmp_path / "work"
    with pytest.raises(TCAFError, match=told):
        extract_files([], Backbones("logmel", "frames", device="cuda"), work)
    assert not work.exists()


class Frames:
    """A backbone of pictures."""

    name, dim, step_s, fps, window_frames = "frames", 3, 1.0, 1.0, 1
    frame_size, takes_incomplete_windows = None, False

    def embed(self, windows):
        return np.zeros((len(windows), 3), np.float32)


def test_as_many_processes_as_a_gpu_has_room_for(gpu, monkeypatch):
    device = torch.device("cuda")
    assert fitting_processes(torch.device("cpu"), 16) == 16
    assert fitting_processes(device, 16) == 5
    assert fitting_processes(device, 2) == 2
    assert processes_on("auto", [Still(), Moving()], 16) == 5
    assert processes_on("auto", [Still()], 16) == 16
    assert processes_on("cpu", [Moving()], 16) == 16
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 0))
    assert fitting_processes(device, 16) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert processes_on("auto", [Moving()], 7) == 7


def test_a_gpu_that_fails_ends_the_work():
    for error in (ValueError("CUDA error"), RuntimeError("the file's own")):
        check_device(error)
    for told in ("CUDA error: an illegal access", "CUBLAS_STATUS_ALLOC_FAILED when calling it"):
        with pytest.raises(TCAFError, match=f"the GPU failed: {told}; try"):
            check_device(RuntimeError(told))
    with pytest.raises(TCAFError, match="the GPU failed: no memory; try fewer --workers, or --dev"):
        check_device(torch.OutOfMemoryError("no memory\nand much more"))


def test_what_is_fetched_is_float32():
    found = on_cpu(torch.tensor([1.5]).bfloat16())
    assert found.dtype == np.float32
    assert found.tolist() == [1.5]


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize(("name", "modality"), OPENED)
def test_features_are_those_of_the_cpu(opened, name, modality):
    plain = opened(name, modality)
    windows = windows_for(plain)
    expected = plain.embed(windows)
    other = opened(name, modality)
    move([other], "cuda")
    found = other.embed(windows)
    # VGGish's are whole numbers, of which rounding moves some by one.
    allowed = 1.0 if name.startswith("vggish") else 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=allowed)
