"""`tcaf predict --every`: recordings to tables, files and pictures."""

import csv
import io
import json
import shutil
import time
from types import SimpleNamespace

import pytest

from tcaf.answers import watch
from tcaf.commands.predict import predict as predict_command
from tcaf.extract.backbones import BACKBONES
from tcaf.reports.captions import FormatName
from write_clip_run import COLOURS, write_run
from write_recording import Scene, write_recording

pytest.importorskip("av")

SCENES = [Scene(4.0), Scene(4.0, None, None), Scene(5.0, 900.0, (10, 240, 30))]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_experiment):
    """A run, and a folder of two recordings."""
    folder = tmp_path_factory.mktemp("recordings")
    write_run(folder, tiny_experiment(training={"epochs": 1, "batches_per_epoch": 3}))
    (folder / "media" / "deep").mkdir(parents=True)
    write_recording(folder / "media" / "a.mkv", SCENES)
    write_recording(folder / "media" / "deep" / "b.wav", [Scene(3.0)], sight=False)
    return folder


@pytest.fixture(autouse=True)
def _backbones(monkeypatch, quick):
    monkeypatch.setitem(BACKBONES, "colours", COLOURS)


def complaint(result):
    """Returns the one line of a command that failed."""
    status, output, error = result
    assert (status, output) == (2, "")
    return error.splitlines()[-1]


@pytest.mark.slow
def test_a_recording_gets_a_table(predict, world):
    status, output, error = predict(world / "media" / "a.mkv", "--every", 2)
    assert status == 0
    assert "0:08" in output
    assert "of them 0:04 silent and blank" in output
    assert error.startswith("note: a stretch that is none of the names gets the nearest one")
    _, output, _ = predict(world / "media" / "a.mkv", "--every", 2, "--keep_all")
    assert "silent and blank" in output.splitlines()[5]


@pytest.mark.slow
def test_all_forms_say_the_same(predict, world, tmp_path):
    clip = world / "media" / "a.mkv"
    _, output, _ = predict(clip, "--every", 2, "--hop", 1, "--json", "--keep_all")
    value = json.loads(output)
    spans = value["recordings"][0]["spans"]
    assert (value["every"], value["hop"]) == (2.0, 1.0)
    assert value["recordings"][0]["left_out"]["silence"] > 2
    _, output, _ = predict(clip, "--every", 2, "--hop", 1, "--jsonl", "--keep_all")
    assert [json.loads(line) for line in output.splitlines()] == spans
    out = tmp_path / "a.csv"
    status, output, error = predict(
        *(clip, "--every", 2, "--hop", 1, "--csv", "--keep_all", "--out", out)
    )
    assert status == 0
    assert output == out.read_text()
    assert f"written: {out}" in error
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [row["class"] for row in rows] == [span["class"] or "" for span in spans]


@pytest.mark.slow
def test_files_of_several_recordings(predict, world, tmp_path):
    media, out = world / "media", tmp_path / "out"
    status, output, error = predict(media, "--every", 2, "--out", out, "--format", "srt")
    assert (status, output) == (0, "")
    assert error.count("written: ") == 2
    assert (out / "a.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:0")
    assert (out / "deep" / "b.srt").is_file()
    table = tmp_path / "all.jsonl"
    assert predict(media, "--every", 2, "--out", table)[0] == 0
    ids = [json.loads(line)["id"] for line in table.read_text().splitlines()]
    assert list(dict.fromkeys(ids)) == [str(media / "a.mkv"), str(media / "deep" / "b.wav")]


