"""Writes a folder with one whole file of each kind that a command reads."""

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from damaged import write_clip
from tcaf.commands.entry import main
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.extract.corpus import Backbones, extract_files
from tcaf.extract.work_folder import MediaFile
from tcaf.training.observers import Silence
from tcaf.training.run import Run, train
from write_official import LISTS, METHOD, WORDS, vectors, write_lists, write_vectors, write_words
from write_tfrecord import example, sequence, write_records
from write_words import write_bin, write_glove

SETTINGS = """
[model]
num_layers = 1
num_heads = 3
head_dim = 2
token_dim = 13
joint_dim = 17
encoder_hidden_dim = 19
projection_hidden_dim = 23
feed_forward_dim = 29
position_dim = 4

[training]
epochs = 2
batches_per_epoch = 2
batch_size = 11
device = "cpu"
"""

AUDIO, VISUAL = "logmel", "efficientnet_lite0:frames=1"

MEDIA = {
    "mp4": {},
    "mov": {"video_codec": "mpeg4", "audio_codec": "pcm_s16le", "sample_rate": 8_000},
    "mkv": {"video_codec": "ffv1", "pixels": "yuv444p", "audio_codec": "flac"},
    "avi": {"video_codec": "mpeg4", "audio_codec": "mp3"},
    "webm": {"video_codec": "libvpx-vp9", "audio_codec": "libopus", "sample_rate": 48_000},
    "ts": {"sample_rate": 48_000, "layout": "stereo"},
    "flv": {"sample_rate": 44_100},
    "mpg": {"seconds": 0, "audio_seconds": 1, "audio_codec": "mp2", "sample_rate": 48_000},
    "wav": {"seconds": 0, "audio_seconds": 1, "audio_codec": "pcm_s16le", "sample_rate": 8_000},
    "aiff": {"seconds": 0, "audio_seconds": 1, "audio_codec": "pcm_s16be", "sample_rate": 8_000},
    "flac": {"seconds": 0, "audio_seconds": 1, "audio_codec": "flac"},
    "mp3": {"seconds": 0, "audio_seconds": 1, "audio_codec": "mp3"},
    "ogg": {"seconds": 0, "audio_seconds": 1, "audio_codec": "vorbis", "layout": "stereo"},
    "m4a": {"seconds": 0, "audio_seconds": 1},
}
"""Arguments of `write_clip` by what a file's name ends in."""


def run(*command):
    """Runs a command that has to end well."""
    assert main(list(map(str, command))) == 0, command


def write_one_of_each(folder: Path) -> Path:
    """Writes into an empty folder; returns it."""
    _write_runs(folder)
    _write_text(folder)
    _write_official(folder / "official")
    _write_youtube8m(folder / "youtube8m")
    _write_audioset(folder / "audioset")
    _write_release(folder / "release")
    _write_media(folder)
    return folder


class Stop(Silence):
    """Interrupts a run before stage 2."""

    def stage_started(self, stage, epochs, done):
        if stage == 2:
            raise KeyboardInterrupt


def _write_runs(folder):
    (folder / "mine.toml").write_text(SETTINGS)
    size = ("--looks", 3, "--motions", 2, "--sounds", 2, "--clips_per_class", 20)
    dims = ("--audio_dim", 5, "--visual_dim", 7, "--relations", "together")
    run("prepare", "synthetic", *size, *dims, "--out", folder / "store")
    given = ("--store", folder / "store", "--config", folder / "mine.toml")
    run("train", *given, "--out", folder / "run")
    # An unfinished run: what a kill between two epochs leaves.
    settings = Run(folder / "run").experiment
    with suppress(KeyboardInterrupt):
        train(settings, FeatureStore.open(folder / "store"), folder / "stopped", observer=Stop())
    run("store", "to-parquet", folder / "store", "--out", folder / "copy")
    rows = ("--models", "ridge", "--seeds", 0, "--table", 1)
    run("reproduce", *rows, *given, "--out", folder / "table")


