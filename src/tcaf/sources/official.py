"""Reads the feature folders that the authors of AVCA and TCaF distribute.

Owns their layout: pickled features by stage and class. Audio and visual features are joined by clip
id and never by position, and no order comes from the file system (fidelity row 23). The pickles are
read by `safe_pickle`, which runs nothing that they say. Class lists and word vectors are
`official_lists`, checkpoints `systems.release_checkpoint`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from tcaf.data.features import MODALITIES, FeatureSpec, Modality, VideoFeatures
from tcaf.data.shards import Dtype
from tcaf.data.splits import Split, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.data.writer import StoreWriter, new_store
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.extract.backbones import canonical_name
from tcaf.files.safe_pickle import read_pickle
from tcaf.progress import Track, silent
from tcaf.sources.official_lists import (
    find_one,
    read_splits,
    vectors_by_name,
    vectors_in_release_order,
)

# Part of this module's interface: whoever has the authors' files looks for their weights here.
from tcaf.text.sources import read_named_vectors

STAGES = {
    "stage_1_train": "stage_1_train",
    "val_seen": "stage_1_val_seen",
    "val_unseen": "stage_1_val_unseen",
    "test_seen": "stage_2_test_seen",
    "test_unseen": "stage_2_test_unseen",
}
"""The authors' name of each of `splits.PARTS`."""

FOLDERS: dict[Modality, str] = {"audio": "audio", "visual": "video"}
MEDIA_ENDINGS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4a", ".wav", ".flac", ".mp3")

Layout = dict[Modality, tuple[int, int]]
"""For each modality the axes of a clip's array, 2 or (averaged over time) 1, and its last size."""


@dataclass(frozen=True)
class ClassFiles:
    """The feature files of one class in one part; None where a modality has none."""

    part: str
    class_name: str
    audio: Path | None
    visual: Path | None

    def path(self, modality: Modality) -> Path | None:
        """Returns the file of a modality."""
        return self.audio if modality == "audio" else self.visual


def clip_id(name: object) -> str:
    """Returns a clip's id: its file name without folder and media ending.

    Raises:
        TCAFError: the name is neither text nor UTF-8 bytes, or is empty.
    """
    try:
        text = name.decode("utf-8") if isinstance(name, bytes) else name
    except UnicodeDecodeError:
        raise TCAFError(f"clip name {name!r} is not UTF-8") from None
    if not isinstance(text, str):
        raise TCAFError(f"expected a clip name, got {name!r:.60}")
    base = str(text).replace("\\", "/").rsplit("/", 1)[-1]
    ending = next((end for end in MEDIA_ENDINGS if base.lower().endswith(end)), "")
    clip = base[: len(base) - len(ending)]
    if not clip:
        raise TCAFError(f"clip name {text!r} has no file name")
    return clip


def _array(feature: object, where: str) -> Float[np.ndarray, "*len dim"]:
    try:
        array = np.asarray(feature)
    except ValueError:
        raise TCAFError(f"{where}: expected an array, got rows of unequal length") from None
    if array.dtype.kind not in "fiu" or array.ndim not in (1, 2):
        raise TCAFError(
            f"{where}: expected numbers of shape (len, dim), "
            f"got {array.dtype} of shape {tuple(array.shape)}"
        )
    if not array.size:
        raise TCAFError(f"{where} is empty: its array has shape {tuple(array.shape)}")
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def _listed(value: object, key: str, path: Path) -> Sequence[Any] | np.ndarray:
    listed = value.get(key) if isinstance(value, dict) else None
    if isinstance(listed, list | tuple) or (isinstance(listed, np.ndarray) and listed.ndim):
        return listed
    found = f"{key} is {listed!r:.40}" if isinstance(value, dict) else type(value).__name__
    raise TCAFError(f"expected a dict with lists features and video_names in {path}, got {found}")


def read_class_file(path: Path) -> dict[str, Float[np.ndarray, "*len dim"]]:
    """Reads one `<Class>.pkl`: the array of each clip id, in the file's order.

    Raises:
        TCAFError: not such a file, one clip twice, a clip that is empty or not numeric.
    """
    value = read_pickle(path)
    names, features = (_listed(value, key, path) for key in ("video_names", "features"))
    if len(features) != len(names):
        raise TCAFError(f"{path} holds {len(features)} features and {len(names)} video_names")
    clips: dict[str, np.ndarray] = {}
    for name, feature in zip(names, features, strict=True):
        try:
            clip = clip_id(name)
        except TCAFError as error:
            raise TCAFError(f"{error} (in {path})") from None
        if clip in clips:
            raise TCAFError(f"{path} holds clip {clip!r} twice")
        clips[clip] = _array(feature, f"clip {clip!r} in {path}")
    return clips