@pytest.mark.slow
def test_a_bad_recording_keeps_nothing_else_back(predict, world, tmp_path):
    bad, good = tmp_path / "bad.mkv", world / "media" / "deep" / "b.wav"
    bad.write_text("no recording")
    out = tmp_path / "out"
    status, output, error = predict(
        *(bad, good, "--every", 2, "--jsonl", "--out", out, "--format", "vtt")
    )
    assert status == 2
    first, second = map(json.loads, output.splitlines())
    assert (first["id"], second["id"]) == (str(bad), str(good))
    assert "not a media file" in first["error"]
    assert [path.name for path in out.iterdir()] == ["b.vtt"]
    *_, one, last = error.splitlines()
    assert one.startswith(f"no answer for {bad}: {bad}: not a media file")
    assert last == "tcaf: 1 of 2 recordings have no answer, or none to the end"
    assert "not a media file" in complaint(predict(bad, "--every", 2, "--out", tmp_path / "x.vtt"))
    assert not (tmp_path / "x.vtt").exists()


@pytest.mark.filterwarnings("default:.*damaged")
def test_what_breaks_off_is_answered_up_to_there(predict, world, tmp_path):
    data = (world / "media" / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 3])
    status, output, error = predict(tmp_path / "cut.mkv", "--every", 1, "--csv")
    assert status == 0
    assert "what decodes is used" in error
    assert len(output.splitlines()) > 1


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files(predict, world, tmp_path, monkeypatch):
    from tcaf.answers import recordings

    taken = []
    answer = recordings._answer

    def until_somebody_stops_it(classifier, stretch, asked):
        taken.append(stretch.video.id)
        if len(set(taken)) > 1:
            raise KeyboardInterrupt
        return answer(classifier, stretch, asked)

    monkeypatch.setattr(recordings, "_answer", until_somebody_stops_it)
    shared, media = tmp_path / "all.csv", world / "media"
    status, _, error = predict(media, "--every", 2, "--out", shared, "--workers", 1)
    assert status == 130
    assert f"written: {shared}" in error
    rows = list(csv.DictReader(io.StringIO(shared.read_text())))
    assert {row["id"] for row in rows} == {str(media / "a.mkv")}
    taken.clear()
    out = tmp_path / "out"
    predict(media, "--every", 2, "--out", out, "--format", "vtt", "--workers", 1)
    assert [path.name for path in out.rglob("*")] == ["a.vtt"]


@pytest.mark.slow
def test_a_picture_of_each(predict, world, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "p.png"
    status, _, error = predict(world / "media", "--every", 2, "--timeline", picture)
    assert status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p_1.png", "p_2.png"]
    assert error.count("drawn: ") == 2


@pytest.fixture
def until_nothing_comes(monkeypatch):
    """Ends a watch by Ctrl-C when there is nothing more to answer; files rest at once."""

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) > 1:
            raise KeyboardInterrupt

    looks = []
    fake = SimpleNamespace(sleep=sleep, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr("tcaf.answers.watch.time", fake)
    arrivals = watch.arrivals
    monkeypatch.setattr(watch, "arrivals", lambda *given: arrivals(*given, sleep=sleep))
    return looks


@pytest.fixture
def folder(world, tmp_path):
    shutil.copytree(world / "media", tmp_path / "in")
    return tmp_path / "in"


@pytest.mark.slow
def test_a_folder_is_watched(predict, folder, tmp_path, until_nothing_comes):
    (folder / "bad.mkv").write_text("no recording")
    options = ("--watch", folder, "--settle_s", 0, "--every", 2, "--jsonl")
    out = tmp_path / "out"
    status, output, error = predict(*options, "--out", out, "--format", "srt")
    assert status == 130
    values = [json.loads(line) for line in output.splitlines()]
    assert {value["id"] for value in values} == {
        str(folder / name) for name in ("a.mkv", "bad.mkv", "deep/b.wav")
    }
    first, *lines = (folder / ".tcaf-watch.jsonl").read_text().splitlines()
    assert json.loads(first)["asked"]["every"] == 2.0
    kept = {line["file"]: line["answers"] for line in map(json.loads, lines)}
    assert sorted(kept) == ["a.mkv", "bad.mkv", "deep/b.wav"]
    spans = [value for value in values if "start" in value]
    assert kept["a.mkv"]["spans"] + kept["deep/b.wav"]["spans"] == sorted(
        spans, key=lambda span: (span["id"], span["start"])
    )
    assert "not a media file" in kept["bad.mkv"]["error"]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.srt")) == [
        "a.mkv.srt",
        "deep/b.wav.srt",
    ]
    assert f"watching: {folder}; answered files are kept in {folder}/.tcaf-watch.jsonl;" in error
    assert "3 files answered; the same command goes on" in error
    # And again: nothing to do.
    until_nothing_comes.clear()
    status, output, error = predict(*options, "--out", out, "--format", "srt")
    assert (status, output) == (130, "")
    assert "3 are answered already" in error
    assert "other every (2.0, now 3.0); name another --record" in complaint(
        predict("--watch", folder, "--every", 3)
    )


