"""`tcaf inspect` and `tcaf store`: what is inside a feature store, and Parquet."""

from pathlib import Path

from tcaf.commands import printing
from tcaf.commands.terminal import show, track
from tcaf.data.parquet import from_parquet, to_parquet
from tcaf.data.shards import Dtype
from tcaf.data.store import FeatureStore


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
