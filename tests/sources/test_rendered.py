import csv
import json
import re
import threading

import numpy as np
import pytest

from tcaf.data.splits import PARTS, Split
from tcaf.errors import MissingExtraError, TCAFError
from tcaf.files.csv_tables import csv_rows
from tcaf.sources.rendered import (
    RenderedClip,
    plan_clips,
    render_synthetic,
    render_world,
    write_clip,
)
from tcaf.sources.scenes import COLOURS, FPS, HEIGHT, NUM_FRAMES, SAMPLE_RATE, WIDTH
from tcaf.sources.world import (
    DURATION_S,
    LATE_S,
    LOOKS,
    MOTIONS,
    RELATIONS,
    SOUNDS,
    World,
    WorldClass,
    part_of,
)
from tcaf.text.sources import read_attributes

av = pytest.importorskip("av")

SMALL = World(3, 2, 1, ("late",), seed=5)


def decode(path):
    """Returns the frames as RGB, the samples, and what the file says of itself."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        told = {
            "fps": float(video.average_rate),
            "size": (video.width, video.height),
            "rate": audio.rate,
            "codecs": (video.codec_context.name, audio.codec_context.name),
            "channels": audio.channels,
        }
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
    with av.open(str(path)) as container:
        samples = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.stack(frames), np.concatenate(samples), told


def two_peaks(activity, step_s):
    """Returns when something happens: the two highest places of a smoothed circle, in seconds."""
    times = np.arange(len(activity)) * step_s
    away = np.minimum(times, DURATION_S - times)
    kernel = np.exp(-0.5 * (away / 0.5) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(activity) * np.fft.rfft(kernel), len(activity))
    first = int(smooth.argmax())
    # The second movement is at least 0.35 of the circle away.
    smooth[np.roll(away, first) < 0.3 * DURATION_S] = 0
    return np.sort(np.array([first, int(smooth.argmax())]) * step_s + step_s / 2)


def changes(frames):
    """Returns how much every second pixel differs from one frame to the next, on average."""
    return np.abs(np.diff(frames[:, ::2, ::2].astype(np.int16), axis=0)).mean(axis=(1, 2, 3))


def moves_in(frames):
    return two_peaks(np.append(changes(frames), 0), 1 / FPS) + 0.5 / FPS


def sounds_in(samples):
    power = (samples.reshape(-1, 320) ** 2).mean(axis=1)
    return two_peaks(power, 320 / SAMPLE_RATE)


def apart(times, others):
    """Returns the largest distance of two times around the circle, in seconds, at best pairing."""
    pairings = (others, others[::-1])
    half = DURATION_S / 2
    return min(np.abs((times - p + half) % DURATION_S - half).max() for p in pairings)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One clip of each of six classes that hold every look, motion, sound and relation."""
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for number in range(6):
        of = WorldClass(number, number % 4, number, RELATIONS[(number + number // 4) % 4])
        clip = RenderedClip(f"c{number}.mp4", of, "test_seen", (11, number))
        events = clip.render(folder)
        made.append((of, events, *decode(folder / clip.file)))
    return made


def test_files_are_what_is_promised(clips):
    for _, _, frames, samples, told in clips:
        assert told["fps"] == FPS == 25
        assert told["size"] == (WIDTH, HEIGHT) == (160, 120)
        assert frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
        assert NUM_FRAMES / FPS == DURATION_S
        assert (told["rate"], told["channels"]) == (SAMPLE_RATE, 1)
        # AAC keeps whole blocks; the clip is a whole number of them.
        assert len(samples) == round(DURATION_S * SAMPLE_RATE)
        assert told["codecs"][0] in ("h264", "mpeg4")
        assert told["codecs"][1] == "aac"


def test_sound_lies_where_it_was_put(tmp_path):
    """Encoders put silence before the sound; a player has to know how much to pass over."""
    samples = np.zeros(round(DURATION_S * SAMPLE_RATE))
    samples[16_000:16_101] = 0.5
    grey = np.full((NUM_FRAMES, HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    write_clip(tmp_path / "clip.mp4", grey, samples)
    loud = np.flatnonzero(np.abs(decode(tmp_path / "clip.mp4")[1]) > 0.25)
    assert abs(loud[[0, -1]] - [16_000, 16_100]).max() < 10


def test_things_happen_when_they_should(clips):
    for of, (moves, sounds), frames, samples, _ in clips:
        assert apart(moves_in(frames), moves) < 0.15, of.name
        assert apart(sounds_in(samples), sounds) < 0.15, of.name
        if of.relation in ("together", "late"):
            lag = 0 if of.relation == "together" else LATE_S
            assert apart(moves_in(frames) + lag, sounds_in(samples)) < 0.25, of.name


def test_between_events_there_is_rest(clips):
    for of, (moves, sounds), frames, samples, _ in clips:
        for events, step_s, activity in (
            (moves, 1 / FPS, changes(frames)),
            (sounds, 0.02, (samples.reshape(-1, 320) ** 2).mean(axis=1)),
        ):
            times = (np.arange(len(activity)) + 0.5) * step_s
            half = DURATION_S / 2
            away = np.abs((times[:, None] - events + half) % DURATION_S - half).min(axis=1)
            assert activity[away > 1.6].mean() < 0.05 * activity[away < 0.4].mean(), of.name


def test_colours_tell_looks_apart(clips):
    names = list(COLOURS)
    colours = np.array([COLOURS[name] for name in names])
    for of, (moves, _), frames, _, _ in clips:
        half = DURATION_S / 2
        times = np.arange(NUM_FRAMES) / FPS
        still = np.abs((times[:, None] - moves + half) % DURATION_S - half).min(axis=1).argmax()
        pixels = frames[still].reshape(-1, 3).astype(int)
        # The ground is grey and darker than any look.
        coloured = pixels[(np.ptp(pixels, axis=1) > 90) | (pixels.min(axis=1) > 190)]
        assert 0.06 < len(coloured) / len(pixels) < 0.4, of.name
        nearest = np.linalg.norm(coloured[:, None] - colours, axis=2).argmin(axis=1)
        counts = np.bincount(nearest, minlength=6)
        assert names[counts.argmax()] == LOOKS[of.look].split()[0]
        assert counts.max() > 0.8 * counts.sum()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    path = tmp_path_factory.mktemp("rendered") / "world"
    sizes = {"looks": 3, "motions": 2, "sounds": 1, "relations": ("late",), "seed": 5}
    return render_synthetic(path, **sizes, clips_per_class=7)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_agree_with_the_world(rendered):
    folder, split = rendered.path, SMALL.split()
    labels = rows_of(folder / "labels.csv")
    assert len(labels) == 6 * 7
    assert sorted(row["file"] for row in labels) == sorted(
        path.relative_to(folder).as_posix() for path in folder.glob("*/*")
    )
    places = {of.name: 0 for of in SMALL.classes}
    for row in labels:
        assert row["file"].split("/")[0] == row["class"]
        assert row["part"] == part_of(split, row["class"], places[row["class"]] / 7)
        places[row["class"]] += 1
    ids, classes, parts = ([row[key] for row in labels] for key in ("file", "class", "part"))
    split.check_clips(ids, classes, parts)
    assert set(parts) == set(PARTS)
    subsets = {"train": [], "val_unseen": [], "test_unseen": []}
    for row in rows_of(folder / "split.csv"):
        subsets[row["subset"]].append(row["class"])
    assert Split.from_json(subsets) == split
    vectors = read_attributes(folder / "attributes.csv")
    assert list(vectors) == [of.name for of in SMALL.classes]
    for of in SMALL.classes:
        assert (vectors[of.name] == SMALL.attributes(of)).all()
    row = csv_rows(folder / "attributes.csv", others="allowed")[0]
    assert list(row.cells)[1:] == SMALL.attribute_names
    assert json.loads((folder / "world.json").read_text())["seed"] == 5
    assert sorted(path.name for path in folder.parent.iterdir()) == ["world"]


@pytest.mark.slow
def test_the_table_of_events_is_true(rendered):
    rows = rows_of(rendered.path / "events.csv")
    for row in rows[::20]:
        frames, samples, _ = decode(rendered.path / row["file"])
        moves, sounds = (
            np.array([float(row[f"{kind}_{number}_s"]) for number in (1, 2)])
            for kind in ("movement", "sound")
        )
        assert apart(moves_in(frames), moves) < 0.15
        assert apart(sounds_in(samples), sounds) < 0.15
        assert apart(moves + LATE_S, sounds) < 0.001


def test_summary(rendered):
    summary = rendered.summary()
    assert json.loads(json.dumps(summary)) == summary
    # Of four training classes 5, 1 and 1 clips each; of one for validation 6 and 1; of the test 7.
    assert summary["parts"] == {
        "stage_1_train": 20,
        "val_seen": 4,
        "val_unseen": 6,
        "test_seen": 5,
        "test_unseen": 7,
    }
    assert (summary["clips"], summary["classes"], summary["seconds_per_clip"]) == (42, 6, 9.6)
    size = sum(path.stat().st_size for path in rendered.path.glob("*/*.mp4"))
    assert summary["bytes"] == size < 42 * 2**18


@pytest.mark.slow
def test_same_seed_same_content(rendered, tmp_path):
    for clip in plan_clips(SMALL, 7)[::25]:
        (tmp_path / clip.file).parent.mkdir()
        clip.render(tmp_path)
        for one, other in zip(
            decode(tmp_path / clip.file)[:2], decode(rendered.path / clip.file)[:2], strict=True
        ):
            assert (one == other).all()
    other = plan_clips(World(3, 2, 1, ("late",), seed=6), 7)[0]
    (tmp_path / other.file).parent.mkdir(exist_ok=True)
    other.render(tmp_path)
    assert (decode(tmp_path / other.file)[0] != decode(rendered.path / other.file)[0]).any()


@pytest.mark.slow
def test_clips_of_a_class_differ(rendered):
    first, second = (decode(path)[0] for path in sorted(rendered.path.glob("*/c0003_000[01].mp4")))
    assert np.abs(first[0].astype(int) - second[0]).mean() > 3


def test_names_are_names_of_folders_anywhere():
    world = World(len(LOOKS), len(MOTIONS), len(SOUNDS), RELATIONS, seed=0)
    clips = plan_clips(world, 1)
    assert len({clip.file.casefold() for clip in clips}) == len(world.classes)
    for clip in clips:
        assert re.fullmatch(r"[a-z][a-z, ]{0,60}[a-z]/c\d{4}_\d{4}\.mp4", clip.file)


def test_an_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch):
    begun, rendered = [], []
    render = RenderedClip.render

    def noted(clip, folder):
        rendered.append(clip)
        return render(clip, folder)

    monkeypatch.setattr(RenderedClip, "render", noted)

    def track(items, description):
        begun.append((len(items), description))
        yield items[0]
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        render_world(SMALL, tmp_path / "world", clips_per_class=7, track=track)
    assert begun == [(42, "rendering clips")]
    assert not list(tmp_path.iterdir())
    # What had not begun never did.
    assert len(rendered) < 42
    assert threading.active_count() == before


def test_what_is_there_is_kept(rendered, tmp_path):
    with pytest.raises(TCAFError, match="--overwrite"):
        render_world(SMALL, rendered.path, clips_per_class=7)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    with pytest.raises(TCAFError, match=r"is no rendered world; name another place$"):
        render_world(SMALL, tmp_path / "photos", clips_per_class=7, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "mine.jpg"]


def test_overwrite_replaces_a_rendered_world(tmp_path, monkeypatch):
    monkeypatch.setattr(RenderedClip, "render", lambda clip, folder: quick(folder / clip.file))
    path = tmp_path / "world"
    render_world(World(3, 2, 1, ("late",), seed=1), path, clips_per_class=8)
    render_world(SMALL, path, clips_per_class=7, overwrite=True)
    assert len(list(path.glob("*/*.mp4"))) == 42
    assert [other.name for other in tmp_path.iterdir()] == ["world"]


def quick(path):
    """Stands in for rendering, which other tests look at."""
    path.touch()
    return np.zeros(2), np.zeros(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips_per_class": 6}, "clips_per_class must be at least 7 for every part .* got 6"),
        ({"clips_per_class": 0}, "got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_errors(tmp_path, change, message):
    with pytest.raises(TCAFError, match=message):
        render_synthetic(tmp_path / "world", **change)
    assert not list(tmp_path.iterdir())


def test_the_hidden_world_has_no_videos(tmp_path):
    hidden = World(3, 2, 1, ("alike",), seed=0)
    with pytest.raises(TCAFError, match=r"only the lag world has pictures .* got the hidden world"):
        render_world(hidden, tmp_path / "world")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tcaf\[video\]'"):
        render_world(SMALL, tmp_path / "world", clips_per_class=7)
    assert not list(tmp_path.iterdir())
