"""The authors' feature folders, built small and with real pickles."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tcaf.data.splits import BENCHMARKS, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.errors import TCAFError
from tcaf.sources.official import _spec, clip_id, prepare_official, read_class_file
from tcaf.sources.official_lists import read_splits
from write_official import LISTS, METHOD, WORDS, vectors, write_lists, write_vectors, write_words

AUDIO_DIM, VISUAL_DIM = 3, 5
STAGE_CLASSES = {
    "stage_1_train": ["HandStandPushups", "Archery"],
    "stage_1_val_seen": ["HandStandPushups", "Archery"],
    "stage_1_val_unseen": ["PlayingFlute"],
    "stage_2_test_seen": ["HandStandPushups", "Archery", "PlayingFlute"],
    "stage_2_test_unseen": ["Playing_Cello"],
}


def tokens(clip: str, dim: int, length: int) -> np.ndarray:
    """Returns values that depend on the clip's name alone, exact in float16."""
    code = sum(clip.encode()) % 97
    return (code + np.arange(length * dim, dtype=np.float32) / 8).reshape(length, dim)


def clips(stage: str, name: str) -> list[str]:
    return [f"{stage}-{name}-{number}" for number in (2, 0, 1)]


def write_class(path: Path, arrays: dict, protocol: int = 4, fps: int = 25) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "features": list(arrays.values()),
        "video_names": list(arrays),
        "fps": [fps] * len(arrays),
    }
    path.write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.fixture
def root(tmp_path) -> Path:
    """A whole folder: audio and visual files differ in order, name type, folder and protocol."""
    root = tmp_path / "UCF"
    write_lists(root / "class-split" / "cls_split", LISTS)
    write_words(root / "ucf_w2v_class_names.csv", WORDS)
    for stage, classes in STAGE_CLASSES.items():
        for name in classes:
            ids = clips(stage, name)
            audio = {f"a/b/{c}.wav".encode(): tokens(c, AUDIO_DIM, 2 + len(c) % 2) for c in ids}
            visual = {f"{c}.avi": tokens(c, VISUAL_DIM, 4) for c in reversed(ids)}
            write_class(file(root, "audio", stage, name), audio, protocol=2)
            spelled = name.replace("HandStand", "Handstand")
            write_class(file(root, "video", stage, spelled), visual, protocol=5)
    write_vectors(root, vectors())
    return root


def file(root: Path, folder: str, stage: str, name: str) -> Path:
    return root / "features" / METHOD / folder / stage / f"{name}.pkl"


