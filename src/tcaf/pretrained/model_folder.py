"""What lies in the folder of a transformers model: settings, weights, tokenizer, processors.

Owns which of these files count, and how transformers is made to load them: nothing is fetched, no
pickle read, no code of the model's run, nothing said on the terminal. What a whole model does is
`aligned_model`.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from tcaf.errors import MissingExtraError, TCAFError
from tcaf.files.atomic import check_inside, read_json

PROCESSORS = (
    *("preprocessor_config.json", "processor_config.json"),
    "video_preprocessor_config.json",
)
"""Settings of a model's processors, on which features depend."""


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keeps transformers from drawing a bar while it loads; its setting is for the whole process.

    The bar goes to standard error, where a command writes nothing but what it means to say.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers from listing weights and from advice to its own developers.

    Some of that it prints on standard output, where answers go.
    """
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bar(), redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


def first_line(error: Exception) -> str:
    """Returns the first line of what a foreign library says is wrong."""
    reason = str(error).strip()
    return reason.splitlines()[0] if reason else type(error).__name__


def _shards(index: Path) -> list[Path]:
    """Returns the files of weights that a list names.

    Raises:
        TCAFError: the list is damaged, or names files elsewhere than beside it.
    """
    content = read_json(index, "an index of weights")
    try:
        names = sorted(set(content["weight_map"].values()))
        check_inside(names)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise TCAFError(f"{index} is damaged: {error}; fetch the model again") from None
    return [index.with_name(name) for name in names]


def model_files(folder: Path) -> list[Path]:
    """Returns the files that a model's features depend on: settings, and weights in safetensors.

    A sentence-transformers model may have modules in folders, all of whose files count.

    Raises:
        TCAFError: there are no such weights, or a list of them is damaged or names files elsewhere.
    """
    settings = [folder / name for name in ("config.json", *PROCESSORS)]
    files = [file for file in settings if file.is_file()]
    if (folder / "modules.json").is_file():
        inside = [each for kind in ("json", "safetensors") for each in folder.rglob(f"*.{kind}")]
        if any(each.suffix == ".safetensors" for each in inside):
            return sorted(inside)
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [*files, folder / "model.safetensors"]
    if index.is_file():
        return [*files, *_shards(index)]
    raise TCAFError(
        f"expected model.safetensors in {folder}, found none; weights in pickles are not read"
    )


def load_tokenizer(folder: Path, num_known: int) -> Any:
    """Loads the tokenizer of a model that has embeddings of `num_known` tokens.

    Raises:
        TCAFError: the folder has none, or that of another model.
    """
    # Without these files transformers makes up a tokenizer that knows no word.
    if not any((folder / n).is_file() for n in ("tokenizer.json", "vocab.json", "vocab.txt")):
        raise TCAFError(f"expected a tokenizer in {folder}, found no tokenizer.json or vocab.json")
    tokenizer = load_processor("AutoTokenizer", folder, "tokenizer")
    if len(tokenizer) > num_known:
        raise TCAFError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model {num_known}; they "
            "do not belong together"
        )
    return tokenizer


def load_processor(kind: str, folder: Path, what: str, **options: Any) -> Any:
    """Loads what one of transformers' automatic classes finds in a folder; runs none of its code.

    Raises:
        TCAFError: it is not there, does not load, or needs a package that is not installed.
    """
    import transformers

    try:
        with quiet():
            return getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
    except ImportError as error:
        raise MissingExtraError(
            f"the {what} in {folder} needs a package that is not installed: "
            f"{missing_package(error)}"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes transformers raise
        raise TCAFError(f"the {what} in {folder} does not load: {first_line(error)}") from None


def missing_package(error: Exception) -> str:
    """Returns which packages transformers lacks, as a command, or what it says."""
    wanted = [name for name in ("timm", "torchvision", "torchcodec") if name in str(error).lower()]
    return f"pip install {' '.join(wanted)}" if wanted else first_line(error)


def version(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Returns what is another once a file of a folder has changed: names, sizes, times."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
    status = [(path.name, path.stat()) for path in files]
    return tuple((name, each.st_size, each.st_ctime_ns) for name, each in status)
