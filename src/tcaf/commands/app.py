"""`tcaf app`: the page, in a browser of this machine."""

import os
from pathlib import Path

from tcaf.commands.answering import opened_engine
from tcaf.commands.terminal import note
from tcaf.settings.sections import Device

AUTH = "TCAF_AUTH"
"""The variable that holds name and password, where nobody is to read them off a command line."""


def app(
    model: str = "imagenet",
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str = "",
    runs: Path | None = None,
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
    """Opens a page in which a person drops a clip, names classes, and sees what it shows.

    The page is for a browser of this machine, at the address that is printed, until Ctrl-C; it
    loads nothing from elsewhere. Clips are kept for as long as the page is open, and no longer than
    an hour where it is not closed.

    Args:
        model: folder of a run, a model file, or a ready model (`tcaf models`); several with +
            between them answer together.
        host: the address to listen at; 0.0.0.0 for all of this machine's, which takes --auth.
        port: of it; 0 for one that is free.
        auth: name and password as in user:password, which everybody has to give; also from the
            variable TCAF_AUTH.
        runs: folder of runs that the third tab explores.
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
    from tcaf.app.hosting import Access, serve

    access = Access(host, port, auth or os.environ.get(AUTH, ""))
    if access.warning:
        note(access.warning, "warning")
    from tcaf.app.page_parts import import_gradio

    # What is missing is said before a model is opened.
    import_gradio()
    from tcaf.app.page import opened_page

    with (
        opened_engine(
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
        ) as engine,
        opened_page(engine, runs) as shown,
    ):
        serve(shown, access, lambda url: print(f"the page is at {url} until Ctrl-C", flush=True))
