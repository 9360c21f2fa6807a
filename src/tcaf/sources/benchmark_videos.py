"""The paper's benchmarks from the videos themselves, by the lists of clips that were published.

Owns which file each listed clip is in, and which other clips the lists imply. The lists of classes
are `data.splits`; what becomes of the clips is `videos`. Where the authors published no list
(VGGSound's two for training), the clips follow from what they published: of a class for training
they are all clips of VGGSound, from either of its own parts, that stand in no other list.
"""

import csv
import io
import lzma
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tcaf.data.splits import PARTS, Benchmark, load_benchmark
from tcaf.data.writer import StoreWriter
from tcaf.errors import TCAFError, shorten
from tcaf.extract.media import Segment
from tcaf.extract.work_folder import MediaFile, Reject
from tcaf.sources.annotations import AnnotatedVideo, read_annotations
from tcaf.sources.found_files import PREFIXES, FoundFiles, check_reach
from tcaf.sources.labels import Clip, Listing, group_finder
from tcaf.sources.official_lists import vectors_by_name, vectors_in_release_order
from tcaf.sources.published import CLIP_S, Listed, layout_of, read_published
from tcaf.text.sources import read_named_vectors
from tcaf.text.words import BinaryWordTable, TextWordTable, WordVectors, foldings

TABLES = {"vggsound": "vggsound", "activitynet": "activitynet"}
"""The layout of the table that a benchmark's files may come with; UCF101's need none."""

_VGGSOUND_NAME = re.compile(
    rf"(?:{'|'.join(PREFIXES)})(?P<id>[\w-]{{11}})(?P<times>(?:[_-]\d+(?:\.\d+)?){{1,2}})?"
)
"""What downloaders put first, an id on YouTube, and perhaps the times of a stretch."""

Vectors = Mapping[str, Mapping[str, Float[np.ndarray, " text_dim"]]]
"""Vectors of classes, by the name that a store keeps them under."""

VECTORS = "word2vec"
"""The name under which a store keeps word vectors, which the paper's presets read."""


@dataclass(frozen=True)
class PublishedClip:
    """A clip of a list that was published.

    Args:
        name: as the list has it: `v_Archery_g01_c01`, `ID_000010`, `ID_0`.
        class_name: its class.
        part: one of `splits.PARTS`.
    """

    name: str
    class_name: str
    part: str


def load_clips(benchmark: str) -> list[PublishedClip]:
    """Loads the clips of the lists that come with the package, by class, part and name.

    The lists of clips spell UCF101's class HandstandPushups as its files do, HandStandPushups;
    here it is called as in the lists of classes.
    """
    known = {name.casefold(): name for name in load_benchmark(benchmark).words}
    place = package_files("tcaf") / "benchmarks" / f"{benchmark}_clips.csv.xz"
    rows = csv.reader(io.StringIO(lzma.decompress(place.read_bytes()).decode()))
    next(rows)
    return [
        PublishedClip(name, known[class_name.casefold()], part)
        for class_name, part, names in rows
        for name in names.split(" ")
    ]


def find_benchmark(
    folder: Path, benchmark: str, labels: Sequence[Path] = (), *, trimmed: bool = False
) -> Listing:
    """Lists the clips of a benchmark that are in a folder, each with its part.

    Args:
        folder: with the media files, in any depth: UCF-101 as it is unpacked; VGGSound's clips as
            `ID_000010.mp4`, flat or in folders of their classes; ActivityNet's videos as
            `v_ID.mp4`, or its clips as `ID_0.mp4`.
        benchmark: one of `splits.BENCHMARKS`.
        labels: VGGSound's own table, which says the class of clips for training that lie in no
            folder of their class; ActivityNet's annotations, which say the stretch of each clip.
        trimmed: whether files of VGGSound that are called by the id alone hold the clip alone.

    Raises:
        TCAFError: no such folder, no clip of the benchmark in it, or a table that is none of it.
    """
    if not folder.is_dir():
        raise TCAFError(f"expected a folder with media files at {folder}, found none")
    published = load_benchmark(benchmark)
    _check_tables(benchmark, labels)
    if trimmed and benchmark != "vggsound":
        raise TCAFError(f"--trimmed is of VGGSound's files; leave it out for {benchmark}")
    found = _Found(FoundFiles(folder), load_clips(benchmark), trimmed)
    remarks: list[str] = []
    if benchmark == "vggsound":
        remarks += found.vggsound(published, labels, folder)
    elif benchmark == "activitynet":
        remarks += found.activitynet(labels, folder)
    else:
        for clip in found.clips:
            found.take(clip, Listed("", clip.name, clip.class_name))
    if not found.taken:
        raise TCAFError(
            f"{folder}: none of the {len(found.clips)} clips of {benchmark} is there, such as "
            f"{found.clips[0].name}"
        )
    if benchmark == "vggsound":
        check_reach([clip.file for clip in found.taken], folder)
    remarks += found.lacking(benchmark)
    unlisted = tuple(found.files.unlisted())
    return Listing(found.taken, tuple(found.rejects), tuple(remarks), unlisted)


