"""Your own clips to a store, all the way: damage, kills, real clips, other encodings."""

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ended import still_running
from tcaf.commands.entry import main
from tcaf.data.store import FeatureStore
from tcaf.errors import MissingExtraError
from tcaf.extract.corpus import Backbones, _open_worker, extract_files
from tcaf.extract.work_folder import MediaFile, Reject, WorkFolder
from tcaf.sources.labels import find_clips
from tcaf.sources.videos import prepare_videos

av = pytest.importorskip("av")
pytest.importorskip("efficientnet_lite_pytorch")

CLIPS = Path(os.environ.get("TCAF_SHARED", Path(__file__).parents[3] / "shared")) / "clips"

LIGHT = "efficientnet_lite0:frames=1"
"""The lightest network that there is for pictures."""

FEW = "ignore:.*the store has no split"

real = pytest.mark.skipif(
    not CLIPS.is_dir(), reason="needs real clips: clips/ in $TCAF_SHARED or in ../shared"
)


@pytest.fixture(scope="module")
def media():
    """The module of the folder `extract` that writes media files."""
    import damaged

    return damaged


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, media):
    """A folder of odd and damaged files, one file that is none of them, and what each is."""
    folder = tmp_path_factory.mktemp("damaged")
    told = media.damaged_folder(folder)
    (folder / "notes.txt").write_text("no clip")
    return folder, told


def command(folder, out, *more, visual=LIGHT, workers=2):
    return [
        *(sys.executable, "-m", "tcaf", "prepare", "videos", str(folder)),
        *("--audio", "logmel", "--visual", visual, "--out", str(out)),
        *("--workers", str(workers), *more),
    ]


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def grouped(path, key, value):
    found = {}
    for row in rows_of(path):
        found.setdefault(row[key], []).append(row[value])
    return found


REASONS = {
    "cut_in_the_header.mp4": "damaged header",
    "no_moov.mp4": "damaged header",
    "empty.mp4": "an empty file",
    "folder.mp4": "a folder",
    "nowhere.mp4": "no such file",
    "jpeg.mp4": "a picture, not a clip",
    "png.mp4": "a picture, not a clip",
    "noise.mp4": "not a media file",
    "text.mp4": "not a media file",
    "spoilt_everything.mp4": "neither sound nor picture",
}
"""Files of the folder that cannot be used."""

NO_AUDIO = {"no_sound.mp4", "unknown_codec.mp4"}
NO_VISUAL = {"no_picture.mp4", "one_sample.wav", "eight_bit.wav", "spoilt_index.mp4"}
DAMAGED = {
    *("cut_at_the_end.mp4", "cut_at_the_end.webm", "cut_at_the_end.avi"),
    *("spoilt_middle.mp4", "spoilt_index.mp4", "unknown_codec.mp4"),
}


