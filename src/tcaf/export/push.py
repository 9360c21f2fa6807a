"""Models and stores as folders for the Hugging Face Hub, which `hf://user/name` opens again.

Owns what such a folder holds:

    model    model.safetensors, config.json (the run's settings), text/ (class text), README.md
    store    a Parquet file a shard, tcaf.json, text/ (class text), README.md

No path of the machine that made them is among it, unless a run's records are asked for. Sending is
`pretrained.upload`, the words of README.md are `card`.
"""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcaf.answers.ready import is_ready, open_ready
from tcaf.data.parquet import to_parquet
from tcaf.data.store import PARQUET_SIDECAR, FeatureStore
from tcaf.errors import TCAFError
from tcaf.export.card import Origin, model_card, store_card, without_places
from tcaf.files.atomic import check_place, new_folder, write_json, write_text
from tcaf.files.remote import local_path
from tcaf.plugins import load_plugin
from tcaf.pretrained.upload import Kind, Pushed, check_name, push_folder
from tcaf.progress import Track, silent
from tcaf.training.model_file import load_model, save_model
from tcaf.training.run import Run

CARD = "README.md"
RECORDS = ("result.json", "metrics.jsonl", "predictions.parquet", "provenance.json")
RECORDS_OF_STAGES = ("stage_1.safetensors",)
"""What `tcaf report` and `tcaf evaluate --part val` read of a run besides its model."""

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""What the hub calls licences: `mit`, `cc-by-4.0`."""


@dataclass(frozen=True)
class Folder:
    """A folder as it is pushed.

    Args:
        path: where it is.
        kind: of repository.
    """

    path: Path
    kind: Kind

    @property
    def files(self) -> dict[str, int]:
        """Size of each file, by its path in the folder."""
        found = sorted(file for file in self.path.rglob("*") if file.is_file())
        return {file.relative_to(self.path).as_posix(): file.stat().st_size for file in found}


def make_folder(
    what: str,
    out: Path,
    name: str,
    *,
    licence: str = "other",
    card: Path | None = None,
    records: bool = False,
    overwrite: bool = False,
    plugin: Path | None = None,
    track: Track = silent,
) -> Folder:
    """Makes the folder of a model or a store.

    Args:
        what: folder of a run or of a store, a model file, or a ready model.
        out: folder to make.
        name: of the repository, which the card says.
        licence: of what is pushed, as the hub calls it.
        card: a file in place of the card that is made.
        records: also what a run keeps of itself.
        overwrite: replace such a folder that is there already.
        plugin: see `push`.
        track: shows progress.

    Raises:
        TCAFError: neither a model nor a store; a damaged one; or records of what is no run.
    """
    check_name(name)
    if not LICENCE.fullmatch(licence):
        raise TCAFError(
            f"expected a licence as the hub calls it, such as mit, cc-by-4.0 or other, got "
            f"{licence!r}"
        )
    own_card = None if card is None else _read_card(card)
    if plugin is not None:
        load_plugin(plugin)
    path = Path(what) if is_ready(what) else local_path(what)
    if any((path / name).is_file() for name in ("store.json", PARQUET_SIDECAR)):
        if records:
            raise TCAFError(f"{what} is a store, which keeps no records of a run")
        with new_folder(out, overwrite=overwrite) as folder:
            made = _write_store(FeatureStore.open(path), folder, name, licence, track)
            write_text(folder / CARD, own_card or made)
        return Folder(out, "dataset")
    with new_folder(out, overwrite=overwrite) as folder:
        made = _write_model(what, path, folder, name, licence, records=records)
        write_text(folder / CARD, own_card or made)
    return Folder(out, "model")


def _write_store(store: FeatureStore, made: Path, name: str, licence: str, track: Track) -> str:
    """Writes a store into an empty folder, and returns its card."""
    files = made / "files"
    to_parquet(store.path, files, origin=without_places(store.source), track=track)
    for file in sorted(files.iterdir()):
        file.rename(made / file.name)
    files.rmdir()
    parts = Counter(store.parts.tolist())
    return store_card(name, store, licence, dict(sorted(parts.items())))


def _read_card(card: Path) -> str:
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TCAFError(f"expected a card in Markdown at {card}: {error}") from None


def _write_model(
    what: str, path: Path, made: Path, name: str, licence: str, *, records: bool
) -> str:
    """Writes a model into an empty folder, and returns its card."""
    ready = is_ready(what)
    trained = open_ready(what) if ready else load_model(path)
    run = None if ready or not path.is_dir() else Run(path)
    is_whole = run is not None and (path / "provenance.json").is_file()
    if records and not is_whole:
        raise TCAFError(f"{what} is no folder of a run, and has no records of one")
    origin = Origin(None, {})
    if run is not None and is_whole:
        origin = Origin(run.result, run.provenance)
    save_model(made / "model.safetensors", trained)
    write_json(made / "config.json", trained.settings.to_json())
    if run is not None and run.text_file.is_file():
        target = made / run.text_file.relative_to(path)
        target.parent.mkdir()
        shutil.copyfile(run.text_file, target)
    if records:
        # As they are: what they say of each other is checked by whoever reads them.
        for file in (*RECORDS, *RECORDS_OF_STAGES, "config.json", "model.safetensors"):
            if (path / file).is_file():
                shutil.copyfile(path / file, made / file)
    return model_card(name, trained, origin, licence)


def push(
    what: str,
    name: str,
    *,
    licence: str = "other",
    private: bool = False,
    branch: str = "",
    card: Path | None = None,
    records: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
    plugin: Path | None = None,
    track: Track = silent,
) -> tuple[Pushed | None, dict[str, Any]]:
    """Pushes a model or a store to the hub, or writes what would be pushed to a folder.

    Args:
        what: folder of a run or of a store, a model file, or a ready model.
        name: of the repository, as user/name.
        licence: of what is pushed, as the hub calls it.
        private: whether a repository that is made is for its owner alone.
        branch: that the commit goes to; `main` by default.
        card: a file in place of the card that is made.
        records: also what a run keeps of itself, which `tcaf report` reads.
        out: write the folder here and push nothing.
        overwrite: replace such a folder that is at `out` already.
        plugin: the Python file that registers the run's system, if that is one of your own.
        track: shows progress.

    Returns:
        What is on the hub now, if anything was pushed; and kind and files of the folder.

    Raises:
        TCAFError: see `make_folder` and `pretrained.upload.push_folder`.
    """
    with _place(out, overwrite=overwrite) as folder:
        made = make_folder(
            what,
            folder,
            name,
            licence=licence,
            card=card,
            records=records,
            overwrite=overwrite,
            plugin=plugin,
            track=track,
        )
        told = {"kind": made.kind, "files": made.files}
        if out is not None:
            return None, told
        message = f"{made.kind} pushed by tcaf"
        given: dict[str, Any] = {"private": private, "branch": branch, "message": message}
        return push_folder(folder, name, made.kind, **given), told


@contextmanager
def _place(out: Path | None, *, overwrite: bool) -> Iterator[Path]:
    """Yields where a folder is to be made: where it was asked for, or one for the moment."""
    if out is not None:
        check_place(out, overwrite=overwrite, what="folder for the hub", mark=CARD)
        yield out
        return
    with tempfile.TemporaryDirectory() as work:
        yield Path(work) / "folder"