def _stage_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.pkl")):
        if path.name.startswith("."):
            continue
        other = files.setdefault(path.stem.casefold(), path)
        if other != path:
            raise TCAFError(f"two files of one class: {other} and {path}")
    return files


def find_class_files(
    features: Path, splits: Mapping[str, Split]
) -> tuple[list[ClassFiles], dict[str, list[str]]]:
    """Joins feature files to listed classes by name, whatever the letter case.

    Args:
        features: the folder `features/<method>`.
        splits: a class counts for a part if any of these lists it there.

    Returns:
        What is to be read, in order of part and class; and by reason what has no counterpart.

    Raises:
        TCAFError: two files of a part differ in letter case only.
    """
    jobs: list[ClassFiles] = []
    left_out: dict[str, list[str]] = {}
    for part, stage in STAGES.items():
        files = {m: _stage_files(features / FOLDERS[m] / stage) for m in MODALITIES}
        classes = sorted({name for split in splits.values() for name in split.part_classes(part)})
        for name in classes:
            job = ClassFiles(part, name, *(files[m].get(name.casefold()) for m in MODALITIES))
            if job.audio or job.visual:
                jobs.append(job)
            else:
                left_out.setdefault("class without feature files", []).append(f"{part}/{name}")
        either = files["visual"] | files["audio"]
        for key in sorted(set(either) - {name.casefold() for name in classes}):
            left_out.setdefault("class in no list", []).append(f"{part}/{either[key].stem}")
    return jobs, left_out


def find_layout(jobs: Sequence[ClassFiles]) -> Layout:
    """Returns axes and size of the first clip of each modality.

    Raises:
        TCAFError: a modality has no clip.
    """
    layout: Layout = {}
    for modality in MODALITIES:
        paths = (path for job in jobs if (path := job.path(modality)))
        first = next((array for path in paths for array in read_class_file(path).values()), None)
        if first is None:
            raise TCAFError(f"no {modality} features for any listed class")
        layout[modality] = (first.ndim, first.shape[-1])
    return layout


def add_class(
    writer: StoreWriter, files: ClassFiles, layout: Layout, placed: dict[str, str]
) -> None:
    """Adds the clips of one class and part that have both modalities, in order of id.

    Args:
        writer: where they go; clips that lack a modality are noted there.
        files: which clips.
        layout: what every array is checked against.
        placed: part and class of each clip added so far; grows.

    Raises:
        TCAFError: a clip has other dimensions, NaN or infinite values, or was added before.
    """
    paths = {m: files.path(m) for m in MODALITIES}
    found = {m: read_class_file(path) if path else {} for m, path in paths.items()}
    place = f"{files.part}/{files.class_name}"
    for clip in sorted({*found["audio"], *found["visual"]}):
        missing = [m for m in MODALITIES if clip not in found[m]]
        if missing:
            writer.leave_out(f"no {missing[0]} features", clip)
            continue
        if clip in placed:
            raise TCAFError(f"split overlap: clip {clip!r} stands in {placed[clip]} and {place}")
        tokens = []
        for modality, (ndim, dim) in layout.items():
            array = found[modality][clip]
            if array.ndim != ndim or array.shape[-1] != dim:
                expected = f"(len, {dim})" if ndim == 2 else f"({dim},)"
                raise TCAFError(
                    f"clip {clip!r} in {paths[modality]}: expected {modality} features of shape "
                    f"{expected} as in the first file, got {tuple(array.shape)}"
                )
            tokens.append(array.reshape(-1, dim))
        try:
            writer.add(VideoFeatures(clip, tokens[0], tokens[1], files.class_name, files.part))
        except TCAFError as error:
            raise TCAFError(f"{error} (in {paths['audio']} or {paths['visual']})") from None
        placed[clip] = place


def _keep_text(writer: StoreWriter, words: Mapping[str, str], path: Path) -> None:
    vectors = read_named_vectors(path)
    chosen = {name: words[name] for name in writer.phrases}
    try:
        writer.add_text("word2vec", vectors_by_name(chosen, vectors))
    except TCAFError as error:
        raise TCAFError(f"{error} (in {path})") from None
    if len(vectors) == len(words):
        released = vectors_in_release_order(words, vectors)
        writer.add_text("word2vec_release_order", {name: released[name] for name in chosen})


