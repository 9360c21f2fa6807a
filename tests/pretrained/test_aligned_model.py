import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import write_aligned
from tcaf.errors import TCAFError
from tcaf.pretrained.aligned_model import AlignedModel, load_aligned
from tcaf.pretrained.model_folder import model_files
from write_aligned import RATE, random_windows, tones

PHRASES = ["a photo of a cat", "red square", "the sound of people singing a a a a a a a a a a a a"]


@pytest.fixture(scope="module", params=["clip", "siglip2", "xclip"])
def seeing(request, tmp_path_factory):
    """A model that takes pictures or videos, of transformers and as it is loaded here."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    whole, _ = getattr(write_aligned, f"write_{request.param}")(folder)
    return whole, load_aligned(folder)


@pytest.fixture(scope="module", params=["plain", "fused"])
def hearing(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap") / "model"
    fused = request.param == "fused"
    whole, _ = write_aligned.write_clap(folder, fused)
    return whole, load_aligned(folder), write_aligned.clap_features(fused)


@pytest.fixture(scope="module")
def perception(tmp_path_factory):
    whole = write_aligned.perception_model()
    folder = write_aligned.write_perception_files(tmp_path_factory.mktemp("pe") / "model")
    return whole, AlignedModel(whole, folder)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_aligned.write_clip(tmp_path_factory.mktemp("clip") / "model")[1]


@pytest.fixture
def copy(clip_folder, tmp_path):
    return shutil.copytree(clip_folder, tmp_path / "copy")


def processed(model, windows):
    """Returns what a model's own processor makes of frames, called as its examples do."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model.folder, backend="pil")
    frames = [list(w) for w in windows] if model.num_frames else [f for w in windows for f in w]
    return processor(frames, return_tensors="pt")


