"""The model that answers many people at a time, opened as options say."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tcaf.commands.terminal import note
from tcaf.settings.sections import Device

if TYPE_CHECKING:
    from tcaf.app.engine import Engine


@contextmanager
def opened_engine(
    model: str,
    *,
    max_mib: float,
    max_length_s: float,
    timeout_s: float,
    max_waiting: int,
    workers: int | None,
    audio_weights: Path | None,
    visual_weights: Path | None,
    plugin: Path | None,
    device: Device,
) -> Iterator["Engine"]:
    """Holds what answers, with its processes started; prints what the model has to say of itself.

    Args:
        model: and all others: as of `tcaf serve`.

    Raises:
        TCAFError: a limit is none, or the model or its backbones cannot be opened.
    """
    from tcaf.app.engine import Engine
    from tcaf.app.limits import Limits

    limits = Limits(
        max_mib=max_mib,
        max_length_s=max_length_s,
        timeout_s=timeout_s,
        max_waiting=max_waiting,
    )
    with Engine.open(
        model,
        limits,
        plugin=plugin,
        device=device,
        audio_weights=audio_weights,
        visual_weights=visual_weights,
        workers=workers,
    ) as engine:
        for each in engine.classifier.notes:
            note(each)
        engine.warm()
        yield engine
