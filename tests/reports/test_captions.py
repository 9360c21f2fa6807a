"""Answers of recordings as files, read back by the parsers of FFmpeg and Python."""

import csv
import html
import json
import re
from pathlib import Path

import pytest

from tcaf.answers.ranking import Answer, Ranking
from tcaf.answers.recordings import Span
from tcaf.errors import TCAFError
from tcaf.reports.captions import COLUMNS, FORMATS, Destination

AWKWARD = (
    'dogs & <b>"cats"</b> --> {\\an8}, both\n\nWEBVTT',
    "tab\there, and\r\na line",
    "ordinary",
    "Ümläut 犬\u2028\u202e",
    "1",
)
"""Names that mean something to one format or another."""


def spans(names=AWKWARD, probability=0.5):
    """An answer for each name, of 1.5 s, one after the other, the last hours later."""
    found = []
    for number, name in enumerate(names):
        ranking = Ranking("r.mkv", (Answer(name, 1.0, probability, True),))
        start_s = 1.5 * number + (36_000.0 if number == len(names) - 1 else 0.0)
        found.append(Span("r.mkv", start_s, start_s + 1.5, "answer", ranking, probability, 1.0))
    return found


SILENCE = Span("r.mkv", 0.0, 2.0, "silence")
STARTS_MS = [0, 1500, 3000, 4500, 36_006_000]