def test_frames_are_embedded_as_transformers_does(seeing):
    whole, model = seeing
    windows = random_windows(2, model.num_frames or 2)
    with torch.no_grad():
        given = processed(model, windows)
        if model.num_frames:
            expected = whole.get_video_features(**given).pooler_output[:, None]
        else:
            expected = whole.get_image_features(**given).pooler_output.unflatten(0, (2, 2))
    found = model.embed_frames(windows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert found.shape[2] == model.dim("visual")
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_text_is_embedded_as_transformers_does(seeing):
    whole, model = seeing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    is_siglip = whole.config.model_type.startswith("siglip")
    tokens = tokenizer(
        PHRASES,
        padding="max_length" if is_siglip else True,
        truncation=True,
        max_length=11,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = whole.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output.numpy()
    found = model.embed_text(PHRASES, "visual")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape[1] == model.dim("visual")
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_the_softmax_is_as_sharp_as_the_model_was_trained(seeing):
    whole, model = seeing
    half = model.half("visual")
    assert half.kind == ("video" if model.num_frames else "image")
    assert half.logit_scale == pytest.approx(float(whole.logit_scale.detach().exp()))
    with pytest.raises(TCAFError, match=r"embeds visual, not audio$"):
        model.half("audio")


def test_sounds_are_embedded_as_transformers_does(hearing):
    whole, model, features = hearing
    windows = tones(440, 1001, 3001)
    given = features(list(windows), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        expected = whole.get_audio_features(
            input_features=given["input_features"].float(),
            is_longer=torch.zeros(3, 1, dtype=torch.bool),
        ).pooler_output.numpy()
    found = model.embed_samples(windows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(model.embed_samples(windows), found)
    assert found.shape == (3, model.dim("audio")) == (3, 13)
    assert (model.sample_rate, model.max_samples) == (RATE, 4 * RATE)
    assert model.half("audio").logit_scale == pytest.approx(
        float(whole.logit_scale_a.detach().exp())
    )


def test_a_text_of_clap_is_cut_at_the_positions_that_it_has(hearing, monkeypatch):
    _, model, _ = hearing
    monkeypatch.setattr(model._tokenizer, "model_max_length", int(1e30))
    # 16 positions, of which those up to the padding's number, 0, hold no token.
    assert model._max_len == 15
    assert model.embed_text([" ".join(["cat"] * 40)], "audio").shape == (1, 13)


def test_pe_av_is_embedded_as_its_own_forward_does(perception):
    whole, model = perception
    sounds, frames = tones(440, 1001, seconds=0.5), random_windows(2, 4, 22, 22)
    pixels = torch.from_numpy(np.moveaxis(frames, -1, 2)).float() / 255
    samples = model._samples_processor(list(sounds), sampling_rate=RATE, return_tensors="pt")
    tokens = model._tokenizer(PHRASES[:2], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = whole(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            input_values=samples["input_values"],
            padding_mask=samples["padding_mask"],
            pixel_values_videos=pixels,
        )
        seen = model.half("visual").embed({"pixel_values_videos": pixels})
    np.testing.assert_allclose(model.embed_samples(sounds), expected.audio_embeds, atol=1e-5)
    np.testing.assert_allclose(seen, expected.video_embeds, atol=1e-5)
    for modality, text in (
        ("audio", expected.text_audio_embeds),
        ("visual", expected.text_video_embeds),
    ):
        np.testing.assert_allclose(model.embed_text(PHRASES[:2], modality), text, atol=1e-5)
    assert float((expected.text_audio_embeds - expected.text_video_embeds).abs().max()) > 0.01
    assert [model.half(m).kind for m in ("audio", "visual")] == ["audio", "video"]
    assert model.half("audio").logit_scale is None


def test_a_video_processor_without_its_packages_says_what_to_install(perception, monkeypatch):
    _, model = perception
    pytest.importorskip("transformers")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("torchvision is installed")
    settings = {
        "video_processor_type": "PeVideoVideoProcessor",
        "size": {"height": 22, "width": 22},
    }
    (model.folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(TCAFError, match=r"video processor in .* needs a package .* torchvision"):
        model.embed_frames(random_windows(1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "^expected the folder of a transformers model at"),
        (lambda f: (f / "config.json").write_text("{}"), "expected the settings of a model, with"),
        (lambda f: (f / "config.json").write_text("{"), "expected the folder of a transformers"),
        (lambda f: (f / "model.safetensors").unlink(), "^expected model.safetensors in"),
        (lambda f: (f / "model.safetensors").write_text("no"), "does not load: "),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "novelty"}'),
            "does not load: ",
        ),
    ],
)
def test_a_folder_that_holds_no_such_model_is_refused(copy, change, message):
    change(copy)
    with pytest.raises(TCAFError, match=message) as raised:
        load_aligned(copy)
    assert "\n" not in str(raised.value)


def test_weights_that_lack_are_refused(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(TCAFError, match=r"no weights, .* for 'visual_projection.weight'$"):
        load_aligned(copy)


def test_pickles_are_not_opened(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(TCAFError, match=r"weights in pickles are not read$"):
        load_aligned(copy)


def test_a_model_without_text_is_refused(tmp_path):
    import transformers

    config = transformers.ViTConfig(**write_aligned._VISION)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(TCAFError, match=r"ViTModel, does not embed text beside pictures, videos"):
        load_aligned(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(copy):
    settings = json.loads((copy / "config.json").read_text())
    settings["text_config"]["vocab_size"] = 11
    (copy / "config.json").write_text(json.dumps(settings))
    tensors = load_file(copy / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = tensors[name][:11].clone()
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(TCAFError, match=r"has 22 tokens, the model 11; they do not belong togeth"):
        load_aligned(copy).embed_text(["cat"], "visual")
    for name in ("tokenizer.json", "vocab.json", "vocab.txt"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(TCAFError, match=r"^expected a tokenizer in .*, found no tokenizer.json or"):
        load_aligned(copy).embed_text(["cat"], "visual")


def test_a_list_of_weights_names_files_beside_it(copy):
    index = copy / "model.safetensors.index.json"
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    names = [path.name for path in model_files(copy)]
    assert names == ["config.json", "preprocessor_config.json", "model-00001-of-00001.safetensors"]
    for content in ('{"weight_map": {"a": "../../other"}}', "[]", '{"weight_map": 3}'):
        index.write_text(content)
        with pytest.raises(TCAFError, match=r"is damaged: .*; fetch the model again$"):
            model_files(copy)


def test_both_sides_share_a_model(clip_folder):
    assert load_aligned(clip_folder) is load_aligned(clip_folder)