def _check_tables(benchmark: str, labels: Sequence[Path]) -> None:
    wanted = TABLES.get(benchmark)
    if labels and wanted is None:
        raise TCAFError(
            f"the lists of {benchmark} say class and part of every clip; leave --labels out"
        )
    for path in labels:
        if (layout := layout_of(path)) != wanted:
            raise TCAFError(f"{path}: expected a table laid out as {wanted}, found {layout}")


class _Found:
    """What of a benchmark is found so far.

    Args:
        files: of the folder.
        clips: of the lists.
        trimmed: see `find_benchmark`.
    """

    def __init__(self, files: FoundFiles, clips: list[PublishedClip], trimmed: bool) -> None:
        self.files, self.clips, self._trimmed = files, clips, trimmed
        self.taken: list[Clip] = []
        self.rejects: list[Reject] = []
        self._group_of = group_finder()
        self._by_file: dict[str, str] = {}

    def take(self, clip: PublishedClip, listed: Listed, group: str = "") -> None:
        """Takes a clip, or notes why there is none; its group is that of UCF101's names if any."""
        file = self.files.find(listed, trimmed=self._trimmed)
        if isinstance(file, Reject):
            self.rejects.append(replace(file, id=clip.name))
        else:
            self._add(clip, file, group)

    def lacking(self, benchmark: str) -> list[str]:
        """Returns a remark on how many of the listed clips are there, if any is not."""
        wanted = Counter(clip.part for clip in self.clips)
        listed = {clip.name for clip in self.clips}
        there = Counter(clip.part for clip in self.taken if clip.listed in listed)
        if there == wanted:
            return []
        told = ", ".join(
            f"{part} {there[part]} of {wanted[part]}" for part in PARTS if wanted[part]
        )
        return [
            f"{there.total()} of the {wanted.total()} clips in the lists of {benchmark} are there: "
            f"{told}"
        ]

    def _add(self, clip: PublishedClip, file: MediaFile, group: str = "") -> None:
        if (other := self._by_file.setdefault(file.id, clip.name)) != clip.name:
            told = f"{clip.name}: {file.id} is {other} already"
            self.rejects.append(Reject(clip.name, "the same stretch as another clip", told))
            return
        group = group or self._group_of(file.name)
        self.taken.append(Clip(file, clip.class_name, clip.part, "", group, clip.name))

    def vggsound(self, published: Benchmark, labels: Sequence[Path], folder: Path) -> list[str]:
        """Takes VGGSound's clips; returns remarks."""
        for clip in self.clips:
            self.take(clip, _of_vggsound(clip))
        listed = {clip.name for clip in self.clips}
        train = published.splits["main"].train
        remarks = []
        if labels:
            said = read_published(labels, "vggsound")
            self.rejects += said.rejects
            remarks += said.remarks
            others = 0
            for row in said.clips:
                name = f"{row.name}_{int(row.segment[0]):06d}" if row.segment else row.name
                if name in listed:
                    continue
                if row.class_name in train:
                    listed.add(name)
                    self.take(PublishedClip(name, row.class_name, "stage_1_train"), row)
                else:
                    others += 1
            if others:
                remarks.append(
                    f"{others} rows of {' and '.join(map(str, labels))} are of classes outside of "
                    "the benchmark, or clips of unseen classes that the authors did not take"
                )
        else:
            remarks += self._in_folders(train)
        num_train = sum(clip.part == "stage_1_train" for clip in self.taken)
        if not num_train:
            raise TCAFError(
                f"{folder}: no clip of vggsound for training; the authors published no list of "
                "them, so that their classes are said by folders of these names, or by VGGSound's "
                "own table: --labels vggsound.csv"
            )
        remarks.append(
            f"{num_train} clips are for training in stage 1 as they are of its classes and in no "
            "other list; the authors' own list was not published"
        )
        return remarks

    def _in_folders(self, train: Sequence[str]) -> list[str]:
        """Takes the clips that lie in folders of the classes for training and are in no list.

        VGGSound has one clip of a video, so that another name of one is no other clip.

        Returns:
            Remarks.
        """
        known = {key: name for name in train for key in foldings(name)}
        listed = {clip.name.rpartition("_")[0] for clip in self.clips}
        by_id: dict[str, list[tuple[PublishedClip, str]]] = {}
        again = []
        for name in self.files.unlisted():
            parent, _, file = name.rpartition("/")
            match = _VGGSOUND_NAME.fullmatch(Path(file).stem)
            classes = {known[k] for k in foldings(parent.rpartition("/")[2]) if k in known}
            if not match or len(classes) != 1 or not (match["times"] or self._trimmed):
                continue
            id, times = match["id"], match["times"] or ""
            if id in listed:
                again.append(name)
            else:
                clip = PublishedClip(f"{id}{times}", classes.pop(), "stage_1_train")
                by_id.setdefault(id, []).append((clip, name))
        for id, same in by_id.items():
            clip, name = same[0]
            if len(same) == 1:
                self.take(clip, Listed("", name, clip.class_name, is_file=True))
            else:
                told = f"{id} may be each of {shorten(name for _, name in same)}"
                self.rejects.append(Reject(id, "several files", told))
        if not again:
            return []
        return [
            f"{len(again)} files in folders of classes for training are of videos that the lists "
            f"have, and are no clips for training: {shorten(again)}"
        ]

    def activitynet(self, labels: Sequence[Path], folder: Path) -> list[str]:
        """Takes ActivityNet's clips; returns remarks."""
        videos: dict[str, AnnotatedVideo] = {}
        remarks = []
        for path in labels:
            said = read_annotations(path)
            videos |= {video.id: video for video in said.videos}
            if said.unread:
                remarks.append(f"{path}: not used are the keys {', '.join(said.unread)}")
        whole = []
        for clip in self.clips:
            id, _, number = clip.name.rpartition("_")
            cut = self.files.find(Listed("", clip.name, clip.class_name))
            if isinstance(cut, MediaFile):
                self._add(clip, cut, group=id)
                continue
            file = self.files.find(Listed("", id, clip.class_name))
            if isinstance(file, Reject):
                self.rejects.append(replace(file, id=clip.name))
            elif not labels:
                whole.append(file.name)
                told = f"{file.name}: ActivityNet's annotations say the stretch (--labels)"
                self.rejects.append(Reject(clip.name, "no stretch known", told))
            else:
                segment = self._stretch(clip, videos.get(id), int(number))
                if segment:
                    self._add(clip, replace(file, segment=segment), group=id)
        if whole and not self.taken:
            raise TCAFError(
                f"{folder} has whole videos, such as {whole[0]}; ActivityNet's annotations say "
                "which stretch each clip is: --labels activity_net.v1-3.min.json"
            )
        return remarks

    def _stretch(
        self, clip: PublishedClip, video: AnnotatedVideo | None, number: int
    ) -> Segment | None:
        """Returns the stretch that the annotations give a clip; notes why there is none."""
        annotations = video.in_order if video else ()
        if number >= len(annotations):
            told = f"{clip.name}: the video has {len(annotations)} annotations"
            self.rejects.append(Reject(clip.name, "no such annotation", told))
            return None
        segment, label = annotations[number]
        if _letters(label) != _letters(clip.class_name):
            told = f"{clip.name}: expected {clip.class_name}, found {label!r}"
            self.rejects.append(Reject(clip.name, "annotation of another class", told))
            return None
        if segment is None:
            told = f"{clip.name}: expected a segment [start, end] in seconds, found none"
            self.rejects.append(Reject(clip.name, "impossible segment", told))
        return segment


