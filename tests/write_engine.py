"""A run whose frames are read by `moody`, and engines on it that are closed at the end."""

from dataclasses import replace

from moody import MOODY
from tcaf.extract.backbones import BACKBONES
from write_clip_run import SPEC, write_run

MOODY_SPEC = replace(SPEC, visual_backbone="moody")

GREY, BLUE, GREEN = (200, 200, 200), (0, 0, 255), (0, 255, 0)
"""Colours of clips that are answered, that take for ever, and that crash."""


def write_moody_run(folder, tiny_experiment, **settings):
    """Trains on features of `logmel` and `moody`; returns the run's folder."""
    training = {"epochs": 1, "batches_per_epoch": 1}
    BACKBONES["moody"] = MOODY
    try:
        return write_run(folder, tiny_experiment(training=training, **settings), MOODY_SPEC)
    finally:
        del BACKBONES["moody"]


def open_engine(run, **limits):
    """Opens an engine with one reader; `BACKBONES` has to know `moody`."""
    from tcaf.app.engine import Engine
    from tcaf.app.limits import Limits

    workers = limits.pop("workers", 1)
    return Engine.open(run, Limits(**limits), workers=workers)
