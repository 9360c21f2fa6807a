"""What the processes of `test_pool` and `test_corpus` do: a module that they can import."""

import os
import signal
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.extract.corpus import Backbones


def open_double(factor):
    def work(task):
        if isinstance(task, str) and task.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, task))
        if task == "exit":
            sys.exit(3)
        if task == "sleep":
            time.sleep(600)
        if task == "full":
            raise OSError(28, "No space left on device", "features")
        if task == "bug":
            raise KeyError("some key")
        return task * factor

    return work


def open_once(folder):
    """Crashes on each task the first time; answers with the process and its threads."""

    def work(task):
        if not (folder / task).exists():
            (folder / task).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSEGV)
        return int((folder / task).read_text()), os.getpid(), torch.get_num_threads()

    return work


def open_badly(how):
    if how == "raise":
        raise MemoryError("no room")
    sys.exit(7)


class Obedient:
    """Does what a file says in place of extracting it."""

    spec = FeatureSpec(3, 5, 0.96, 0.64, "listen", "look")

    def extract(self, path, id):
        said = path.read_text()
        if said == "MemoryError":
            raise MemoryError("no room\nfor it")
        if said == "OSError":
            raise OSError(5, "Input/output error", str(path))
        open_double(1)(said)
        return VideoFeatures(id, np.ones((2, 3), np.float32), np.ones((7, 5), np.float32))


@dataclass(frozen=True)
class Obeying(Backbones):
    """Opens an `Obedient`."""

    audio: str = "listen"
    visual: str = "look"

    def open(self):
        return Obedient()