def _write_text(folder):
    names = sorted(set(FeatureStore.open(folder / "store").class_names.tolist()))
    words = sorted({word for name in names for word in name.replace(",", " ").split()})
    by_word = {word: [0.5, len(word), 1.0] for word in words}
    write_glove(folder / "words.txt", by_word, header=True)
    write_bin(folder / "words.bin", by_word)
    rows = [f'"{name}",{number},1' for number, name in enumerate(names)]
    (folder / "attributes.csv").write_text("class,a,b\n" + "\n".join(rows) + "\n")
    phrases = [f'"{name}",{name.split()[0]}' for name in names]
    (folder / "phrases.csv").write_text("name,phrase\n" + "\n".join(phrases) + "\n")
    (folder / "templates.txt").write_text(f"# mine\n{words[0]} {{}}\n{{}}\n")
    (folder / "names.txt").write_text("\n".join(names[:3]) + "\n")
    np.save(folder / "vectors.npy", np.array({n: np.ones(3) for n in names}, object))


def _write_official(root):
    write_lists(root / "class-split" / "cls_split", LISTS)
    write_words(root / "ucf_w2v_class_names.csv", WORDS)
    stages = {
        **dict.fromkeys(("stage_1_train", "stage_1_val_seen", "stage_2_test_seen"), "Archery"),
        "stage_1_val_unseen": "PlayingFlute",
        "stage_2_test_unseen": "Playing_Cello",
    }
    for stage, name in stages.items():
        for modality, dim in (("audio", 3), ("video", 5)):
            file = root / "features" / METHOD / modality / stage / f"{name}.pkl"
            file.parent.mkdir(parents=True, exist_ok=True)
            clips = [f"{stage}-{number}" for number in range(3)]
            arrays = [np.full((4, dim), number, np.float32) for number in range(3)]
            content = {"features": arrays, "video_names": clips, "fps": [25] * 3}
            file.write_bytes(pickle.dumps(content, protocol=4))
    write_vectors(root, vectors())


def _write_youtube8m(folder):
    rng = np.random.default_rng(0)
    (folder / "videos").mkdir(parents=True)
    (folder / "frames").mkdir()
    names = {2: "Dog", 3: "Drifting (motorsport)", 5: "Cake", 7: "Harp"}
    head = "Index,Name,Vertical1,Vertical2,Vertical3,WikiDescription\n"
    rows = [f'{label},{name},Pets,,,"A thing. It is."\n' for label, name in names.items()]
    (folder / "vocabulary.csv").write_text(head + "".join(rows))
    partitions = zip(names.items(), ("train", "val_unseen", "train", "test_unseen"), strict=True)
    rows = [f"{label},{name},{partition}\n" for (label, name), partition in partitions]
    (folder / "classes.csv").write_text("label,name,partition\n" + "".join(rows))
    of_videos, of_frames = [], []
    for number in range(12):
        values = {"id": [b"v%02d" % number], "labels": [list(names)[number % 4]]}
        means = {"mean_audio": rng.normal(size=3), "mean_rgb": rng.normal(size=5)}
        of_videos.append(example(values | means))
        steps = {"audio": [rng.bytes(3)] * 2, "rgb": [rng.bytes(5)] * 2}
        of_frames.append(sequence(values, steps))
    write_records(folder / "videos" / "one.tfrecord", of_videos)
    write_records(folder / "frames" / "one.tfrecord", of_frames)


