"""Sentence-transformers models, from their folders."""

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError, missing_extra, shorten
from tcaf.pretrained.model_folder import first_line, model_files, quiet, version


def load_sentence_model(folder: Path, device: str = "cpu") -> Any:
    """Loads a model in float32; nothing is fetched and none of its code is run.

    The last two stay in memory, so that both sides share one.

    Args:
        folder: of the model.
        device: where it is to compute.

    Raises:
        TCAFError: sentence-transformers is not installed or does not import; the folder holds no
            such model, not all of its weights in the right shapes, or none in safetensors.
    """
    return _load(folder, version(folder), device)


@lru_cache(maxsize=2)
def _load(folder: Path, version: tuple[tuple[str, int, int], ...], device: str) -> Any:
    if not (folder / "modules.json").is_file():
        raise TCAFError(
            f"expected the folder of a sentence-transformers model at {folder}, "
            "found no modules.json there"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        if error.name == "sentence_transformers":
            raise missing_extra("sentence-transformers") from None
        raise TCAFError(f"sentence-transformers does not import: {first_line(error)}") from None
    model_files(folder)  # else pickles would be read
    try:
        with quiet():
            model = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
            lacking = sorted(key for module in model for key in _lacking(module))
    except Exception as error:  # noqa: BLE001 - whatever a foreign folder makes the library raise
        raise TCAFError(
            f"the sentence-transformers model in {folder} does not load: {first_line(error)}"
        ) from None
    # They have random numbers in their place.
    if lacking:
        raise TCAFError(
            f"the sentence-transformers model in {folder} does not load: no weights for "
            f"{shorten(lacking)}"
        )
    return model.float().to(device)


def _lacking(module: Any) -> list[str]:
    """Returns the weights of a transformer in a model that its folder does not have.

    Only transformers itself knows, which renames and shares weights as it reads them, and
    sentence-transformers does not pass on what it says; so the weights are read once more.
    """
    from transformers import PreTrainedModel

    inner = next((each for each in module.modules() if isinstance(each, PreTrainedModel)), None)
    if inner is None:
        return []
    kind: Any = type(inner)
    _, info = kind.from_pretrained(
        inner.name_or_path,
        config=deepcopy(inner.config),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    # Many are published without the head for whole texts, which is not read where tokens are.
    of_tokens = getattr(module, "module_output_name", "token_embeddings") == "token_embeddings"
    return [k for k in info["missing_keys"] if not (of_tokens and k.startswith("pooler."))]