def find_features(root: Path, method: str) -> Path:
    """Returns the folder `features/<method>`.

    Raises:
        TCAFError: there is none, or a modality is missing in it; names the methods there are.
    """
    folder = root / "features" / method
    if not folder.is_dir():
        methods = sorted(path.name for path in root.glob("features/*") if path.is_dir())
        known = f"; there are {shorten(methods)}" if methods else ""
        hint = did_you_mean(method, methods)
        raise TCAFError(f"expected a folder of features at {folder}{known}{hint}")
    for name in FOLDERS.values():
        if not (folder / name).is_dir():
            raise TCAFError(f"expected a folder {name} in {folder}, found none")
    return folder


def _spec(layout: Layout, steps: Mapping[Modality, float], classes: Sequence[str]) -> FeatureSpec:
    for modality, step in steps.items():
        if not (math.isfinite(step) and step > 0):
            raise TCAFError(f"{modality}_step_s must be seconds above 0, got {step}")
    values: dict[str, Any] = {}
    for modality, (ndim, dim) in layout.items():
        values[f"{modality}_dim"] = dim
        values[f"{modality}_step_s"] = steps[modality] if ndim == 2 else None
    # As the authors extracted them: colours inverted, on ActivityNet alone they are not.
    activitynet = set(classes) <= set(load_benchmark("activitynet").words)
    colours = "release_activitynet" if activitynet else "release"
    visual = canonical_name("c3d", {"colours": colours})
    return FeatureSpec(**values, audio_backbone="vggish", visual_backbone=visual)


def prepare_official(
    root: Path,
    out: Path,
    *,
    method: str = "cls_features_non_averaged",
    benchmark: Literal["ucf", "vggsound", "activitynet"] | None = None,
    audio_step_s: float = 0.96,
    visual_step_s: float = 0.64,
    dtype: Dtype = "float16",
    overwrite: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Turns a feature folder of the AVCA and TCaF authors into a feature store.

    Reads `<root>/features/<method>/{audio,video}/<stage>/<Class>.pkl` and, if it is there, the
    file of word vectors in `text`. A clip enters the store if it has audio and visual features;
    every other is counted and named. Nothing in the pickles is executed.

    Word vectors are kept as `word2vec`, looked up by name, and as `word2vec_release_order`, which
    repeats a slip of the authors' release that gives many classes another's vector; the latter
    only where there are as many vectors as classes.

    Args:
        root: the folder of one data set, with `features` and, as a rule, `class-split` in it.
        out: the folder to make; it appears whole or not at all.
        method: which folder in `features`; one whose arrays are averaged over time gives clips of
            one token each.
        benchmark: whose published class lists to take where `root` has none of its own.
        audio_step_s: seconds from one audio token to the next.
        visual_step_s: seconds from one visual token to the next: the authors' windows of 16 frames
            at 25 frames per second. The `fps` in the files is not used.
        dtype: how tokens are kept on disk; float16 takes half the room.
        overwrite: replace a feature store that is at `out` already.
        track: shows how many class files are done.

    Raises:
        TCAFError: the folder lacks a part, a file is damaged or would import something, a clip is
            empty, not finite or of other dimensions than the first, a clip stands in two parts,
            a class has no word vector.
    """
    root, out = Path(root), Path(out)
    features = find_features(root, method)
    splits, words = read_splits(root, benchmark)
    jobs, left_out = find_class_files(features, splits)
    layout = find_layout(jobs)
    classes = sorted({name for split in splits.values() for name in split.classes})
    spec = _spec(layout, {"audio": audio_step_s, "visual": visual_step_s}, classes)
    with new_store(out, spec, dtype=dtype, overwrite=overwrite) as writer:
        writer.splits = splits
        writer.phrases = {name: {"name": [words[name]]} for name in classes}
        writer.left_out = left_out
        writer.source = {"kind": "official", "method": method, "benchmark": benchmark}
        if vectors := find_one([features / "text", root], "word_embeddings_*_normed.npy"):
            _keep_text(writer, words, vectors)
        placed: dict[str, str] = {}
        for files in track(jobs, "class files"):
            add_class(writer, files, layout, placed)
    return FeatureStore.open(out)