@pytest.mark.slow
def test_clips_of_a_folder_are_watched_for(predict, folder, tmp_path, until_nothing_comes):
    record = tmp_path / "kept" / "record.jsonl"
    options = ("--watch", folder, "--settle_s", 0, "--record", record)
    status, output, _ = predict(*options)
    assert status == 130
    assert sorted(line.split("  ")[1] for line in output.splitlines()) == [
        str(folder / "a.mkv"),
        str(folder / "deep" / "b.wav"),
    ]
    value = json.loads(record.read_text().splitlines()[-1])
    assert value["answers"]["answers"][0]["rank"] == 1
    record.unlink()
    until_nothing_comes.clear()
    _, output, _ = predict(*options, "--csv", "--top_k", 1)
    assert [line.split(",")[0] for line in sorted(output.splitlines())] == [
        str(folder / "a.mkv"),
        str(folder / "deep" / "b.wav"),
        "file",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name clips to answer, or a folder to answer as files arrive: --watch DIR"),
        (["a.mkv", "--watch", "."], "--watch and CLIPS exclude each other"),
        (["--watch", ".", "--why"], "has no room for --why; add --jsonl or --csv"),
        (["--watch", ".", "--json"], "--watch and --json exclude each other"),
        (["--watch", ".", "--out", "x", "--format", "vtt"], "--out is about recordings that are"),
        (["a.mkv", "--record", "x"], "--record is about a folder that is watched; add --watch DIR"),
        (["a.mkv", "--settle_s", "5"], "--settle_s is about a folder that is watched"),
        (["--watch", "gone"], "expected a folder to watch, gone is none"),
        (["--watch", ".", "--every", "2", "--out", "x"], "say how the files in x are to be"),
    ],
)
def test_watches_that_are_none(predict, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert message in complaint(predict(*arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hop", "2"], "--hop is about recordings that are cut; add --every SECONDS"),
        (["--out", "x.vtt"], "--out is about recordings that are cut; add --every"),
        (["--every", "2", "--together"], "--together is about whole clips; leave it out, or"),
        (["--every", "2", "--why"], "--why is about whole clips"),
        (["--every", "2", "--store", "x"], "--store is about whole clips"),
        (["--every", "2", "--format", "vtt"], "add --out FILE or FOLDER"),
        (["--every", "2", "--hop", "3"], "--hop must be above 0 and at most --every, 2, got 3"),
        (["--every", "0.5"], "--every 0.5 is shorter than what one audio token"),
        (["--every", "2", "--out", "x.doc"], "expected a file in one of .csv .jsonl"),
        (["--every", "2", "--abstain", "0.001"], "validation clips"),
        (["--every", "2", "--timeline", "x.jpg"], "expected a PNG file"),
    ],
)
def test_mistakes_get_one_line(predict, world, arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert message in complaint(predict(world / "media" / "a.mkv", *arguments))
    assert not list(tmp_path.iterdir())


def test_the_formats_that_help_lists_are_all():
    typed = predict_command.__annotations__["format"]
    assert typed == FormatName | None
