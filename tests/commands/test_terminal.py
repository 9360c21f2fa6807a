"""What is shown while a model trains."""

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from run_contents import RESULT
from tcaf.commands.terminal import (
    JobsObserver,
    TerminalObserver,
    console,
    describe_losses,
    note,
    show,
)
from tcaf.errors import TCAFError
from tcaf.experiments.reproduce import Job, Moment, Outcome
from tcaf.experiments.tables import Row
from tcaf.progress import describe_time
from tcaf.settings.experiment import Experiment
from tcaf.training.observers import EpochRecord, Observers, Silence, TensorBoardObserver

LOSSES = {"loss": 3.25, "cross_entropy": 2.0, "regression": 1.0, "reconstruction": 0.25}
SCORES = {"seen": 0.5, "unseen": 0.25, "harmonic_mean": 1 / 3, "zsl": 0.4, "gamma": 0.6}


def record(epoch, stage=1, validation=SCORES):
    return EpochRecord(stage, epoch, 1e-3, LOSSES, validation, 61.0)


def watched(terminal, scenario):
    """Returns what an observer writes to a console 100 columns wide."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, color_system=None)
    with TerminalObserver(console) as observer:
        scenario(observer)
    return output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0:00"), (61.0, "1:01"), (3599.6, "1:00:00"), (7384.0, "2:03:04")],
)
def test_times_are_read_as_on_a_clock(seconds, expected):
    assert describe_time(seconds) == expected


def test_losses_are_named_in_short():
    assert describe_losses(LOSSES) == "loss 3.250  ce 2.000  reg 1.000  rec 0.250"


def test_each_epoch_leaves_a_line_with_losses_scores_and_time():
    def scenario(observer):
        observer.stage_started(1, 4, 0)
        observer.batch_done(1, 10, 20, LOSSES)
        observer.epoch_done(record(1))
        observer.stage_started(2, 1, 0)
        observer.epoch_done(record(1, stage=2, validation=None))

    lines = watched(False, scenario).splitlines()
    assert lines[0] == "stage 1 picks epoch and gamma: 4 epochs"
    assert re.fullmatch(
        r"    1/4  loss 3.250  ce 2.000  reg 1.000  rec 0.250  S 50.0  U 25.0  HM 33.3  ZSL 40.0"
        r"  gamma 0.6  1:01, \d:\d\d left",
        lines[1],
    )
    assert "stage 2" in lines[2]
    assert "HM" not in lines[3]
    assert len(lines) == 4


def test_a_resumed_stage_says_so_and_counts_the_time_left_from_there():
    def scenario(observer):
        observer.stage_started(1, 4, 3)
        observer.epoch_done(record(4))

    first, second = watched(False, scenario).splitlines()
    assert first.endswith("taken up after epoch 3")
    assert second.endswith("0:00 left")


def test_a_terminal_shows_a_bar_with_running_losses():
    def scenario(observer):
        observer.stage_started(1, 4, 0)
        observer.batch_done(2, 10, 20, LOSSES)
        observer.bar.refresh()

    output = watched(True, scenario)
    assert "epoch 2/4" in output
    assert "10/20" in output
    assert "ce 2.000" in output


def test_several_observers_are_told_the_same():
    told = []

    class Teller(Silence):
        def __init__(self, name):
            self.name = name

        def stage_started(self, *news):
            told.append((self.name, *news))

        def batch_done(self, *news):
            told.append((self.name, *news))

        def epoch_done(self, *news):
            told.append((self.name, *news))

    both = Observers(Teller("a"), Teller("b"))
    both.stage_started(1, 4, 0)
    both.batch_done(1, 10, 20, LOSSES)
    both.epoch_done(record(1))
    assert told[::2] == [("a", *news[1:]) for news in told[1::2]]
    assert [len(news) for news in told[::2]] == [4, 5, 2]


def test_tensorboard_without_its_extra_names_it(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TCAFError, match=r"pip install 'tcaf\[track\]'"):
        TensorBoardObserver(tmp_path)


# --- The runs of a table ---


def job(tmp_path, row, seed=0):
    return Job(Row(row, row.upper()), Experiment(seed=seed), tmp_path / f"{row}_{seed}")


def finished(job, **scores):
    """Leaves the result of a job."""
    job.out.mkdir()
    result = {**RESULT, "test": {**RESULT["test"], **scores}}
    (job.out / "result.json").write_text(json.dumps(result))
    return Outcome(job)


def jobs_watched(jobs, scenario, terminal=False):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, color_system=None)
    with JobsObserver(console, jobs) as observer:
        scenario(observer)
    return output.getvalue()


def test_a_line_for_each_run_that_ends(tmp_path):
    jobs = [job(tmp_path, "a"), job(tmp_path, "a", 1), job(tmp_path, "b")]

    def scenario(observer):
        observer(replace(finished(jobs[1]), skipped=True))
        observer(Moment(jobs[0]))
        observer(Moment(jobs[0], 1, 4, record(1)))
        observer(finished(jobs[0]))
        observer(Moment(jobs[2]))
        observer(Outcome(jobs[2], "it [red] diverged"))

    first, second, third = jobs_watched(jobs, scenario).splitlines()
    scores = "S 50.0  U 25.0  HM 33.3  ZSL 40.0"
    assert first == f"1/3 a, seed 1  {scores}  was done"
    assert re.fullmatch(rf"2/3 a, seed 0  {scores}  0:0\d", second)
    assert third == "3/3 failed b, seed 0: it [red] diverged"


def test_a_score_of_0_is_shown_and_one_without_meaning_is_a_dash(tmp_path):
    of = job(tmp_path, "a")
    outcome = replace(finished(of, unseen=0.0, harmonic_mean=0.0, zsl=None), skipped=True)
    (line,) = jobs_watched([of], lambda observer: observer(outcome)).splitlines()
    assert line == "1/1 a, seed 0  S 50.0  U 0.0  HM 0.0  ZSL -  was done"


def test_a_terminal_shows_what_runs(tmp_path):
    jobs = [job(tmp_path, "a"), job(tmp_path, "b")]
    shown = []

    def scenario(observer):
        def show():
            shown.append([(t.description, t.fields["state"], t.completed) for t in bar.tasks])

        bar = observer.bar
        for news in (
            Moment(jobs[0]),
            Moment(jobs[0], 1, 4),
            Moment(jobs[0], 1, 4, batches=0.25),
            Moment(jobs[1]),
            Moment(jobs[0], 1, 4, record(1)),
            Moment(jobs[0], 2, 3, record(2, stage=2, validation=None)),
            finished(jobs[0]),
        ):
            observer(news)
            show()

    output = jobs_watched(jobs, scenario, terminal=True)
    a, b = ("a, seed 0", "b, seed 0")
    assert [[row for row in rows if row[0] != "all runs"] for rows in shown] == [
        [(a, "starting", 0)],
        [(a, "stage 1", 0)],
        [(a, "stage 1", 0.25)],
        [(a, "stage 1", 0.25), (b, "starting", 0)],
        [(a, "stage 1, epoch 1/4  HM 33.3", 0), (b, "starting", 0)],
        [(a, "stage 2, epoch 2/3", 0), (b, "starting", 0)],
        [(b, "starting", 0)],
    ]
    assert shown[-1][0] == ("all runs", "1/2", 1)
    assert "all runs" in output


def test_notes_consoles_and_json_steer_no_terminal(capsys):
    note("no answer for a\x1b[2J\nforged: b")
    console().print("c\x9bd", highlight=False)
    assert capsys.readouterr().err == "note: no answer for a\\x1b[2J forged: b\nc\\x9bd\n"
    show({"e": "\x9b"}, print, True)
    assert json.loads(capsys.readouterr().out) == {"e": "\x9b"}
    show({"e": "\x9b"}, lambda value: print(len(value)), False)
    assert capsys.readouterr().out == "1\n"