def captions(path):
    """What FFmpeg reads: start and length in milliseconds, text."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert stream.type == "subtitle"
        return [
            (packet.pts, packet.duration, packet.decode()[0].dialogue.decode())
            for packet in container.demux(stream)
            if packet.size
        ]


def write(tmp_path, name, some):
    path = tmp_path / f"r{FORMATS[name].suffix}"
    Destination(name, {Path("r.mkv"): path}).write(path, some)
    return path


def on_one_line(name):
    return " ".join(re.sub("[\u2028\u202e]", " ", name).split())


def test_webvtt_as_ffmpeg_reads_it(tmp_path):
    found = captions(write(tmp_path, "vtt", spans()))
    assert [start for start, _, _ in found] == STARTS_MS
    assert {length for _, length, _ in found} == {1500}
    assert [text for _, _, text in found][1:] == [f"{on_one_line(n)} (50 %)" for n in AWKWARD[1:]]
    # What FFmpeg makes of the brace is a style of its own; the cue holds it.
    assert found[0][2].startswith('dogs & <b>"cats"</b> --> ')
    cues = write(tmp_path, "vtt", spans()).read_text(encoding="utf-8").split("\n\n")
    assert html.unescape(cues[1].splitlines()[1]) == f"{on_one_line(AWKWARD[0])} (50 %)"


def test_subrip_as_ffmpeg_reads_it(tmp_path):
    found = captions(write(tmp_path, "srt", spans()))
    assert [start for start, _, _ in found] == STARTS_MS
    assert {length for _, length, _ in found} == {1500}
    first = 'dogs & ‹b›"cats"‹/b› --› (\\an8), both WEBVTT (50 %)'
    assert [text for _, _, text in found] == [
        first,
        *(f"{on_one_line(name)} (50 %)" for name in AWKWARD[1:]),
    ]


def test_csv_as_python_reads_it(tmp_path):
    with write(tmp_path, "csv", spans()).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["class"] for row in rows] == list(AWKWARD)
    assert [float(row["start"]) * 1000 for row in rows] == STARTS_MS
    assert {row["kind"] for row in rows} == {"answer"}


def test_json_lines_as_python_reads_them(tmp_path):
    lines = write(tmp_path, "jsonl", spans()).read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    values = [json.loads(line) for line in lines]
    assert values == [span.to_json() for span in spans()]


def test_labels_of_audacity(tmp_path):
    lines = write(tmp_path, "audacity", spans()).read_text(encoding="utf-8").splitlines()
    cells = [line.split("\t") for line in lines]
    assert [name for _, _, name in cells] == [on_one_line(name) for name in AWKWARD]
    assert cells[0][:2] == ["0.000000", "1.500000"]
    assert cells[-1][:2] == ["36006.000000", "36007.500000"]


def test_text_for_elan(tmp_path):
    with write(tmp_path, "elan", spans()).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == ["Tier", "Begin Time", "End Time", "Duration", "Annotation"]
    assert [row[4] for row in rows[1:]] == [on_one_line(name) for name in AWKWARD]
    assert rows[-1][:4] == ["tcaf", "10:00:06.000", "10:00:07.500", "00:00:01.500"]


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_left_out_can_be_written_and_nothing_too(tmp_path, name):
    path = write(tmp_path, name, [SILENCE])
    assert "silence" in path.read_text()
    Destination.plan(path, None, [Path("r.mkv")], [])  # may be replaced
    write(tmp_path, name, [])
    Destination.plan(path, None, [Path("r.mkv")], [])


def test_a_file_of_no_unicode(tmp_path):
    lost = Span("\udcff.mkv", 0.0, 1.0, "silence")
    for name in FORMATS:
        path = write(tmp_path, name, [lost])
        path.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "r.jsonl").read_text())["id"] == "\udcff.mkv"
    assert "\\xff.mkv" in (tmp_path / "r.csv").read_text()


def test_without_probability_captions_are_names(tmp_path):
    path = write(tmp_path, "srt", spans(["ant"], None))
    assert path.read_text().splitlines()[2] == "ant"


def test_a_file_for_one_and_for_all(tmp_path):
    one, two = Path("in/a.mkv"), Path("in/b.mkv")
    assert Destination.plan(tmp_path / "x.SRT", None, [one], []).format == "srt"
    assert Destination.plan(tmp_path / "x.txt", "elan", [one], []).format == "elan"
    table = Destination.plan(tmp_path / "x.csv", None, [one, two], [])
    assert table.is_shared
    assert set(table.files.values()) == {tmp_path / "x.csv"}
    with pytest.raises(TCAFError, match=r"x.vtt can hold one recording, and there are 2; name a"):
        Destination.plan(tmp_path / "x.vtt", None, [one, two], [])
    with pytest.raises(TCAFError, match=r"x.vtt ends as a file in the format vtt, not srt"):
        Destination.plan(tmp_path / "x.vtt", "srt", [one], [])
    with pytest.raises(TCAFError, match=r"one of \.csv .*, got .*x.docx"):
        Destination.plan(tmp_path / "x.docx", None, [one], [])
    with pytest.raises(TCAFError, match="--format csv, jsonl, vtt, srt, audacity, elan"):
        Destination.plan(tmp_path / "folder", None, [one], [])


def test_a_folder_has_a_file_for_each(tmp_path):
    names = ["in/a.mkv", "in/deep/a.mkv", "in/b.mkv", "in/b.wav", "c.mp4"]
    recordings = [Path(name) for name in names]
    found = Destination.plan(tmp_path / "out", "vtt", recordings, [Path("in")])
    assert not found.is_shared
    places = [str(found.files[r].relative_to(tmp_path / "out")) for r in recordings]
    assert places == ["a.vtt", "deep/a.vtt", "b.mkv.vtt", "b.wav.vtt", "c.vtt"]
    with pytest.raises(TCAFError, match=r"'x/a.mkv', 'y/a.mkv' would share .*a.mkv.vtt; name the"):
        Destination.plan(tmp_path / "out", "vtt", [Path("x/a.mkv"), Path("y/a.mkv")], [])


def test_more_may_come(tmp_path):
    how = {"roots": [Path("in")], "full_names": True}
    found = Destination.plan(tmp_path / "out.d", "vtt", [Path("in/deep/a.mkv")], **how)
    assert found.files == {Path("in/deep/a.mkv"): tmp_path / "out.d" / "deep" / "a.mkv.vtt"}
    with pytest.raises(TCAFError, match="say how the files in"):
        Destination.plan(tmp_path / "x.vtt", None, [Path("in/a.mkv")], **how)


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("my notes\n")
    (tmp_path / "a.csv").write_text("name,age\n")
    with pytest.raises(TCAFError, match="holds no answers in the format audacity"):
        Destination.plan(tmp_path / "notes.txt", None, [Path("r.mkv")], [])
    with pytest.raises(TCAFError, match="holds no answers in the format csv"):
        Destination.plan(tmp_path / "a.csv", None, [Path("r.mkv")], [])
    (tmp_path / "out").write_text("")
    with pytest.raises(TCAFError, match="is no folder"):
        Destination.plan(tmp_path / "out", "vtt", [Path("r.mkv")], [])
    with pytest.raises(TCAFError, match="is the recording itself"):
        Destination.plan(tmp_path / "r.csv", None, [tmp_path / "r.csv"], [])
