"""The synthetic world as videos: moving shapes with sound, in a folder per class.

For trying the whole way from media files to answers on clips whose truth is known. The rules are
`world`, pictures and sounds are `scenes`. Owns the folder: mp4 files and the tables that
`tcaf prepare videos` and the text source `attributes` read. Files are written by PyAV (extra
`video`), H.264 where its build can write that, MPEG-4 elsewhere, and AAC.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from tcaf.data.splits import PARTS
from tcaf.errors import MissingExtraError, TCAFError
from tcaf.execution.processes import usable_cores
from tcaf.files.atomic import check_place, new_folder, write_json
from tcaf.progress import Track, silent
from tcaf.sources.scenes import FPS, HEIGHT, SAMPLE_RATE, WIDTH, Samples, draw, play
from tcaf.sources.world import (
    DURATION_S,
    LOOKS,
    MOTIONS,
    RELATIONS,
    SOUNDS,
    Relation,
    World,
    WorldClass,
    event_times,
    part_of,
)

MIN_CLIPS_PER_CLASS = 7
"""The fewest of which every part of a benchmark gets one."""
Events = tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]
"""When a clip moves and when it sounds, in seconds."""
WORLD_FILE = "world.json"
"""Says of a folder that it is a rendered world, and of which rules."""


def write_clip(
    path: Path, frames: UInt8[np.ndarray, "frames rows width"], samples: Samples
) -> None:
    """Writes an mp4 file of frames in the layout `yuv420p` and mono sound.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    av = _import_av()
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # One thread each: clips are many, and files do not depend on the machine.
    options = {"preset": "ultrafast", "crf": "24"} if codec == "libx264" else {"qscale": "3"}
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.codec_context.options = {"aac_coder": "fast"}
        audio.bit_rate = 64_000
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(
            samples.astype(np.float32)[None], format="fltp", layout="mono"
        )
        # Without a time of its own, the sound would come late by what the encoder puts before it.
        sound.sample_rate, sound.pts = SAMPLE_RATE, 0
        sound.time_base = Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtraError(
            "PyAV, which writes videos, is not installed; pip install 'tcaf[video]'"
        ) from None
    return av


@dataclass(frozen=True)
class RenderedClip:
    """A clip to be rendered.

    Args:
        file: where, below the world's folder, with `/` between folder and name.
        of: its class.
        part: one of `splits.PARTS`.
        key: all its randomness follows from it.
    """

    file: str
    of: WorldClass
    part: str
    key: tuple[int, ...]

    def render(self, folder: Path) -> Events:
        """Writes the clip's file below `folder`; returns when it moves and sounds."""
        rng = np.random.default_rng(self.key)
        moves, sounds = event_times(self.of.relation, rng)
        frames = draw(LOOKS[self.of.look], MOTIONS[self.of.motion], moves, rng)
        write_clip(folder / self.file, frames, play(SOUNDS[self.of.sound], sounds, rng))
        return moves, sounds


@dataclass(frozen=True)
class RenderedWorld:
    """A folder of rendered clips.

    Args:
        path: the folder.
        num_classes: how many classes there are.
        parts: clips of each of `splits.PARTS`.
        num_bytes: size of the videos.
    """

    path: Path
    num_classes: int
    parts: dict[str, int]
    num_bytes: int

    def summary(self) -> dict[str, Any]:
        """Returns what there is, as JSON."""
        return {
            "path": str(self.path),
            "clips": sum(self.parts.values()),
            "classes": self.num_classes,
            "parts": self.parts,
            "seconds_per_clip": DURATION_S,
            "width": WIDTH,
            "height": HEIGHT,
            "fps": FPS,
            "sample_rate": SAMPLE_RATE,
            "bytes": self.num_bytes,
            "labels": str(self.path / "labels.csv"),
            "split": str(self.path / "split.csv"),
            "attributes": str(self.path / "attributes.csv"),
        }


def plan_clips(world: World, clips_per_class: int) -> list[RenderedClip]:
    """Lists the clips of a world, class by class; a class's folder has its name."""
    split = world.split()
    return [
        RenderedClip(
            f"{of.name}/c{number:04d}_{index:04d}.mp4",
            of,
            part_of(split, of.name, index / clips_per_class),
            (world.seed, 4, number, index),
        )
        for number, of in enumerate(world.classes)
        for index in range(clips_per_class)
    ]


