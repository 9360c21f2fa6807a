"""Your own clips: a folder of media files to a feature store, by way of `extract`.

Owns making such a store and adding to one. Which files are clips and what is said of each is
`labels`, the part of each `partition`.
"""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tcaf.data.features import MODALITIES, FeatureSpec, Modality
from tcaf.data.shards import Dtype
from tcaf.data.splits import PARTS, SUBSETS, Split, load_benchmark
from tcaf.data.store import FeatureStore
from tcaf.data.writer import StoreWriter, append_store, check_store_place, new_store
from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.execution.cluster import check_cluster, joined
from tcaf.extract.containers import FILE_TIMEOUT_S
from tcaf.extract.corpus import Backbones, extract_files
from tcaf.extract.work_folder import Reject
from tcaf.files.atomic import needing_room, only_writer
from tcaf.files.remote import local_path
from tcaf.files.urls import as_url
from tcaf.progress import Track, silent
from tcaf.settings.sections import Device
from tcaf.sources.benchmark_videos import (
    Vectors,
    find_benchmark,
    keep_benchmark,
    read_vectors,
)
from tcaf.sources.labels import (
    Clip,
    Listing,
    check_class_names,
    file_of,
    find_clips,
    group_finder,
)
from tcaf.sources.media_files import readable
from tcaf.sources.outcome import Outcome, names_of, sort_out
from tcaf.sources.partition import (
    check_parts,
    classes_of_takes,
    deal_out,
    read_split,
    split_by_parts,
    split_by_rule,
    split_by_use,
    torn_groups,
)
from tcaf.text.words import as_words

UNSEEN = 0.2
"""Share of the classes that the rule holds out, twice, where nobody says another."""

NO_SPLIT = "the store has no split for training and test, and serves to predict alone"


