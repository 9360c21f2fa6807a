"""Processes on a cluster: as on this machine, and what becomes of those that are lost."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from ended import still_running
from pool_work import (
    Obeying,
    open_counting,
    open_double,
    open_environment,
    open_losing,
    open_once,
    open_reporting,
)
from tcaf.errors import MissingExtraError, TCAFError
from tcaf.execution import cluster
from tcaf.execution.cluster import check_cluster, fitting_threads, joined, look_for
from tcaf.execution.outcomes import Crash, Failed, Killed, OutOfMemory, OutOfTime
from tcaf.execution.processes import HERE, answers, events, usable_cores
from tcaf.execution.worker import Moment
from tcaf.experiments.reproduce import Outcome, plan, run_jobs
from tcaf.experiments.tables import paper_table
from tcaf.extract.corpus import extract_files
from tcaf.extract.work_folder import MediaFile, Reject


@pytest.mark.parametrize(
    ("cluster", "line"),
    [
        ("lokal", "expected local, auto, or HOST:PORT .* got 'lokal'; did you mean 'local'"),
        ("ray://head:10001", "run the command on a machine of the cluster, with --cluster auto"),
        ("head", "expected local, auto, or HOST:PORT"),
        ("head:port", "expected local, auto, or HOST:PORT"),
    ],
)
def test_words_that_name_no_cluster(cluster, line):
    with pytest.raises(TCAFError, match=line), joined(cluster):
        pass


@pytest.mark.parametrize("cluster", ["", "local", "auto", "10.0.0.1:6379", "head:6379", "[::1]:1"])
def test_words_that_name_a_cluster(cluster):
    check_cluster(cluster)


def test_without_a_cluster_all_is_here():
    with joined("") as place:
        assert place is HERE
        place.check_shared([Path("nowhere")], Path("nowhere"))


def test_a_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    before = dict(os.environ)
    with pytest.raises(MissingExtraError, match=r"pip install 'tcaf\[cluster\]'"), joined("local"):
        pass
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [
        ([2], 1, 2),
        ([2], 2, 1),
        ([2], 5, 1),
        ([7], 3, 2),
        ([7, 5], 3, 3),  # two workers on the first machine, one on the second
        ([7, 5], 1, 7),
        ([8, 8, 1], 3, 4),
        ([8, 8, 1], 99, 1),
    ],
)
def test_cores_are_shared_out_so_that_all_workers_fit(cores, workers, threads):
    assert fitting_threads(cores, workers) == threads


def test_one_machine_is_shared_out_as_without_a_cluster():
    for workers in (1, 2, 3, 7):
        assert fitting_threads([usable_cores()], workers) == HERE.threads(workers)


def test_what_a_machine_does_not_see(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_bytes(b"film")
    seen = [(str(tmp_path), None), (str(file), 4)]
    assert look_for(seen)[1] == ""
    assert look_for([*seen, (str(tmp_path / "b.mp4"), 4)])[1] == str(tmp_path / "b.mp4")
    assert look_for([(str(file), 5)])[1] == str(file)


@pytest.fixture(scope="module")
def place():
    """A real cluster of this machine."""
    with joined("local") as joined_place:
        yield joined_place


def kept(files):
    return {path.name: path.read_bytes() for path in files.rglob("*") if path.is_file()}


# Not imported here: Ray reads on import what it has to keep quiet about.
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra cluster")


@needs_ray
@pytest.mark.slow
class TestReal:
    """With real processes of Ray's."""

    def test_ends_are_those_of_this_machine(self, place):
        tasks = ["a", "SIGSEGV", "exit", "b", "SIGKILL", "SIGTERM", "greedy", "sleep", "full", "c"]
        how = {"limit_bytes": 2.0**27, "raises": False, "place": place}
        limits = {"sleep": 0.5}
        found = dict(
            answers(tasks, open_double, (2,), 2, limit=lambda task: limits.get(task, 300), **how)
        )
        full = found.pop("full")
        assert (type(full), type(full.error), full.error.errno) == (Failed, OSError, 28)
        assert found == {
            **{name: name * 2 for name in "abc"},
            "SIGSEGV": Crash("the process was ended by SIGSEGV"),
            "exit": Crash("the process ended with exit status 3"),
            "SIGKILL": Killed("the process was ended by SIGKILL", True),
            "SIGTERM": Killed("the process was ended by SIGTERM", False),
            "greedy": OutOfMemory(2.0**27),
            "sleep": OutOfTime(0.5),
        }

    def test_a_lost_worker_costs_its_own_work_alone(self, place, tmp_path, capfd):
        """What it had in hand is done by another; nothing else is done twice, nothing is said."""
        tasks = ["a0", "lose1", "b0", "c0"]
        found = dict(answers(tasks, open_losing, (tmp_path,), 2, place=place))
        assert found == {task: (task, 1 + int(task[-1])) for task in tasks}
        assert len(list(tmp_path.iterdir())) == 5
        time.sleep(1)  # Ray would say it some time later
        assert capfd.readouterr() == ("", "")

    def test_work_that_is_lost_again_is_given_up(self, place, tmp_path):
        found = dict(answers(["lose9", "a0"], open_losing, (tmp_path,), 1, place=place))
        gone = "its machine, or Ray's process on it, has gone"
        assert found == {"lose9": Killed(gone, wants_memory=False), "a0": ("a0", 1)}
        assert len(list(tmp_path.glob("lose9 *"))) == 2

    def test_moments_come_before_the_answer(self, place):
        with closing(events([3, 2], open_counting, (), 1, place=place)) as found:
            news = list(found)
        assert news == [
            *((3, Moment(0)), (3, Moment(1)), (3, Moment(2)), (3, 9)),
            *((2, Moment(0)), (2, Moment(1)), (2, 6)),
        ]

    @pytest.mark.parametrize("fresh", [False, True])
    def test_a_new_process_for_each_task(self, place, fresh):
        done = list(answers([1, 2, 3], open_reporting, (), 1, fresh=fresh, place=place))
        assert [task for task, _ in done] == [1, 2, 3]
        assert len({process for _, (_, process) in done}) == (3 if fresh else 1)

    def test_a_process_has_the_surroundings_that_it_has_here(self, place, tmp_path):
        """Whatever Ray sets for its own: more threads would round otherwise."""
        names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "nice"]
        given = (names, open_environment, (), 1)
        assert dict(answers(*given, place=place)) == dict(answers(*given))
        assert place.cores == usable_cores()
        (tmp_path / "a").write_text("7")
        ((_, (_, _, threads)),) = answers(["a"], open_once, (tmp_path,), 1, place=place)
        assert threads == usable_cores()

    def test_leaving_early_ends_the_processes(self, place):
        psutil = pytest.importorskip("psutil")

        def workers():
            below = psutil.Process().children(recursive=True)
            return [each for each in below if "--multiprocessing-fork" in each.cmdline()]

        found = answers(["a", "sleep", "sleep"], open_double, (2,), 2, place=place)
        assert next(found)[0] == "a"
        running = workers()
        assert running
        found.close()
        assert not still_running(running, timeout=10)

    def test_files_are_those_of_this_machine(self, place, tmp_path):
        """Features, byte for byte, and the reasons of files that have none."""
        words = ("a", "SIGSEGV", "SIGKILL", "MemoryError", "b")
        for word in words:
            (tmp_path / f"{word}.mp4").write_text(word)
        files = [MediaFile(f"{word}.mp4", tmp_path / f"{word}.mp4") for word in words]
        _, here = extract_files(files, Obeying(), tmp_path / "here", workers=2)
        _, there = extract_files(files, Obeying(), tmp_path / "there", workers=2, place=place)
        assert kept(tmp_path / "there") == kept(tmp_path / "here")
        reasons = [[r.reason for r in found if isinstance(r, Reject)] for found in (here, there)]
        assert reasons[0] == reasons[1]
        assert len(reasons[0]) == 3

    def test_runs_are_those_of_this_machine(self, place, tiny_store, tmp_path):
        """Weights and scores, byte for byte; moments come, and a run that fails is kept."""
        options = {"training": {"epochs": 1, "batches_per_epoch": 3}}
        outcomes, news = {}, []
        for name, how in (("here", {}), ("there", {"place": place})):
            how_planned = {"config": [], "seeds": [0], "runs": tmp_path / name}
            jobs = plan(
                paper_table(1), tiny_store, models=["ridge", "avca"], options=options, **how_planned
            )
            outcomes[name] = run_jobs(jobs, tiny_store.path, news.append, **how)
            assert outcomes[name] == [Outcome(job) for job in jobs]
        for here, there in zip(outcomes["here"], outcomes["there"], strict=True):
            assert here.job.out.relative_to(tmp_path / "here") == there.job.out.relative_to(
                tmp_path / "there"
            )
            for file in ("model.safetensors", "stage_1.safetensors", "config.json"):
                assert (here.job.out / file).read_bytes() == (there.job.out / file).read_bytes()
        own = [each for each in news if not isinstance(each, Outcome)]
        by_place = [[m for m in own if m.job.out.is_relative_to(tmp_path / n)] for n in outcomes]
        stages = [[m.stage for m in moments if m.record] for moments in by_place]
        assert stages[0] == stages[1] != []

    def test_a_machine_that_sees_other_files(self, place, tmp_path, monkeypatch):
        file = tmp_path / "a.mp4"
        file.write_bytes(b"film")
        place.check_shared([file, tmp_path, Path("s3://bucket/store")], tmp_path / "new" / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]
        monkeypatch.setattr(cluster, "_size", lambda path: 7)  # here, and not there
        line = f"machine .* of the cluster does not see {file} as this one does; .* all machines"
        with pytest.raises(TCAFError, match=line):
            place.check_shared([file])
        monkeypatch.setenv("TCAF_CACHE", str(tmp_path))
        with pytest.raises(TCAFError, match=r"; TCAF_CACHE says where fetched files are kept$"):
            extract_files([MediaFile("a", file)], Obeying(), tmp_path / "w", workers=1, place=place)

    def test_another_version(self, place, monkeypatch):
        monkeypatch.setattr(cluster, "version", lambda name: "0.0.7")
        with pytest.raises(TCAFError, match=r"of the cluster has tcaf .*, this one has 0\.0\.7;"):
            place.check_shared([])

    def test_a_process_is_part_of_one_cluster(self, place):
        with pytest.raises(TCAFError, match="part of a cluster of Ray already"), joined("local"):
            pass


