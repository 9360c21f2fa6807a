"""The page: its tabs under one head, and the application that shows it.

Owns what is put together; the tabs are `page_clip`, `page_many` and `page_runs`, who may reach them
is `hosting`.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcaf.app.engine import Engine
from tcaf.app.page_clip import ClipTab
from tcaf.app.page_desk import Desk
from tcaf.app.page_many import ManyTab
from tcaf.app.page_parts import QUICK, calling, html, import_gradio, kept_in
from tcaf.app.page_runs import Runs, RunsTab
from tcaf.app.page_theme import css, head, theme
from tcaf.app.service import create_app
from tcaf.app.shelf import MEDIA, Shelf

if TYPE_CHECKING:
    from fastapi import FastAPI

LABELS = {
    "#t-drop input[type=file]": "Choose a clip",
    "#t-several input[type=file]": "Choose several clips",
    "#t-folder input[type=file]": "Choose a folder of clips",
}
"""What parts that Gradio makes are called for who does not see them."""

SWEEP_S, OLD_S = 600, 3600
"""Seconds between two looks for files that Gradio has kept, and after which they go."""


def build_page(desk: Desk, runs: Runs | None = None) -> Any:
    """Returns the page as Gradio's blocks.

    Args:
        desk: what answers.
        runs: those that the third tab explores; None for none.

    Raises:
        TCAFError: the extra `app` is not installed, or there are no runs.
    """
    gr = import_gradio()
    page = gr.Blocks(
        title=f"tcaf: {desk.title}",
        analytics_enabled=False,
        delete_cache=(SWEEP_S, OLD_S),
        fill_width=True,
    )
    with page:
        html("t-head", _head(desk))
        with gr.Tabs():
            with gr.Tab("One clip"):
                one = ClipTab(desk)
            with gr.Tab("Many clips"):
                ManyTab(desk)
            with gr.Tab("Runs"):
                RunsTab(runs)
        page.unload(calling(desk.end))
        page.unload(calling(one.forget))
    page.queue(default_concurrency_limit=QUICK, max_size=desk.max_waiting + QUICK)
    return page


def _head(desk: Desk) -> str:
    return (
        '<header class="t-top"><h1>What does this clip show?</h1><p>Name classes in your own words '
        f"and <code>{escape(desk.title)}</code> ranks them by the {desk.reads}, those it never "
        f"learnt too. Clips {escape(desk.limits)}; they stay on this machine.</p></header>"
    )


def add_page(app: "FastAPI", desk: Desk, shelf: Shelf, runs: Runs | None = None) -> "FastAPI":
    """Returns an application that shows the page at `/`, beside what it answers already.

    Args:
        app: to add to.
        desk: what answers.
        shelf: of the clips, which a browser plays.
        runs: see `build_page`.

    Raises:
        TCAFError: see there.
    """
    gr = import_gradio()
    app.add_api_route(f"{MEDIA}/{{token}}", _media(shelf), include_in_schema=False)

    async def mounted() -> Any:
        return gr.mount_gradio_app(
            app,
            build_page(desk, runs),
            path="/",
            theme=theme(),
            css=css(),
            head=head(LABELS),
            max_file_size=desk.max_bytes,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            show_error=True,
        )

    # Gradio asks which event loop runs, and where none does makes one that it never closes.
    shown: FastAPI = asyncio.run(mounted())
    return shown


@contextmanager
def opened_page(engine: Engine, folder: Path | None = None) -> Iterator["FastAPI"]:
    """Holds the service with the page on it for as long as it is shown; then all clips are gone.

    Args:
        engine: that answers.
        folder: of runs that the third tab explores; None for none.

    Raises:
        TCAFError: see `build_page`.
    """
    import_gradio()
    with Shelf() as shelf, kept_in(shelf.folder), Desk(engine, shelf) as desk:
        desk.warm()
        app = create_app(engine)
        yield add_page(app, desk, shelf, None if folder is None else Runs(folder))


def _media(shelf: Shelf) -> Callable[..., Any]:
    """Returns what sends a clip to a browser, in parts where it seeks."""
    from fastapi import HTTPException
    from fastapi.responses import FileResponse

    def media(token: str) -> FileResponse:
        placed = shelf.find(token)
        if placed is None or not placed.path.exists():
            raise HTTPException(404, "this clip is no longer here")
        return FileResponse(
            placed.path, media_type=placed.media_type, headers={"cache-control": "no-store"}
        )

    return media