def prepare_videos(
    folder: Path,
    out: Path,
    *,
    audio: str = "logmel",
    visual: str = "efficientnet_lite0",
    labels: Path | Sequence[Path] | None = None,
    layout: str = "",
    trimmed: bool = False,
    benchmark: Literal["ucf", "vggsound", "activitynet"] | None = None,
    text: Path | None = None,
    classes: Path | None = None,
    group: str = "",
    unseen: float = UNSEEN,
    seed: int = 0,
    require_audio: bool = False,
    require_visual: bool = False,
    audio_weights: Path | None = None,
    visual_weights: Path | None = None,
    plugin: Path | None = None,
    device: Device = "auto",
    workers: int | None = None,
    cluster: str = "",
    file_timeout_s: float = FILE_TIMEOUT_S,
    allow_outside: bool = False,
    dtype: Dtype = "float16",
    overwrite: bool = False,
    append: bool = False,
    track: Track = silent,
) -> FeatureStore:
    """Extracts features from your own videos into a feature store.

    The class of a clip is the sub-folder that it lies in, or what a table says. Where no table says
    more, a seeded rule deals classes and clips out to the parts of the two-stage protocol; if there
    are too few, the store has no split and serves `tcaf predict`. Where a table or folders say
    training, validation or test, no clip for training is tested and no clip for the test is
    trained on; docs/odd-inputs.md has the rule.

    Nothing is done twice: what is extracted gathers in OUT.extracted until all files are done, so
    that an interrupted run is taken up by the same command. A file that cannot be used is left out
    and named in rejects.csv in the store; one that is kept though something is amiss (a damaged
    part, no sound, no picture) in notes.csv.

    With `append` the files that the store does not have yet are added to it, those left out before
    are tried again, and no other is looked at. Clips in the store keep their class and part. New
    ones are dealt out by the store's split, which stays as it is; classes that it does not have
    need a place in it, by `classes` or by the parts in `labels`.

    Args:
        folder: folder with media files, in sub-folders or not; or its address, as in s3://BUCKET/X,
            from which all of it is fetched.
        out: folder of the store to make, or to add to.
        audio: backbone for sound: AUDIO_BACKBONES; `tcaf backbones` describes them.
        visual: backbone for frames: VISUAL_BACKBONES.
        labels: a CSV with the columns file (as seen from the folder), class, and perhaps part or
            split (train, val, test; or stage_1_train, val_seen, val_unseen, test_seen, test_unseen)
            and group; with start and end, in seconds, a clip is that segment of its file. Or one or
            several tables as data sets publish them: LAYOUTS. Only what they list is taken.
        layout: how the tables in `labels` are laid out, where that does not show: own, LAYOUTS.
        trimmed: files that are called by the id of a video alone hold the stretch alone that a
            published table lists, and are no whole videos.
        benchmark: one of the paper's, by the published lists of clips and classes; docs/
            reproduce-the-paper.md walks through it. `labels` is then VGGSound's or ActivityNet's
            own table.
        text: for `benchmark`, the authors' word vectors (.npy) or a word2vec file, kept in the
            store as `word2vec`, which the paper's presets read.
        classes: a CSV with the columns class and subset (train, val_unseen, test_unseen) that names
            every class; with `append` the new ones are enough.
        group: a regular expression that finds in a file's name what clips of one take share, as in
            `g(\\d+)`; they stay in one part. By default that of UCF101's names, `v_X_g01_c01`.
        unseen: share of the classes that the rule holds out, for validation and again for the test.
        seed: of the rule.
        require_audio: leave out clips without sound, in place of an empty sequence.
        require_visual: leave out clips without picture.
        audio_weights: a file or folder in place of the audio backbone's known weights.
        visual_weights: the same for the visual backbone.
        plugin: a Python file that registers backbones of your own.
        device: where backbones compute that can do so on a GPU; `auto` takes one where there is
            one. Features differ by rounding.
        workers: processes that extract; by default one for each core, on this machine's GPU fewer
            where it has no room for so many.
        cluster: extract on the machines of a cluster of Ray (extra cluster): `local` for one of
            this machine alone, `auto` for the one that runs here, or its HOST:PORT. What is read
            and written has to lie where all of them see it.
        file_timeout_s: seconds that a file may take, and as many again for each MiB of it, up to
            144 times as many; one that takes longer is left out.
        allow_outside: take files that `labels` names outside the folder, by `..` or from the root;
            without it such a table is refused.
        dtype: how tokens are kept on disk; with `append` as they are in the store.
        overwrite: replace a store that is there already.
        append: add to a store that is there already, with the same backbones.
        track: shows progress.

    Raises:
        TCAFError: no media file, a table that does not fit the files or leaves out a class, a
            backbone that cannot be opened or is not the store's, or no clip with features.
    """
    _check_rule(classes, unseen, seed)
    if append and overwrite:
        raise TCAFError(
            "a store is replaced or added to, not both; leave out --overwrite or --append"
        )
    check_cluster(cluster)
    origin = as_url(folder) or readable(folder.resolve())
    folder = local_path(folder)
    tables = [labels] if isinstance(labels, str | Path) else labels or ()
    labels = [local_path(table) for table in tables] or None
    classes = None if classes is None else local_path(classes)
    vectors: Vectors = {}
    if benchmark is not None:
        given = {"classes": classes, "group": group, "layout": layout, "seed": seed}
        given |= {"unseen": unseen != UNSEEN, "allow_outside": allow_outside}
        _check_benchmark(benchmark, given, append and text is not None)
        vectors = read_vectors(benchmark, text)
        listing = find_benchmark(folder, benchmark, labels or (), trimmed=trimmed)
    elif text is not None:
        raise TCAFError("--text is for the paper's benchmarks; name one with --benchmark")
    else:
        listing = find_clips(
            folder, labels, group, layout=layout, trimmed=trimmed, allow_outside=allow_outside
        )
    work = out.with_name(f"{out.name}.extracted")
    with only_writer(out, whole=True):
        store = FeatureStore.open(out) if append else None
        kept: list[tuple[str, str]] = []
        clips = listing.clips
        if store is None:
            check_store_place(out, overwrite=overwrite)
        else:
            _check_same_benchmark(store, benchmark)
            kept = _groups_of(store, clips, group)
            clips = _not_in(store, clips, origin)
            if not clips:
                return store
        lists = load_benchmark(benchmark) if benchmark else None
        split = lists.splits["main"] if lists else _read_partition(clips, classes, store)
        for remark in listing.remarks:
            warnings.warn(remark, stacklevel=2)
        _warn_of_unlisted(listing, folder, store)
        backbones = Backbones(audio, visual, audio_weights, visual_weights, plugin, device)
        with joined(cluster) as place:
            spec, found = extract_files(
                [clip.file for clip in clips],
                backbones,
                work,
                workers=workers,
                file_timeout_s=file_timeout_s,
                expected=store.spec if store else None,
                place=place,
                track=track,
            )
        required = {"audio": require_audio, "visual": require_visual}
        listed = {clip.id: clip.listed for clip in clips if clip.listed not in ("", clip.id)}
        outcome = sort_out(found, [m for m in MODALITIES if required[m]], listed)
        # What the store has may lie in the folder that it came from alone.
        known = names_of(out, frozenset(store.ids)) if store else set()
        outcome.rejects.extend(reject for reject in listing.rejects if reject.id not in known)
        done = f"the features of all {len(clips)} files are kept in {work}"
        with needing_room(work, lambda: done):
            outcome.write(work)
        if not outcome.kept and store is None:
            raise TCAFError(
                f"none of {len(clips)} files can be used: {outcome.rejects[0].detail}; "
                f"{work}/rejects.csv names all of them"
            )
        by_id = {clip.id: clip for clip in clips}
        chosen = [by_id[extracted.id] for extracted in outcome.kept]
        if benchmark is None and classes is None and chosen and chosen[0].part:
            split = _joined(store, split_by_parts(chosen))
        elif store is None or split is not None:
            split = _split_of(chosen, split, unseen, seed)
        parts = deal_out(chosen, split, seed, kept)
        _warn_of_parts(chosen, parts, split, kept)
        call = {"folder": origin, "seed": seed}
        call |= {"group": group} if group else {}
        call |= {"benchmark": benchmark} if benchmark else {}
        call |= {"plugin_sha256": backbones.run_plugin()} if plugin else {}
        call |= _models(spec, {"audio": audio_weights, "visual": visual_weights})
        opened = (
            append_store(out) if store else new_store(out, spec, dtype=dtype, overwrite=overwrite)
        )
        with needing_room(out, lambda: done), opened as writer:
            _note_source(writer, call)
            if benchmark is not None and store is None:
                keep_benchmark(writer, benchmark, vectors)
            splits = lists.splits if lists else {} if split is None else {"cls": split}
            _keep_splits(writer, splits, {*parts, *(store.parts if store else ())})
            _add(writer, outcome, chosen, parts)
            outcome.write(writer.folder)
        shutil.rmtree(work)
        return FeatureStore.open(out)


