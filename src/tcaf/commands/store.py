"""`tcaf inspect` and `tcaf store`: what is inside a feature store, Parquet, embedded clips."""

from pathlib import Path

from tcaf.commands import printing
from tcaf.commands.terminal import show, track
from tcaf.data.parquet import from_parquet, to_parquet
from tcaf.data.shards import Dtype
from tcaf.data.store import FeatureStore
from tcaf.settings.sections import Device


def inspect(store: Path, *, verify: bool = False, json: bool = False) -> None:
    """Shows what is inside a feature store: clips, classes, tokens, dimensions, splits, text.

    Args:
        store: folder of a feature store.
        verify: also read every shard and compare its SHA-256 with the one written.
        json: print the result as JSON.
    """
    opened = FeatureStore.open(store)
    if verify:
        opened.verify()
    show(opened.summary(), printing.print_store, json)


def store_to_parquet(
    store: Path, *, out: Path, overwrite: bool = False, json: bool = False
) -> None:
    """Writes a store as Parquet files that other tools and the Hugging Face Hub read.

    Args:
        store: folder of a feature store.
        out: folder to make.
        overwrite: replace such a folder that is there already.
        json: print the result as JSON.
    """
    to_parquet(store, out, overwrite=overwrite, track=track)
    files = sorted(out.glob("*.parquet"))
    value = {
        "path": str(out),
        "files": [file.name for file in files],
        "bytes": sum(file.stat().st_size for file in files),
    }
    show(value, printing.print_parquet, json)


def store_from_parquet(
    folder: Path,
    *,
    out: Path,
    dtype: Dtype | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Makes a store of Parquet files that `tcaf store to-parquet` wrote.

    Args:
        folder: folder with the Parquet files.
        out: folder of the store to make.
        dtype: how tokens are kept on disk; as before by default.
        overwrite: replace a store that is there already.
        json: print the result as JSON.
    """
    made = from_parquet(folder, out, dtype=dtype, overwrite=overwrite, track=track)
    show(made.summary(), printing.print_store, json)


def store_embed(
    run: Path,
    *,
    store: Path,
    out: Path,
    plugin: Path | None = None,
    device: Device = "auto",
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Makes a store of what a run makes of its clips, for other systems to be trained on.

    Each clip becomes one visual token, its embedding theta_o, without sound; classes, parts and
    class text stay. The weights are those of stage 1's best epoch, also for what is trained in
    stage 2: the final ones have seen the validation clips, by which the other system chooses.

    Args:
        run: folder of a run.
        store: the feature store that it was trained on.
        out: folder of the store to make.
        plugin: the Python file that registers the run's system, if that is one of your own.
        device: where to compute; `auto` takes a GPU where there is one.
        overwrite: replace a store that is there already.
        json: print the result as JSON.
    """
    from tcaf.plugins import load_plugin
    from tcaf.training.embed import embed_store

    if plugin is not None:
        load_plugin(plugin)
    made = embed_store(run, store, out, device=device, overwrite=overwrite, track=track)
    show(made.summary(), printing.print_store, json)