def _write_audioset(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    names = dict(enumerate(("Speech", "Harp", "Rain", '"Baby cry, infant cry"')))
    rows = [f"{label},/m/{label},{name},Sound|Thing,A sound.\n" for label, name in names.items()]
    (folder / "vocabulary.csv").write_text("index,mid,name,parents,description\n" + "".join(rows))
    subsets = zip(names.items(), ("train", "val_unseen", "train", "test_unseen"), strict=True)
    rows = [f"{label},/m/{label},{name},{subset}\n" for (label, name), subset in subsets]
    (folder / "classes.csv").write_text("index,mid,name,subset\n" + "".join(rows))
    clips = []
    for number in range(12):
        values = {"video_id": [b"v%02d" % number], "labels": [number % 4]}
        clips.append(sequence(values, {"audio_embedding": [rng.bytes(128)] * 2}))
    write_records(folder / "one.tfrecord", clips)


def _write_release(folder):
    weights = np.load(Path(__file__).parent / "golden" / "weights.npz")
    state = {name: torch.from_numpy(np.array(weights[name])) for name in weights.files}
    folder.mkdir()
    torch.save({"model": state, "epoch": 3}, folder / "release.pt")
    rng = np.random.default_rng(0)
    with new_store(folder / "store", FeatureSpec(12, 32, 0.96, 0.64, "vggish", "c3d")) as writer:
        audio, visual = rng.normal(size=(3, 12)), rng.normal(size=(5, 32))
        writer.add(VideoFeatures("c", audio, visual, "T", "test_seen"))
        writer.splits["cls"] = Split(("T",), ("V",), ("U",))
        text = {name: rng.normal(size=300) for name in "TVU"}
        writer.add_text("word2vec", text)
        writer.add_text("word2vec_release_order", text)
    given = ("--store", folder / "store", "--num_heads", 2, "--gamma", 0)
    run("import-checkpoint", folder / "release.pt", *given, "--out", folder / "model")


def _write_media(folder):
    """Writes files, a model for such features, and clips with all tables and their features."""
    (folder / "media").mkdir()
    for ending, given in MEDIA.items():
        write_clip(folder / "media" / f"clip.{ending}", **{"seconds": 1, "fps": 10, **given})
    (folder / "inbox").mkdir()
    write_clip(folder / "inbox" / "good.wav", 0, audio_seconds=1, audio_codec="pcm_s16le")
    files = []
    for number in range(24):
        path = folder / "clips" / f"v_{number:02}.wav"
        path.parent.mkdir(exist_ok=True)
        write_clip(path, 0, audio_seconds=1, audio_codec="pcm_s16le")
        os.utime(path, ns=(10**18, 10**18))
        files.append(MediaFile(path.name, path))
    extracted = folder / "new.extracted"
    stretches = [MediaFile(file.name, file.path, (0.0, 1.0)) for file in files]
    spec, _ = extract_files([*files, *stretches], Backbones(AUDIO, VISUAL), extracted, workers=1)
    classes, uses = ("a", "b", "c", "d"), ("train", "train", "train", "val", "test", "test")
    rows = [(f.id, classes[n % 4], uses[n // 4], f"g{n}") for n, f in enumerate(files)]
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        lines = [("file", "class", "part", "group"), *rows]
        text = "".join(delimiter.join(cells) + "\n" for cells in lines)
        (folder / f"labels.{ending}").write_text(text)
    subsets = {"train": "training", "val": "validation", "test": "testing"}
    database = {
        file.removesuffix(".wav").removeprefix("v_"): {
            "subset": subsets[use],
            "annotations": [{"label": name, "segment": [0.0, 1.0]}],
        }
        for file, name, use, _ in rows
    }
    (folder / "labels.json").write_text(json.dumps({"database": database}))
    ids = [(file.removesuffix(".wav").removeprefix("v_"), name, use) for file, name, use, _ in rows]
    lines = ["label,youtube_id,time_start,time_end,split"]
    lines += [f"{name},{id},0,1,{use}" for id, name, use in ids]
    (folder / "kinetics.csv").write_text("".join(f"{line}\n" for line in lines))
    lines = ["Category&VideoID&Quality&StartTime&EndTime"]
    lines += [f"{name}&{id}&good&0&1" for id, name, _ in ids]
    (folder / "Annotations.txt").write_text("".join(f"{line}\n" for line in lines))
    lines = [f"{name}/{file} {ord(name) - 96}" for file, name, *_ in rows]
    (folder / "trainlist01.txt").write_text("".join(f"{line}\n" for line in lines))
    places = zip(classes, ("train", "train", "val_unseen", "test_unseen"), strict=True)
    text = "class,subset\n" + "".join(f"{name},{place}\n" for name, place in places)
    (folder / "classes.csv").write_text(text)
    rng = np.random.default_rng(0)
    with new_store(folder / "clip_store", spec) as writer:
        for number, (file, name, *_) in enumerate(rows):
            part = {"c": "val_unseen", "d": "test_unseen"}.get(name)
            part = part or ("stage_1_train", "val_seen", "test_seen")[number // 4 % 3]
            audio, visual = (rng.normal(size=(2, d)) for d in (spec.audio_dim, spec.visual_dim))
            writer.add(VideoFeatures(file, audio, visual, name, part))
        writer.splits["cls"] = Split(("a", "b"), ("c",), ("d",))
        writer.add_text("made", {name: rng.normal(size=3) for name in classes})
    given = ("--store", folder / "clip_store", "--config", folder / "mine.toml")
    run("train", *given, "--out", folder / "clip_run")
