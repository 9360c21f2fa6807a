"""What the tabs of the page share of Gradio: one way in, and who it is that asks.

Owns that Gradio looks for nothing elsewhere.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tcaf.app.hosting import missing_app

READING = "reading"
"""The queue of those whose clips are read. Answers for clips that are read do not wait in it."""

QUICK = 8
"""Answers for clips that are read already, at a time."""


def import_gradio() -> Any:
    """Returns Gradio, silenced: it sends nothing and asks for nothing.

    Raises:
        MissingExtraError: it is not installed.
    """
    # Read when it is imported, and when blocks are made.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError:
        raise missing_app("gradio") from None
    return gradio


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Has Gradio keep what is brought in a folder of ours, for as long as the body runs."""
    import tempfile

    # Components ask for the place when they are made, uploads when they come.
    before = {name: os.environ.get(name) for name in ("GRADIO_TEMP_DIR",)}
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="brought-", dir=folder)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def html(name: str, value: str = "") -> Any:
    """Returns a part of the page that holds HTML of ours, in our style.

    Args:
        name: by which style and tests find it.
        value: what it holds at first.
    """
    return import_gradio().HTML(value, elem_id=name, apply_default_css=False)


def streaming(handler: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Returns a handler that Gradio streams from; it is given first whose session it is."""
    import gradio as gr

    # Gradio finds by the annotation where the request is to go.
    def stream(request: gr.Request, *values: Any) -> Iterator[Any]:
        yield from handler(str(request.session_hash), *values)

    return stream


def calling(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a handler that Gradio calls; it is given first whose session it is."""
    import gradio as gr

    def call(request: gr.Request, *values: Any) -> Any:
        return handler(str(request.session_hash), *values)

    return call