def render_synthetic(
    out: Path,
    *,
    looks: int = 2,
    motions: int = 2,
    sounds: int = 2,
    relations: Sequence[Relation] = RELATIONS,
    clips_per_class: int = 20,
    seed: int = 0,
    overwrite: bool = False,
    track: Track = silent,
) -> RenderedWorld:
    """Renders the synthetic world: videos of classes with a known truth, and their tables.

    Each clip is an mp4 file of 9.6 s in which a shape makes two movements, and two sounds come,
    in a folder for each class, beside the tables that `tcaf prepare videos` asks for. Of a training
    class's clips, 70 % are for training, 15 % for validation, 15 % for testing; an eighth of the
    classes is unseen until validation, an eighth until the test. Class text is the attribute vector
    in `attributes.csv`.

    Args:
        out: folder to make.
        looks: how many things can be seen, 1 to 6.
        motions: how many ways to move, 1 to 4.
        sounds: how many sounds, 1 to 6.
        relations: how sound and movement relate in time: together, late, alternating, unrelated.
        clips_per_class: clips of each class, 7 or more.
        seed: of the world and its clips.
        overwrite: replace a rendered world that is there already.
        track: shows progress.

    Raises:
        TCAFError: a number is out of range; something is at `out` and `overwrite` is false, or that
            is no rendered world.
        MissingExtraError: PyAV, which writes the videos, is not installed.
    """
    world = World(looks, motions, sounds, tuple(relations), seed)
    return render_world(
        world, out, clips_per_class=clips_per_class, overwrite=overwrite, track=track
    )


def render_world(
    world: World,
    out: Path,
    *,
    clips_per_class: int = 20,
    overwrite: bool = False,
    track: Track = silent,
) -> RenderedWorld:
    """Renders a world: mp4 files of 160 x 120 pixels at 25 frames per second, with mono sound.

    Beside the folders of the classes lie `labels.csv` (file, class, part), `split.csv` (class,
    subset), `attributes.csv` (class, and its vector), `events.csv` (file, and when it moves and
    sounds, in seconds) and `world.json` (the rules).

    Args:
        world: its classes and seed.
        out: the folder to make, whole or not at all.
        clips_per_class: clips of each class.
        overwrite: replace a rendered world that is there already.
        track: shows progress.

    Raises:
        TCAFError: too few clips, the hidden world; something is at `out` and `overwrite` is false,
            or that is no rendered world.
        MissingExtraError: PyAV is not installed.
    """
    if clips_per_class < MIN_CLIPS_PER_CLASS:
        raise TCAFError(
            f"clips_per_class must be at least {MIN_CLIPS_PER_CLASS} for every part to have clips, "
            f"got {clips_per_class}"
        )
    if world.name != "lag":
        raise TCAFError(f"only the lag world has pictures and sounds, got the {world.name} world")
    check_place(out, overwrite=overwrite, what="rendered world", mark=WORLD_FILE)
    _import_av()
    clips = plan_clips(world, clips_per_class)
    with new_folder(out, overwrite=overwrite) as folder:
        for of in world.classes:
            (folder / of.name).mkdir()
        events = _render_all(clips, folder, track)
        _write_tables(world, clips, events, folder)
        num_bytes = sum((folder / clip.file).stat().st_size for clip in clips)
    counts = Counter(clip.part for clip in clips)
    parts = {part: counts[part] for part in PARTS}
    return RenderedWorld(out, len(world.classes), parts, num_bytes)


def _render_all(clips: Sequence[RenderedClip], folder: Path, track: Track) -> list[Events]:
    """Renders the clips on all cores; drawing and encoding let go of Python's lock."""
    pool = ThreadPoolExecutor(usable_cores())
    try:
        futures = [pool.submit(clip.render, folder) for clip in clips]
        return [future.result() for future in track(futures, "rendering clips")]
    finally:
        # Where something failed, or Ctrl-C came, what has not begun never will.
        pool.shutdown(cancel_futures=True)


def _write_tables(
    world: World, clips: Sequence[RenderedClip], events: Sequence[Events], folder: Path
) -> None:
    split = asdict(world.split())
    _write_csv(
        folder / "labels.csv",
        ("file", "class", "part"),
        ((clip.file, clip.of.name, clip.part) for clip in clips),
    )
    _write_csv(
        folder / "split.csv",
        ("class", "subset"),
        ((name, subset) for subset, names in split.items() for name in names),
    )
    _write_csv(
        folder / "attributes.csv",
        ("class", *world.attribute_names),
        ((of.name, *(f"{v:.9g}" for v in world.attributes(of))) for of in world.classes),
    )
    _write_csv(
        folder / "events.csv",
        ("file", "movement_1_s", "movement_2_s", "sound_1_s", "sound_2_s"),
        (
            (clip.file, *(f"{time:.4f}" for time in np.concatenate(times)))
            for clip, times in zip(clips, events, strict=True)
        ),
    )
    write_json(folder / WORLD_FILE, {"kind": "rendered world", **asdict(world)})


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