def _letters(name: str) -> str:
    return re.sub(r"[\s_]", "", name).casefold()


def _of_vggsound(clip: PublishedClip) -> Listed:
    id, _, start = clip.name.rpartition("_")
    segment = (float(start), float(start) + CLIP_S)
    return Listed("", id, clip.class_name, segment=segment, cut_names=True)


def keep_benchmark(writer: StoreWriter, benchmark: str, vectors: Vectors) -> None:
    """Keeps a benchmark's splits, the words of its classes and the vectors of these.

    Args:
        writer: of the store.
        benchmark: which.
        vectors: of `read_vectors`.
    """
    published = load_benchmark(benchmark)
    names = sorted({name for split in published.splits.values() for name in split.classes})
    writer.splits = dict(published.splits)
    writer.phrases = {name: {"name": [published.words[name]]} for name in names}
    for key, of_class in vectors.items():
        writer.add_text(key, {name: of_class[name] for name in names})


def read_vectors(benchmark: str, text: Path | None) -> Vectors:
    """Reads vectors of a benchmark's classes, by the names that a store keeps them under.

    Args:
        benchmark: which.
        text: the authors' file of vectors (.npy); or a file of word vectors, of which a class has
            the mean over its words, to length 1 as theirs are; None for no vectors.

    Raises:
        TCAFError: a file that is none, or a class without a vector.
    """
    published = load_benchmark(benchmark)
    words = published.words
    if text is None:
        return {}
    if text.suffix == ".npy":
        named = read_named_vectors(text)
        try:
            found = {VECTORS: vectors_by_name(words, named)}
        except TCAFError as error:
            raise TCAFError(f"{error} (in {text})") from None
        if len(named) == len(words):
            found["word2vec_release_order"] = vectors_in_release_order(words, named)
        return found
    table = BinaryWordTable(text) if ".bin" in text.suffixes else TextWordTable(text)
    names = sorted({name for split in published.splits.values() for name in split.classes})
    vectors = WordVectors(f"word vectors {text}", table).embed([words[name] for name in names])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return {VECTORS: dict(zip(names, vectors / np.maximum(lengths, 1e-12), strict=True))}
