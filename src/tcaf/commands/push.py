"""`tcaf push`: models and stores on the Hugging Face Hub."""

from pathlib import Path

from tcaf.commands import printing
from tcaf.commands.terminal import show, track


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
    json: bool = False,
) -> None:
    """Puts a model or a store on the Hugging Face Hub, with a card, as one commit.

    A model becomes model.safetensors, its settings and the text of its classes, a store Parquet
    files; hf://NAME@COMMIT, which is printed, opens either wherever a model or a store is named.
    What was in the repository before and is not in the new folder goes; commits of before keep it.
    Log in by `hf auth login` first.

    Args:
        what: folder of a run or of a store, a model file, or a ready model (`tcaf models`).
        name: of the repository, as user/name.
        licence: of what is pushed, as the hub calls it: mit, cc-by-4.0, other. The licences of
            backbones and clips are in the card; look at them first.
        private: a repository that is made is for you alone.
        branch: that the commit goes to; main by default.
        card: a file in Markdown in place of the card that is made.
        records: also the records of a run, which `tcaf report` reads: ids of test clips, paths of
            this machine and the command.
        out: write what would be pushed to this folder, and push nothing.
        overwrite: replace such a folder that is there already.
        plugin: the Python file that registers the run's system, if that is one of your own.
        json: print the result as JSON.
    """
    from tcaf.export.push import push as push_folder

    pushed, told = push_folder(
        what,
        name,
        licence=licence,
        private=private,
        branch=branch,
        card=card,
        records=records,
        out=out,
        overwrite=overwrite,
        plugin=plugin,
        track=track,
    )
    value = {
        **told,
        "name": name,
        "path": None if out is None else str(out),
        "commit": None if pushed is None else pushed.commit,
        "address": None if pushed is None else pushed.address,
    }
    show(value, printing.print_pushed, json)