def _check_rule(classes: Path | None, unseen: float, seed: int) -> None:
    """Checks what the rule that deals classes out is given.

    Raises:
        TCAFError: it cannot be followed, or a table takes its place.
    """
    if not 0 < unseen < 0.5 or seed < 0:
        raise TCAFError(
            f"unseen must lie between 0 and 0.5, seed from 0 on; got unseen {unseen}, seed {seed}"
        )
    if classes is not None and unseen != UNSEEN:
        raise TCAFError(f"{classes} says which classes are unseen; leave out --unseen or --classes")


def _check_benchmark(benchmark: str, given: Mapping[str, Any], new_text: bool) -> None:
    """Checks that nothing is given which the published lists settle.

    Args:
        benchmark: whose lists.
        given: what is, by option; what is false or empty is not.
        new_text: whether vectors are given for a store that has some.

    Raises:
        TCAFError: something is.
    """
    if named := next((name for name, value in given.items() if value), ""):
        raise TCAFError(
            f"the published lists of {benchmark} say which classes are unseen and where each "
            f"clip stands; leave --{named} out"
        )
    if new_text:
        raise TCAFError("a store keeps the vectors that it was made with; leave --text out")


def _check_same_benchmark(store: FeatureStore, benchmark: str | None) -> None:
    """Checks that a store that is added to is of the benchmark that is named, or of none.

    Raises:
        TCAFError: it is of another one.
    """
    if (kind := store.source.get("benchmark")) != benchmark:
        told = f"the benchmark {kind}" if kind else "no benchmark"
        raise TCAFError(
            f"store {store.path} is of {told}; add to it {'with' if kind else 'without'} "
            f"--benchmark {kind or benchmark}"
        )


