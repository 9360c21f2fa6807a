"""A backbone for frames that sleeps over blue ones and crashes on green ones."""

import os
import signal
import time

from tcaf.extract.backbones import BackboneInfo
from write_clip_run import Colours

MOODY = BackboneInfo("visual", "moody", "6", 0.64, "none", "none needed")


class Moody(Colours):
    name = "moody"

    def embed(self, windows):
        red, green, blue = windows.mean(axis=(0, 1, 2, 3))
        if blue > 2 * max(red, green):
            time.sleep(600)
        if green > 2 * max(red, blue):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().embed(windows)


def open_backbone(options, weights):
    return Moody()