def refused(root: Path, out: Path, **options) -> str:
    with pytest.raises(TCAFError) as caught:
        prepare_official(root, out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_audio_and_visual_are_joined_by_clip_id(root, tmp_path):
    store = prepare_official(root, tmp_path / "store")
    assert len(store) == 3 * 9
    for clip in store:
        np.testing.assert_array_equal(clip.audio, tokens(clip.id, AUDIO_DIM, 2 + len(clip.id) % 2))
        np.testing.assert_array_equal(clip.visual, tokens(clip.id, VISUAL_DIM, 4))
        stage, name, _ = clip.id.split("-")
        assert clip.class_name == name.replace("HandStand", "Handstand")
        assert clip.part == {
            "stage_1_train": "stage_1_train",
            "stage_1_val_seen": "val_seen",
            "stage_1_val_unseen": "val_unseen",
            "stage_2_test_seen": "test_seen",
            "stage_2_test_unseen": "test_unseen",
        }.get(stage)
    assert store.left_out == {}


def test_rows_are_in_order_of_part_class_and_id(root, tmp_path):
    ids = prepare_official(root, tmp_path / "store").ids
    assert ids[:4] == [
        "stage_1_train-Archery-0",
        "stage_1_train-Archery-1",
        "stage_1_train-Archery-2",
        "stage_1_train-HandStandPushups-0",
    ]
    assert ids[-1] == "stage_2_test_unseen-Playing_Cello-2"


def test_the_store_says_what_it_holds(root, tmp_path):
    store = prepare_official(root, tmp_path / "store", dtype="float32", audio_step_s=0.5)
    spec = store.spec
    assert (spec.audio_dim, spec.visual_dim) == (AUDIO_DIM, VISUAL_DIM)
    assert (spec.audio_step_s, spec.visual_step_s) == (0.5, 0.64)
    assert (spec.audio_backbone, spec.visual_backbone) == ("vggish", "c3d:colours=release")
    assert store.dtype == "float32"
    assert store.source == {"kind": "official", "method": METHOD, "benchmark": None}
    assert list(store.splits) == ["cls"]
    assert store.split("cls").train == ("HandstandPushups", "Archery")
    assert store.split("cls").val_unseen == ("PlayingFlute",)
    assert store.split("cls").test_unseen == ("Playing_Cello",)
    assert store.phrases["PlayingFlute"] == {"name": ["Playing Flute"]}
    assert "Yo Yo" not in store.phrases
    assert len(store.rows("cls", "stage_2_train")) == 15


def test_word_vectors_by_name_and_in_the_release_order(root, tmp_path):
    store = prepare_official(root, tmp_path / "store")
    by_name, released = store.text("word2vec"), store.text("word2vec_release_order")
    assert set(by_name) == set(store.phrases)
    assert {name: int(vector[0]) for name, vector in by_name.items()} == {
        "HandstandPushups": 0,
        "Archery": 1,
        "PlayingFlute": 2,
        "Playing_Cello": 3,
    }
    # Sorted words: Archery 1, Handstand Pushups 0, Playing Cello 3, Playing Flute 2, Yo Yo 4.
    # Sorted classes: Archery, HandstandPushups, PlayingFlute, Playing_Cello, Yo Yo.
    assert {name: int(vector[0]) for name, vector in released.items()} == {
        "Archery": 1,
        "HandstandPushups": 0,
        "PlayingFlute": 3,
        "Playing_Cello": 2,
    }


def test_a_missing_word_vector_names_class_and_nearest(root, tmp_path):
    fewer = vectors()
    fewer["Playing Flutes"] = fewer.pop("Playing Flute")
    path = write_vectors(root, fewer)
    assert refused(root, tmp_path / "store") == (
        "class 'PlayingFlute' has no word vector: none is called 'Playing Flute'; "
        f"did you mean 'Playing Flutes'? (in {path})"
    )


def test_word_vectors_in_another_case_or_number(root, tmp_path):
    fewer = {name.lower(): vector for name, vector in vectors().items()}
    del fewer["yo yo"]
    write_vectors(root, fewer)
    store = prepare_official(root, tmp_path / "store")
    assert store.text_names == ["word2vec"]
    assert store.text("word2vec")["Playing_Cello"][0] == 3


def test_word_vectors_are_optional_and_may_lie_in_the_root(root, tmp_path):
    path = write_vectors(root, vectors())
    path.rename(root / path.name)
    assert "word2vec" in prepare_official(root, tmp_path / "one").text_names
    (root / path.name).unlink()
    assert prepare_official(root, tmp_path / "two").text_names == []


def test_two_files_of_word_vectors(root, tmp_path):
    path = write_vectors(root, vectors())
    (path.parent / "word_embeddings_y_normed.npy").write_bytes(path.read_bytes())
    told = refused(root, tmp_path / "store")
    assert "'word_embeddings_x_normed.npy', 'word_embeddings_y_normed.npy'" in told


def test_clips_and_classes_without_a_counterpart_are_named(root, tmp_path):
    stage = "stage_1_train"
    alone = tokens("alone", AUDIO_DIM, 2)
    ids = clips(stage, "Archery")
    write_class(
        file(root, "audio", stage, "Archery"),
        {"alone": alone} | {c: tokens(c, AUDIO_DIM, 2) for c in ids[1:]},
    )
    file(root, "video", "stage_1_val_unseen", "PlayingFlute").unlink()
    for folder in ("audio", "video"):
        file(root, folder, "stage_1_val_seen", "Archery").unlink()
    write_class(file(root, "audio", "stage_2_test_unseen", "Yo Yo"), {"yo": alone})
    (file(root, "audio", stage, "Archery").parent / "._Archery.pkl").write_bytes(b"not a pickle")
    store = prepare_official(root, tmp_path / "store")
    assert store.left_out == {
        "class without feature files": ["val_seen/Archery"],
        "class in no list": ["test_unseen/Yo Yo"],
        "no visual features": ["alone", *sorted(clips("stage_1_val_unseen", "PlayingFlute"))],
        "no audio features": [ids[0]],
    }  # fmt: skip
    assert len(store) == 27 - 1 - 3 - 3
    assert "alone" not in store.ids
    assert ids[0] not in store.ids


def broken(dim: int, kind: str) -> np.ndarray | list:
    good = np.ones((4, dim), np.float32)
    if kind == "nan":
        good[2, 1] = np.nan
    return {
        "nan": good,
        "dims": good[:, :-1],
        "empty": good[:0],
        "averaged": good[0],
        "text": good.astype(str),
        "cube": good[None],
        "large": good * 1e6,
        "ragged": [[1.0], [1.0, 2.0]],
    }[kind]


@pytest.mark.parametrize("folder", ["audio", "video"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "has the value nan in column 1"),
        ("dims", "expected {m} features of shape (len, {d}) as in the first file, got (4, {e})"),
        ("empty", "is empty: its array has shape (0, {d})"),
        ("averaged", "expected {m} features of shape (len, {d}) as in the first file, got ({d},)"),
        ("text", "expected numbers of shape (len, dim)"),
        ("cube", "expected numbers of shape (len, dim), got float32 of shape (1, 4, {d})"),
        ("large", "does not fit float16"),
        ("ragged", "expected an array, got rows of unequal length"),
    ],
)
def test_a_bad_clip_stops_with_its_name_and_file_and_leaves_nothing(
    root, tmp_path, folder, kind, words
):
    modality, dim = ("audio", AUDIO_DIM) if folder == "audio" else ("visual", VISUAL_DIM)
    stage, name = "stage_2_test_unseen", "Playing_Cello"
    path, ids = file(root, folder, stage, name), clips(stage, name)
    arrays = {clip: np.ones((4, dim), np.float32) for clip in ids}
    write_class(path, arrays | {ids[0]: broken(dim, kind)})
    told = refused(root, tmp_path / "store")
    assert words.format(m=modality, d=dim, e=dim - 1) in told
    assert repr(ids[0]) in told
    assert str(path) in told
    assert [item.name for item in tmp_path.iterdir()] == ["UCF"]