@pytest.mark.slow
def test_a_hostile_folder_ends_and_nothing_foreign_comes_of_it(tmp_path, media):
    folder, secret = tmp_path / "clips", tmp_path / "secret.ts"
    folder.mkdir()
    media.write_clip(secret, 1, sample_rate=48_000)
    media.write_clip(folder / "good.mp4", 1)
    media.write_clip(folder / "mute.mp4", 1, make=lambda *given: 0 * media.tone(*given))
    (folder / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    (folder / "live.ts").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{secret}\n")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "endless.mp4").symlink_to("/dev/zero")
    with (folder / "zeros.mp3").open("wb") as zeros:
        zeros.truncate(10**10)
    done = subprocess.run(
        command(folder, tmp_path / "store"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    store = FeatureStore.open(tmp_path / "store")
    assert grouped(store.path / "rejects.csv", "file", "reason") == {
        "concat.mp4": ["a playlist"],
        "live.ts": ["a playlist"],
        "pipe.mp4": ["not a file"],
        "endless.mp4": ["not a file"],
        "zeros.mp3": ["not a media file"],
    }
    assert store.ids == ["good.mp4", "mute.mp4"]
    (notes,) = grouped(store.path / "notes.csv", "file", "note").items()
    assert notes[0] == "mute.mp4"
    assert notes[1][0].startswith("the sound is silent")


@pytest.mark.slow
def test_every_damaged_file_is_kept_or_rejected(damaged, tmp_path):
    folder, told = damaged
    done = subprocess.run(
        command(folder, tmp_path / "store"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    # FFmpeg says nothing of its own; one line is about notes.txt, one about the missing split.
    passed_over, line = done.stderr.splitlines()
    assert passed_over.startswith("warning: passed over in ")
    assert "notes.txt" in passed_over
    assert line.startswith("warning: ")
    assert "the store has no split" in line

    store = FeatureStore.open(tmp_path / "store")
    rejects = grouped(store.path / "rejects.csv", "file", "reason")
    assert rejects == {name: [reason] for name, reason in REASONS.items()}
    assert sorted([*store.ids, *rejects]) == sorted(told)
    for row in rows_of(store.path / "rejects.csv"):
        assert row["detail"].startswith(str(folder / row["file"]))
        assert "\n" not in row["detail"]

    notes = grouped(store.path / "notes.csv", "file", "note")
    assert set(notes) == NO_AUDIO | NO_VISUAL | DAMAGED
    assert {name for name in notes if "no audio track" in notes[name]} == NO_AUDIO
    assert {name for name in notes if "no visual track" in notes[name]} == NO_VISUAL
    assert all(any(str(folder / name) in note for note in notes[name]) for name in DAMAGED)
    for clip in store:
        assert (len(clip.audio) == 0) == (clip.id in NO_AUDIO), clip.id
        assert (len(clip.visual) == 0) == (clip.id in NO_VISUAL), clip.id
        assert np.isfinite(clip.audio).all()
        assert np.isfinite(clip.visual).all()
    by_id = {clip.id: clip for clip in store}
    # 2 s: (32,000 - 15,600) / 15,360 + 1 tokens of sound; frames at 0, 0.64, 1.28 and 1.92 s.
    assert (len(by_id["whole.mp4"].audio), len(by_id["whole.mp4"].visual)) == (2, 4)
    assert not (tmp_path / "store.extracted").exists()


def extract_nothing(*_):
    """Takes the place of what starts processes."""
    raise AssertionError("a file is extracted again")


@pytest.mark.slow
@pytest.mark.filterwarnings(FEW)
def test_what_is_required_rejects_without_another_extraction(damaged, tmp_path, monkeypatch):
    folder, told = damaged
    files = [clip.file for clip in find_clips(folder).clips]
    work = tmp_path / "store.extracted"
    extract_files(files, Backbones("logmel", LIGHT), work, workers=2)
    monkeypatch.setattr("tcaf.extract.corpus.answers", extract_nothing)
    with pytest.warns(UserWarning, match="passed over"):
        store = prepare_videos(
            folder, tmp_path / "store", visual=LIGHT, require_audio=True, require_visual=True
        )
    rejects = grouped(store.path / "rejects.csv", "file", "reason")
    assert {name for name, (why,) in rejects.items() if why == "no audio track"} == NO_AUDIO
    assert {name for name, (why,) in rejects.items() if why == "no visual track"} == NO_VISUAL
    assert sorted([*store.ids, *rejects]) == sorted(told)
    assert set(grouped(store.path / "notes.csv", "file", "note")) == {
        name for name in DAMAGED if name not in rejects
    }


@pytest.mark.slow
@pytest.mark.filterwarnings(FEW)
def test_none_can_be_used(tmp_path, media, capsys, monkeypatch):
    """What was extracted stays, so that the command without the demand has it at once."""
    (tmp_path / "clips").mkdir()
    media.write_clip(tmp_path / "clips" / "a.mp4", 1, sample_rate=None)
    asked = command(tmp_path / "clips", tmp_path / "store", workers=1)[3:]
    assert main([*asked, "--require_audio"]) == 2
    error = capsys.readouterr().err
    assert "none of 1 files can be used: a.mp4 has no audio track" in error
    assert rows_of(tmp_path / "store.extracted" / "rejects.csv")[0]["file"] == "a.mp4"
    monkeypatch.setattr("tcaf.extract.corpus.answers", extract_nothing)
    assert main(asked) == 0
    assert list(FeatureStore.open(tmp_path / "store").ids) == ["a.mp4"]


def started(asked):
    """Starts a command as the head of a group of processes, as a shell does."""
    return subprocess.Popen(
        asked, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(is_so, process, seconds=300):
    until = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def states(folder):
    """Which file each name is, and when it was written."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("*.safetensors")}


@pytest.fixture
def seven(tmp_path, media):
    """Seven clips that take about a second each, and one that cannot be used."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for index in range(7):
        media.write_clip(folder / f"{index}.mp4", seconds=5 + index / 3, fps=5)
    (folder / "empty.mp4").touch()
    return folder


@pytest.mark.slow
def test_a_killed_run_is_taken_up_by_the_same_command(tmp_path, seven):
    psutil = pytest.importorskip("psutil")
    visual = "efficientnet_lite0:frames=4"
    asked = command(seven, tmp_path / "out", visual=visual)
    clips = tmp_path / "out.extracted" / "clips"

    process = started(asked)
    wait_until(lambda: len(states(clips)) >= 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert not still_running(children, timeout=10)
    first = states(clips)
    assert 2 <= len(first) < 7
    assert not (tmp_path / "out").exists()

    process = started(asked)
    wait_until(lambda: len(states(clips)) > len(first), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    # As a terminal does: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.endswith("\ninterrupted; the same command carries on\n")
    assert "Traceback" not in error
    assert not still_running(children, timeout=10)
    second = states(clips)
    assert len(first) < len(second) < 7
    assert {name: second[name] for name in first} == first
    assert not list(clips.parent.rglob("*.partial"))
    assert not (tmp_path / "out").exists()

    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = command(seven, tmp_path / "whole", visual=visual)
    assert subprocess.run(whole, capture_output=True, check=False).returncode == 0
    stores = [FeatureStore.open(tmp_path / name) for name in ("out", "whole")]
    assert stores[0].fingerprint == stores[1].fingerprint
    assert list(stores[0].ids) == [f"{index}.mp4" for index in range(7)]
    for name in ("rejects.csv", "notes.csv"):
        texts = [(store.path / name).read_text() for store in stores]
        assert texts[0] == texts[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "out", "whole"]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2, 2.0])
def test_ctrl_c_while_processes_start(tmp_path, seven, delay):
    """They import torch for seconds; nothing but one line is to be seen of them."""
    psutil = pytest.importorskip("psutil")
    process = started(command(seven, tmp_path / "out"))
    parent = psutil.Process(process.pid)
    # Two that work, and the one of multiprocessing that looks after them.
    wait_until(lambda: len(parent.children()) >= 3, process)
    time.sleep(delay)
    children = parent.children()
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "\ninterrupted; the same command carries on\n")
    assert not still_running(children, timeout=10)


@pytest.mark.slow
def test_a_process_that_is_killed_loses_its_file_alone(tmp_path, media):
    psutil = pytest.importorskip("psutil")
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, seconds in (("1 short.mkv", 2), ("2 long.mkv", 1201), ("3 short.mkv", 2)):
        media.write_clip(folder / name, seconds, fps=1, sample_rate=8000, audio_codec="pcm_s16le")
    # One process, which takes the largest file first.
    process = started(command(folder, tmp_path / "out", workers=1))

    def at_work():
        """Returns the worker, once it has the long file open."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children():
                if any(Path(file.path).name == "2 long.mkv" for file in child.open_files()):
                    return child
        return None

    wait_until(lambda: at_work() is not None, process)
    worker = at_work()
    worker.kill()
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "Traceback" not in error
    store = FeatureStore.open(tmp_path / "out")
    assert list(store.ids) == ["1 short.mkv", "3 short.mkv"]
    (reject,) = rows_of(store.path / "rejects.csv")
    why = "killed, perhaps for want of memory"
    assert reject == {
        "file": "2 long.mkv",
        "reason": why,
        "detail": f"{folder / '2 long.mkv'}: {why} (the process was ended by SIGKILL)",
    }


def test_without_pyav_nothing_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    files = [MediaFile("a.mp4", tmp_path / "a.mp4")]
    with pytest.raises(MissingExtraError, match=r"pip install 'tcaf\[video\]'"):
        extract_files(files, Backbones("logmel", LIGHT), tmp_path / "work", workers=1)
    assert not (tmp_path / "work").exists()


def test_a_name_that_is_not_utf_8(tmp_path, media):
    (tmp_path / "a").mkdir()
    data = media.write_clip(tmp_path / "a" / "1.mp4", 1).read_bytes()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/2\xe9.mp4")).write_bytes(data)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    files = [clip.file for clip in find_clips(tmp_path).clips]
    assert [file.id for file in files] == ["a/1.mp4", "a/2\\xe9.mp4"]
    extractor = Backbones("logmel", LIGHT).open()
    work = WorkFolder.open(tmp_path / "work", extractor.spec)
    for file in files:
        work.keep(file, extractor.extract(file.path, file.id), [])
    clips = [work.find(file).features() for file in files]
    assert np.array_equal(clips[0].visual, clips[1].visual)
    assert len({file.key for file in files}) == 2


def test_a_file_that_changes_while_it_is_read(tmp_path, media, monkeypatch):
    path = media.write_clip(tmp_path / "a.mp4", 1)
    file = MediaFile("a.mp4", path)
    backbones = Backbones("logmel", LIGHT)
    work = WorkFolder.open(tmp_path / "work", backbones.open().spec)
    extract = _open_worker(backbones, work.path)
    embed = "tcaf.extract.logmel.LogMelBackbone.embed"

    def embed_and_touch(self, windows):
        os.utime(path, ns=(1, 1))
        return np.zeros((len(windows), 128), np.float32)

    monkeypatch.setattr(embed, embed_and_touch)
    extract((file,), print)
    assert work.find(file) is None
    monkeypatch.undo()
    extract((file,), print)
    assert not isinstance(work.find(file), Reject | None)


def lengths_of(path):
    """Start and end of both tracks as the container tells them, in seconds since the first."""
    with av.open(str(path)) as container:
        spans = {
            stream.type: (
                float(stream.start_time * stream.time_base),
                float((stream.start_time + stream.duration) * stream.time_base),
            )
            for stream in (container.streams.audio[0], container.streams.video[0])
        }
    first = min(start for start, _ in spans.values())
    return spans["audio"][1] - first, spans["video"][1] - first


def check_lengths(store, folder):
    """Sound: windows of 15,600 samples every 15,360; frames: windows of 0.64 s, one after another.

    A container rounds, and a decoder drops its delay: one token more or less.
    """
    for clip in store:
        audio_s, visual_s = lengths_of(folder / clip.id)
        assert abs(len(clip.audio) - ((audio_s * 16_000 - 15_600) // 15_360 + 1)) <= 1, clip.id
        assert abs(len(clip.visual) - visual_s // 0.64) <= 1, clip.id
        for tokens in (clip.audio.astype(np.float32), clip.visual.astype(np.float32)):
            assert np.isfinite(tokens).all()
            # No token is constant, and no two neighbours are the same.
            assert (tokens.std(axis=1) > 0).all()
            assert (np.abs(np.diff(tokens, axis=0)).max(axis=1) > 0).all()


@real
@pytest.mark.slow
@pytest.mark.filterwarnings(FEW)
def test_real_clips(tmp_path):
    store = prepare_videos(CLIPS, tmp_path / "out", labels=CLIPS / "labels.csv", workers=2)
    assert sorted(store.ids) == sorted(path.name for path in CLIPS.glob("*.mp4"))
    assert rows_of(store.path / "rejects.csv") == rows_of(store.path / "notes.csv") == []
    assert (store.spec.audio_dim, store.spec.visual_dim) == (128, 1280)
    assert len(set(store.class_names)) == 11
    check_lengths(store, CLIPS)
    # 10 s are 10 tokens of sound and 15 of picture.
    assert {(len(clip.audio), len(clip.visual)) for clip in store} == {(10, 15), (6, 9)}


@real
@pytest.mark.slow
@pytest.mark.filterwarnings(FEW)
def test_real_clips_with_vggish_and_c3d(tmp_path):
    """Two clips: a window of C3D takes about a second."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("dog_02677.mp4", "cough_00331.mp4"):
        (folder / name).symlink_to(CLIPS / name)
    store = prepare_videos(
        folder,
        tmp_path / "out",
        audio="vggish:weights=random",
        visual="c3d:weights=random",
        workers=2,
    )
    assert (store.spec.audio_dim, store.spec.visual_dim) == (128, 4096)
    assert (store.spec.audio_step_s, store.spec.visual_step_s) == (0.96, 0.64)
    assert len(store.ids) == 2
    check_lengths(store, folder)


def reencode(source, target, fps, sample_rate):
    """Writes a clip anew: frames and samples of other rates, of good quality."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        video, audio = old.streams.video[0], old.streams.audio[0]
        pictures = new.add_stream("libx264", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = video.width, video.height, "yuv420p"
        options = {"crf": "18", "preset": "veryfast", "x264-params": "log-level=none"}
        pictures.options = options
        # The same channels, for two have another loudness than one.
        sounds = new.add_stream("aac", rate=sample_rate, layout=audio.layout.name)
        sounds.bit_rate = 128_000
        resampler = av.AudioResampler("fltp", audio.layout.name, sample_rate)
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_buffer(template=video), graph.add("fps", str(fps)), graph.add("buffersink")
        ).configure()

        def mux_frames(frame):
            graph.push(frame)
            while True:
                try:
                    shown = graph.pull()
                except (av.error.BlockingIOError, av.error.EOFError):
                    return
                shown.pict_type = 0
                new.mux(pictures.encode(shown))

        for packet in old.demux(video, audio):
            for frame in packet.decode():
                if packet.stream is video:
                    mux_frames(frame)
                else:
                    for block in resampler.resample(frame):
                        new.mux(sounds.encode(block))
        mux_frames(None)
        new.mux(pictures.encode(None))
        for block in resampler.resample(None):
            new.mux(sounds.encode(block))
        new.mux(sounds.encode(None))


def cosine(one, other):
    """Cosine along the last axis, in double precision."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (one * other).sum(-1) / lengths


@real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fps", "sample_rate", "ending"),
    [
        ("baby_01951.mp4", 50, 32_000, "mkv"),
        ("dog_02677.mp4", 24, 16_000, "mp4"),
        ("drum_02480.mp4", 30, 48_000, "mov"),
        ("cough_00331.mp4", 12, 22_050, "mkv"),
    ],
)
def test_another_encoding_gives_nearly_the_same_features(name, fps, sample_rate, ending, tmp_path):
    extractor = Backbones("logmel", "efficientnet_lite0:frames=4").open()
    target = tmp_path / f"again.{ending}"
    reencode(CLIPS / name, target, fps, sample_rate)
    clips = [extractor.extract(path) for path in (CLIPS / name, target)]
    for modality in ("audio", "visual"):
        old, new = (clip.tokens(modality) for clip in clips)
        assert abs(len(old) - len(new)) <= 1
        num = min(len(old), len(new))
        told = cosine(old[:num], new[:num])
        assert told.mean() > 0.98
        assert told.min() > 0.9
        assert cosine(old.mean(axis=0), new.mean(axis=0)) > 0.99
        # Tokens of other clips are farther away than that: the measure can fail.
        assert told.mean() > cosine(old[:num], np.roll(new[:num], 1, axis=0)).mean()


MEASURE = """
import re, sys
from pathlib import Path
from tcaf.extract.corpus import Backbones
clip = Backbones("logmel", "efficientnet_lite0:frames=1").open().extract(sys.argv[1])
# Not ru_maxrss, which a process inherits from the one that started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(len(clip.audio), len(clip.visual), peak / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path, media):
    used = {}
    for seconds in (10, 600):
        path = media.write_clip(
            tmp_path / f"{seconds}.mkv",
            seconds,
            fps=1,
            sample_rate=8000,
            audio_codec="pcm_s16le",
        )
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True
        )
        audio_len, visual_len, used[seconds] = map(float, done.stdout.split())
        assert abs(audio_len - seconds / 0.96) <= 1
        assert abs(visual_len - seconds / 0.64) <= 1
    # The tokens themselves: 625 of 128 numbers and 938 of 1280 are 5 MiB, twice while joined.
    assert used[600] - used[10] < 40