def _groups_of(store: FeatureStore, clips: Sequence[Clip], pattern: str) -> list[tuple[str, str]]:
    """Returns group and part of the clips of a store, by what is listed or else by their names."""
    listed = {clip.id: clip.group for clip in clips}
    find = group_finder(pattern)
    return [
        (listed.get(name) or find(file_of(name)) or _file_cut(name), part)
        for name, part in zip(store.ids, store.parts, strict=True)
    ]


def _file_cut(id: str) -> str:
    """Returns the file of which a clip of a store is a segment; empty if it is a whole file."""
    return "" if file_of(id) == id else file_of(id)


def _warn_of_unlisted(listing: Listing, folder: Path, store: FeatureStore | None) -> None:
    """Warns of files that no table lists; those that the store has are not left out."""
    known = {file_of(name) for name in store.ids} if store else set()
    if names := [name for name in listing.unlisted if name not in known]:
        warnings.warn(
            f"{len(names)} media files of {folder} are listed nowhere, and are left out: "
            f"{shorten(names)}",
            stacklevel=3,
        )


def _warn_of_parts(
    clips: Sequence[Clip],
    parts: Sequence[str],
    split: Split | None,
    kept: Sequence[tuple[str, str]],
) -> None:
    """Warns of groups that are torn, and of clips that a partition by use leaves out."""
    if torn := torn_groups(clips, parts, kept):
        warnings.warn(
            f"{len(torn)} groups have clips both in training and in the test, which makes the "
            f"test too easy: {shorten(torn)}",
            stacklevel=3,
        )
    bare = [clip.id for clip, part in zip(clips, parts, strict=True) if clip.use and not part]
    if split is not None and bare:
        warnings.warn(
            f"{len(bare)} clips for training are of classes that are unseen in the test, and have "
            f"no part: {shorten(bare)}",
            stacklevel=3,
        )


def _not_in(store: FeatureStore, clips: Sequence[Clip], folder: str) -> list[Clip]:
    """Returns the clips that a store does not have, by name; warns of equal names elsewhere."""
    known = set(store.ids)
    passed = [clip.id for clip in clips if clip.id in known]
    calls = [store.source, *store.source.get("appended", [])]
    if passed and folder not in [call.get("folder") for call in calls]:
        warnings.warn(
            f"{len(passed)} files of {folder} are passed over: store {store.path} has clips of "
            f"these names, from another folder ({shorten(passed)})",
            stacklevel=3,
        )
    return [clip for clip in clips if clip.id not in known]


def _read_partition(
    clips: Sequence[Clip], path: Path | None, store: FeatureStore | None
) -> Split | None:
    """Returns the partition of classes that tables and the store give, or None.

    All that may be wrong with it is found here, before hours go into the files.

    Raises:
        TCAFError: the table names a class that no clip has, or lacks one; or a clip stands in a
            part that its class must not reach.
    """
    names = {clip.class_name for clip in clips} | set(store.class_names if store else ())
    check_class_names(names - {""})
    listed = None if path is None else read_split(path, is_whole=store is None)
    for name in listed.classes if listed else ():
        if name not in names:
            raise TCAFError(f"{path}: no clip is of the class {name!r}{did_you_mean(name, names)}")
    has_parts, has_uses = bool(clips[0].part), bool(clips[0].use)
    split = _joined(store, listed or (split_by_parts(clips) if has_parts else None))
    if split is None:
        return None
    of_clips = {clip.class_name for clip in clips if clip.class_name}
    missing = sorted(of_clips - set(split.classes))
    if missing and (path is not None or not (has_parts or has_uses)):
        where = path or f"the split of store {store.path if store else ''}"
        raise TCAFError(
            f"{where} has no place for {shorten(missing)}; a table of classes says of each whether "
            f"it is {', '.join(SUBSETS)}"
        )
    if has_parts:
        check_parts(clips, split)
    return split