def test_an_older_store_survives_a_failed_overwrite(root, tmp_path):
    out = tmp_path / "store"
    before = prepare_official(root, out).fingerprint
    assert "holds a feature store already" in refused(root, out)
    path = file(root, "audio", "stage_2_test_unseen", "Playing_Cello")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert str(path) in refused(root, out, overwrite=True)
    assert FeatureStore.open(out).fingerprint == before
    FeatureStore.open(out).verify()
    path.write_bytes(whole)
    changed = prepare_official(root, out, overwrite=True, dtype="float32")
    assert changed.fingerprint != before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["UCF", "store"]


def test_a_clip_in_two_parts_is_an_overlap(root, tmp_path):
    ids = clips("stage_1_train", "Archery")
    for folder, dim in (("audio", AUDIO_DIM), ("video", VISUAL_DIM)):
        write_class(
            file(root, folder, "stage_2_test_seen", "Archery"), {ids[0]: tokens(ids[0], dim, 2)}
        )
    assert refused(root, tmp_path / "store") == (
        f"split overlap: clip {ids[0]!r} stands in stage_1_train/Archery and test_seen/Archery"
    )


def test_a_clip_twice_in_one_file(root, tmp_path):
    path = file(root, "audio", "stage_1_train", "Archery")
    write_class(path, {"x/a.mp4": np.ones((1, 3)), b"a": np.ones((1, 3))})
    assert refused(root, tmp_path / "store") == f"{path} holds clip 'a' twice"


def test_two_files_of_one_class(root, tmp_path):
    path = file(root, "audio", "stage_1_train", "Archery")
    (path.parent / "archery.pkl").write_bytes(path.read_bytes())
    if len(list(path.parent.glob("[aA]rchery.pkl"))) == 1:
        pytest.skip("this file system does not tell letter case apart")
    assert "two files of one class" in refused(root, tmp_path / "store")


def test_a_malicious_feature_file_is_refused_unrun(root, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'touched'}",)

    path = file(root, "video", "stage_2_test_seen", "PlayingFlute")
    write_class(path, {"a": Attack()})
    assert f"{path} would import posix.system" in refused(root, tmp_path / "store")
    assert not (tmp_path / "touched").exists()


def test_averaged_features_are_one_token_without_a_step(root, tmp_path):
    for stage, classes in STAGE_CLASSES.items():
        for name in classes:
            audio = {c: tokens(c, AUDIO_DIM, 1)[0] for c in clips(stage, name)}
            write_class(file(root, "audio", stage, name), audio)
    store = prepare_official(root, tmp_path / "store")
    assert (store.spec.audio_step_s, store.spec.visual_step_s) == (None, 0.64)
    assert store[0].audio.shape == (1, AUDIO_DIM)
    np.testing.assert_array_equal(store[0].audio, tokens(store[0].id, AUDIO_DIM, 1))


