"""`tcaf prepare` and `tcaf render`: feature stores from their origins, and the synthetic videos."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tcaf.commands import printing
from tcaf.commands.options import as_command
from tcaf.commands.terminal import show, track
from tcaf.extract.backbones import BACKBONES
from tcaf.sources.audioset import prepare_audioset
from tcaf.sources.official import prepare_official
from tcaf.sources.published import LAYOUTS
from tcaf.sources.rendered import render_synthetic
from tcaf.sources.synthetic import prepare_synthetic
from tcaf.sources.videos import prepare_videos
from tcaf.sources.youtube8m import prepare_youtube8m


def _making(
    function: Callable[..., Any],
    render: Callable[[Any], None],
    *positional: str,
    names: Mapping[str, str] | None = None,
    types: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Returns the command of a function that makes something with a summary."""

    def call(json: bool, **arguments: Any) -> None:
        show(function(**arguments, track=track).summary(), render, json)

    return as_command(
        function,
        positional=positional,
        without=("track",),
        call=call,
        more={"json": (bool, False, "print the result as JSON.")},
        names=names,
        types=types,
    )


def _backbones(modality: str) -> str:
    return ", ".join(name for name, info in BACKBONES.items() if info.modality == modality)


official = _making(prepare_official, printing.print_store, "root")
youtube8m = _making(prepare_youtube8m, printing.print_store, "shards")
audioset = _making(prepare_audioset, printing.print_store, "shards")
videos = _making(
    prepare_videos,
    printing.print_store,
    "folder",
    names={
        "AUDIO_BACKBONES": _backbones("audio"),
        "VISUAL_BACKBONES": _backbones("visual"),
        "LAYOUTS": ", ".join(LAYOUTS),
    },
    types={"labels": list[Path] | None},
)
synthetic = _making(prepare_synthetic, printing.print_store)
render = _making(render_synthetic, printing.print_rendered)
