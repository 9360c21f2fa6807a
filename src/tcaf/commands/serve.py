"""`tcaf serve`: the service without the page."""

import os
from pathlib import Path

from tcaf.commands.answering import opened_engine
from tcaf.commands.terminal import note
from tcaf.settings.sections import Device

TOKEN = "TCAF_TOKEN"  # noqa: S105 - the name of a variable
"""The variable that holds the token, where nobody is to read it off a command line."""


def serve(
    model: str = "imagenet",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    max_mib: float = 256.0,
    max_length_s: float = 600.0,
    timeout_s: float = 120.0,
    max_waiting: int = 16,
    workers: int | None = None,
    audio_weights: Path | None = None,
    visual_weights: Path | None = None,
    plugin: Path | None = None,
    device: Device = "auto",
) -> None:
    """Answers over HTTP what clips that are sent show, for programs and assistants.

    Addresses begin with /api/v1; /api/v1/openapi.json describes them, docs/service.md has examples.
    A clip that is broken costs its own answer and nothing else; where too many ask at once, some
    are asked to come again. Ends at Ctrl-C or SIGTERM, once what is in hand is answered.

    Args:
        model: folder of a run, a model file, or a ready model (`tcaf models`); several with +
            between them answer together.
        host: the address to listen at; 0.0.0.0 for all of this machine's.
        port: of it; 0 for one that is free.
        token: what every question has to come with, as in `Authorization: Bearer TOKEN`; also from
            the variable TCAF_TOKEN.
        max_mib: MiB of a clip, at most.
        max_length_s: seconds that a clip may last.
        timeout_s: seconds that reading a clip may take.
        max_waiting: clips that may wait to be read, beside those that are.
        workers: processes that read clips; by default one for each core.
        audio_weights: file or folder of the audio backbone's weights, where it needs one.
        visual_weights: the same for the visual backbone.
        plugin: the Python file that registers the run's system, if that is one of your own.
        device: where to compute; `auto` takes a GPU where there is one.
    """
    from tcaf.app.hosting import Access
    from tcaf.app.hosting import serve as serve_at

    token = token or os.environ.get(TOKEN, "")
    access = Access(host, port, asks_itself=True)
    if access.warning:
        note(access.warning, "warning")
        if not token:
            note("nobody is asked who they are; --token asks everybody", "warning")
    from tcaf.app.service import create_app, require_app

    # What is missing is said before a model is opened.
    require_app()
    import torch

    # Answers are small, and threads that wait for each other would spin beside those who read.
    torch.set_num_threads(1)
    with opened_engine(
        model,
        max_mib=max_mib,
        max_length_s=max_length_s,
        timeout_s=timeout_s,
        max_waiting=max_waiting,
        workers=workers,
        audio_weights=audio_weights,
        visual_weights=visual_weights,
        plugin=plugin,
        device=device,
    ) as engine:
        service = create_app(engine, token=token)
        serve_at(service, access, lambda url: print(f"{engine.model} answers at {url}", flush=True))