@pytest.mark.parametrize(
    "content",
    [
        [np.ones(3)],
        {"features": [np.ones((1, 3))]},
        {"features": np.ones((1, 3))[0, 0], "video_names": ["a"]},
        {"features": [np.ones((1, 3))], "video_names": "a"},
        {"features": [np.ones((1, 3))], "video_names": ["a", "b"]},
        {"features": [np.ones((1, 3))], "video_names": [7]},
        {"features": [np.ones((1, 3))], "video_names": [b"\xff"]},
        {"features": [np.ones((1, 3))], "video_names": ["folder/"]},
    ],
)
def test_other_contents_are_refused_with_the_path(tmp_path, content):
    path = tmp_path / "Archery.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(TCAFError, match=r"Archery\.pkl"):
        read_class_file(path)


def test_lists_may_be_arrays(tmp_path):
    path = tmp_path / "Archery.pkl"
    ragged = np.empty(2, object)
    ragged[:] = [np.ones((1, 3)), np.ones((2, 3), np.int32)]
    content = {"features": ragged, "video_names": np.array(["a.mp4", "b.mp4"])}
    path.write_bytes(pickle.dumps(content))
    clips = read_class_file(path)
    assert {name: (a.shape, a.dtype.kind) for name, a in clips.items()} == {
        "a": ((1, 3), "f"),
        "b": ((2, 3), "f"),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v_Archery_g01_c01.avi", "v_Archery_g01_c01"),
        (b"/data/x/-IkL9Kq9zfQ_0.mp4", "-IkL9Kq9zfQ_0"),
        ("C:\\data\\a.MP4", "a"),
        ("v1.5_a", "v1.5_a"),
        (np.str_("a.b.webm"), "a.b"),
    ],
)
def test_clip_ids(name, expected):
    assert clip_id(name) == expected
    assert type(clip_id(name)) is str


def test_main_only_classes_enter_the_store(root, tmp_path):
    write_lists(root / "class-split" / "main_split", {
        "stage_2_test_unseen": ["Playing_Cello", "Yo Yo"]
    })  # fmt: skip
    for folder, dim in (("audio", AUDIO_DIM), ("video", VISUAL_DIM)):
        write_class(file(root, folder, "stage_2_test_unseen", "Yo Yo"), {"y": np.ones((2, dim))})
    store = prepare_official(root, tmp_path / "store")
    assert len(store.rows("cls", "test_unseen")) == 3
    assert len(store.rows("main", "test_unseen")) == 4


def test_a_listed_class_without_words_names_the_nearest(root, tmp_path):
    write_lists(root / "class-split" / "cls_split", {"stage_1_val_unseen": ["PlayingFlutes"]})
    assert refused(root, tmp_path / "store") == (
        "class 'PlayingFlutes' of the class lists has no name in words; "
        "did you mean 'PlayingFlute'?"
    )


def test_published_lists_stand_in_for_missing_ones(root, tmp_path):
    for path in [*(root / "class-split").rglob("*.txt"), root / "ucf_w2v_class_names.csv"]:
        path.unlink()
        told = refused(root, tmp_path / "store")
        assert str(root) in told
    assert "has no class lists in class-split" in told
    assert "--benchmark ucf, vggsound or activitynet" in told
    splits, words = read_splits(root, "ucf")
    published = load_benchmark("ucf")
    assert set(splits) == {"cls", "main"}
    assert splits["main"] == published.splits["main"]
    assert words == published.words


def test_folders_that_are_not_there(root, tmp_path):
    assert refused(root, tmp_path / "store", method="cls_feature_non_averaged").endswith(
        f"cls_feature_non_averaged; there are '{METHOD}'; did you mean '{METHOD}'?"
    )
    (root / "features" / METHOD / "video").rename(root / "video")
    assert "expected a folder video in" in refused(root, tmp_path / "store")
    (root / "features" / METHOD / "video").mkdir()
    assert refused(root, tmp_path / "store") == "no visual features for any listed class"


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_steps_are_seconds_above_zero(root, tmp_path, step):
    assert "visual_step_s" in refused(root, tmp_path / "store", visual_step_s=step)


def test_progress_is_told(root, tmp_path):
    seen = []

    def track(items, description):
        seen.append((len(items), description))
        return items

    prepare_official(root, tmp_path / "store", track=track)
    assert seen == [(9, "class files")]


def test_frames_of_activitynet_were_not_inverted():
    """Fidelity row 21: a model of these features must not get others of new clips."""
    layout = {"audio": (2, 128), "visual": (2, 4096)}
    steps = {"audio": 0.96, "visual": 0.64}
    names = {name: sorted(load_benchmark(name).words)[:3] for name in BENCHMARKS}
    assert {n: _spec(layout, steps, classes).visual_backbone for n, classes in names.items()} == {
        "ucf": "c3d:colours=release",
        "vggsound": "c3d:colours=release",
        "activitynet": "c3d:colours=release_activitynet",
    }