def _split_of(clips: Sequence[Clip], given: Split | None, unseen: float, seed: int) -> Split | None:
    """Returns the partition that the uses of clips and the rule make of what tables give."""
    if clips and clips[0].use:
        return split_by_use(clips, given, unseen, seed)
    return given or split_by_rule(classes_of_takes(clips), unseen, seed)


def _joined(store: FeatureStore | None, split: Split | None) -> Split | None:
    """Returns a store's split with the classes of another.

    Raises:
        TCAFError: they contradict each other.
    """
    kept = store.splits.get("cls") if store else None
    if store is None or kept is None or split is None:
        return split if kept is None else kept
    for subset in SUBSETS:
        for name in getattr(split, subset):
            if name in kept.classes and name not in getattr(kept, subset):
                raise TCAFError(
                    f"class {name!r} is to be {subset}, but in the split of store {store.path} it "
                    "is not, and clips in a store keep their part"
                )
    return Split(
        **{
            subset: tuple(sorted({*getattr(kept, subset), *getattr(split, subset)}))
            for subset in SUBSETS
        }
    )


def _models(spec: FeatureSpec, weights: Mapping[Modality, Path | None]) -> dict[str, Any]:
    """Returns which models of a hub made the features, at which commit and under which licence."""
    from tcaf.extract.hub_models import origin_of

    found = {m: origin_of(spec.backbone(m), weights[m]) for m in MODALITIES}
    told = {modality: origin for modality, origin in found.items() if origin is not None}
    return {"models": told} if told else {}


def _note_source(writer: StoreWriter, call: dict[str, Any]) -> None:
    """Notes where the clips come from; of a store that is added to, beside what it says already."""
    if not writer.known:
        writer.source = {"kind": "videos", **call}
        return
    writer.source = {
        **writer.source,
        "appended": [*writer.source.get("appended", []), {**call, "after": len(writer.known)}],
    }


def _keep_splits(writer: StoreWriter, splits: Mapping[str, Split], parts: set[str]) -> None:
    """Keeps splits if every part has clips, and warns otherwise."""
    empty = [part for part in PARTS if part not in parts]
    if splits and not empty:
        writer.splits = {**writer.splits, **splits}
    elif splits or not writer.known:
        warnings.warn(f"no clips for {', '.join(empty)}: {NO_SPLIT}", stacklevel=3)


def _add(
    writer: StoreWriter, outcome: Outcome, clips: Sequence[Clip], parts: Sequence[str]
) -> None:
    """Adds the clips of the files that are kept, and notes the others as left out."""
    for extracted, clip, part in zip(outcome.kept, clips, parts, strict=True):
        try:
            writer.add(extracted.features(clip.class_name, part))
        except TCAFError as error:  # a value that float16 does not hold
            outcome.rejects.append(Reject(extracted.id, "unusable features", str(error)))
            continue
        if clip.class_name:
            writer.phrases.setdefault(clip.class_name, {"name": [as_words(clip.class_name)]})
    # What was left out before and is tried again has a new outcome.
    tried = outcome.tried
    left = ((r, [n for n in names if n not in tried]) for r, names in writer.left_out.items())
    writer.left_out = {reason: names for reason, names in left if names}
    for reject in outcome.rejects:
        writer.leave_out(reject.reason, reject.id)
