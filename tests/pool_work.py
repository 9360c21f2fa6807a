"""What the processes of `test_processes` and `test_corpus` do: a module that they can import."""

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.errors import TCAFError
from tcaf.extract.corpus import Backbones
from tcaf.extract.work_folder import MediaFile


def open_double(factor):
    def work(task, send):
        if isinstance(task, str) and task.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, task))
        if task == "exit":
            sys.exit(3)
        if task == "sleep":
            time.sleep(600)
        if task == "greedy":
            taken = [np.ones(2**20) for _ in range(32)]
            time.sleep(600 * len(taken))
        if task == "full":
            raise OSError(28, "No space left on device", "features")
        if task == "bug":
            raise KeyError("some key")
        if task == "wrong":
            raise TCAFError("expected b, got a")
        return task * factor

    return work


def open_once(folder):
    """Crashes on each task the first time; answers with the process and its threads."""

    def work(task, send):
        if not (folder / task).exists():
            (folder / task).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSEGV)
        return int((folder / task).read_text()), os.getpid(), torch.get_num_threads()

    return work


def open_counting():
    """Sends as many moments as the task says."""

    def work(task, send):
        for number in range(task):
            send(number)
        return task * 3

    return work


def open_badly(how):
    if how == "raise":
        raise MemoryError("no room")
    sys.exit(7)


def open_slowly():
    """Takes longer to get ready than to answer."""
    time.sleep(0.5)
    return lambda task, send: task


def open_reporting():
    """Sends as many numbers as the task is, and answers with them and the process."""

    def work(task, send):
        for number in range(task):
            send(number)
        return task, os.getpid()

    return work


def open_environment():
    """Answers with the value of a variable; to `nice` with the priority of its process."""
    return lambda task, send: os.nice(0) if task == "nice" else os.environ.get(task)


def open_asleep(folder):
    """Leaves a file and never answers."""

    def work(task, send):
        (Path(folder) / f"asleep {os.getpid()}").touch()
        if task == "in native code":
            ctypes.PyDLL(None).sleep(600)  # which keeps Python's lock
        time.sleep(600)

    return work


def open_losing(folder):
    """Ends the process that holds this one, as often as the task says, and then answers."""

    def work(task, send):
        tries = len(list(folder.glob(f"{task} *")))
        (folder / f"{task} {os.getpid()}").touch()
        if tries < int(task[-1]):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        return task, tries + 1

    return work


SPEC = FeatureSpec(3, 5, 0.96, 0.64, "listen", "look")
"""Of what an `Obedient` makes."""


class Obedient:
    """Does what a file says in place of extracting it."""

    spec = SPEC
    audio = SimpleNamespace(name="listen", dim=3, step_s=0.96)
    visual = SimpleNamespace(name="look", dim=5, step_s=0.64)

    def extract_segments(self, path, segments, note):
        return [self.extract(path, id, lambda told: note(0, told)) for id, _ in segments]

    def extract(self, path, id, note):
        said = path.read_text()
        if said == "MemoryError":
            raise MemoryError("no room\nfor it")
        if said == "OSError":
            raise OSError(5, "Input/output error", str(path))
        open_double(1)(said, print)
        if said == "full disk":
            # What is written next finds the disk full.
            key = MediaFile(id, path).key
            partial = f".{key}.safetensors.{os.getpid()}.partial"
            (path.parent / "work" / "clips" / partial).symlink_to("/dev/full")
        if said == "silent":
            note("the sound is silent")
        return VideoFeatures(id, np.ones((2, 3), np.float32), np.ones((7, 5), np.float32))


def media_file(folder, name="a/b.mp4", content=b"content"):
    """Writes a file, which an `Obedient` reads its order from."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return MediaFile(name, path)


@dataclass(frozen=True)
class Obeying(Backbones):
    """Opens an `Obedient`."""

    audio: str = "listen"
    visual: str = "look"

    def open(self):
        return Obedient()