INTERRUPTED = """
import sys
from pathlib import Path

from pool_work import open_asleep
from tcaf.execution.cluster import joined
from tcaf.execution.processes import answers

if __name__ == "__main__":
    with joined("local") as place:
        list(answers(["x", "y"], open_asleep, (Path(sys.argv[1]),), 2, place=place))
"""


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_all_ends_with_the_command(tmp_path, sent):
    """Ctrl-C reaches all processes of the terminal's group; a kill the command alone."""
    psutil = pytest.importorskip("psutil")
    (tmp_path / "script.py").write_text(INTERRUPTED)
    path = [str(Path(__file__).parents[1]), *sys.path]
    command = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while len(list(tmp_path.glob("asleep *"))) < 2:
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    below = psutil.Process(command.pid).children(recursive=True)
    assert len(below) > 2
    agents = [process for process in below if "Agent" in " ".join(process.cmdline())]
    if sent == signal.SIGINT:
        os.killpg(command.pid, sent)
    else:
        command.kill()
    error = command.communicate(timeout=60)[1]
    # Killed, Ray's agents first try for a minute to report it to what has ended too.
    left = still_running([each for each in below if each not in agents], timeout=20)
    left += still_running(agents, timeout=120)
    for process in left:
        process.kill()
    assert not left
    if sent == signal.SIGINT:
        assert error.endswith("KeyboardInterrupt\n")
        assert "ray" not in error.rpartition("Traceback")[0].lower()
