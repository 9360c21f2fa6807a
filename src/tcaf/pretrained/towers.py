"""Halves of CLIP and CLAP models, from the folder of a transformers model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tcaf.errors import TCAFError, missing_extra, shorten
from tcaf.files.atomic import check_inside, read_json
from tcaf.pretrained.fetch import RANDOM

Family = Literal["clip", "clap"]

TOWERS = {
    ("clip", "text"): "CLIPTextModelWithProjection",
    ("clip", "vision"): "CLIPVisionModelWithProjection",
    ("clap", "text"): "ClapTextModelWithProjection",
    ("clap", "audio"): "ClapAudioModelWithProjection",
}
"""The classes of transformers for the halves of models that embed two things in one space."""

HOW_TO_GET = {
    "clip": "hf download openai/clip-vit-base-patch32 --local-dir FOLDER",
    "clap": "hf download laion/clap-htsat-unfused --local-dir FOLDER",
}
"""A command that fetches a model of each family."""


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
def _no_report() -> Iterator[None]:
    """Keeps transformers from listing the weights of the half that is left out."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bar():
            yield
    finally:
        logging.set_verbosity(level)


def first_line(error: Exception) -> str:
    """Returns the first line of what a foreign library says is wrong."""
    reason = str(error).strip()
    return reason.splitlines()[0] if reason else type(error).__name__


def load_tower(folder: Path, family: Family, part: str) -> Any:
    """Loads one half of a CLIP or CLAP model, with its projection, from the model's folder.

    Args:
        folder: of a transformers model, of both halves or of this one; nothing is fetched.
        family: which kind of model.
        part: text, vision or audio; a key of `TOWERS` together with `family`.

    Returns:
        A model of the class in `TOWERS`, float32, in evaluation mode; `config.projection_dim` is
        the size of its embeddings.

    Raises:
        TCAFError: transformers is not installed, or the folder holds no such model, or not all of
            its weights in the right shapes.
    """
    what = f"the folder of a transformers {family.upper()} model"
    if not (folder / "config.json").is_file():
        raise TCAFError(
            f"expected {what} at {folder}, found no config.json there; get one by "
            f"{HOW_TO_GET[family]}"
        )
    config = read_json(folder / "config.json", what)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in (family, f"{family}_{part}_model"):
        raise TCAFError(f"expected {what} at {folder}, found one of the type {kind!r}")
    for index in folder.glob("*.index.json"):
        _shards(index)  # transformers would follow it anywhere
    try:
        import transformers
    except ImportError:
        raise missing_extra("transformers") from None
    try:
        with _no_report():
            whole = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            config = getattr(whole, f"{part}_config", whole)
            # Some published halves say another size than the model, whose own is the right one.
            config.projection_dim = whole.projection_dim
            model, info = getattr(transformers, TOWERS[family, part]).from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes transformers raise
        raise TCAFError(f"the {part} half in {folder} does not load: {first_line(error)}") from None
    # Transformers would go on with random numbers in their place.
    if lacking := [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]:
        raise TCAFError(
            f"the {part} half in {folder} does not load: no weights, or of another shape than "
            f"config.json says, for {shorten(sorted(lacking))}"
        )
    return model.float().eval().requires_grad_(False)


def load_tokenizer(folder: Path, num_known: int) -> Any:
    """Loads the tokenizer of a model that has embeddings of `num_known` tokens."""
    # Without these files transformers makes up a tokenizer that knows no word.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise TCAFError(f"expected a tokenizer in {folder}, found no tokenizer.json or vocab.json")
    from transformers import AutoTokenizer

    try:
        with _no_report():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes transformers raise
        raise TCAFError(f"the tokenizer in {folder} does not load: {first_line(error)}") from None
    if len(tokenizer) > num_known:
        raise TCAFError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model {num_known}; they "
            "do not belong together"
        )
    return tokenizer


def need_folder(
    family: Family, option: str, options: Mapping[str, str], given: Path | None
) -> Path:
    """Returns the folder of a model that cannot do without one.

    Raises:
        TCAFError: none was given, or random weights were asked for.
    """
    if options.get("weights") == RANDOM:
        raise TCAFError(
            f"backbone {family!r} has no random weights, since its sizes come from the model; give "
            f"the folder of one by {option} FOLDER"
        )
    if given is None:
        raise TCAFError(
            f"backbone {family!r} needs the folder of a transformers {family.upper()} model: "
            f"{option} FOLDER; get one by {HOW_TO_GET[family]}"
        )
    return given


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
    """Returns the files that a model's features depend on: settings and the weights that it loads.

    Of weights in several formats transformers takes the first of these: .safetensors, one file or
    many, then .bin likewise.

    Raises:
        TCAFError: there are none, or a list of them is damaged or names files elsewhere.
    """
    files = [folder / name for name in ("config.json", "preprocessor_config.json")]
    if not files[1].is_file():
        files[1] = folder / "processor_config.json"
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [*(file for file in files if file.is_file()), folder / name]
        if index.is_file():
            return [*(file for file in files if file.is_file()), *_shards(index)]
    raise TCAFError(f"expected model.safetensors or pytorch_model.bin in {folder}, found neither")
