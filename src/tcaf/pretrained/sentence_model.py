"""Sentence-transformers models, from their folders."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from tcaf.errors import TCAFError, missing_extra
from tcaf.pretrained.model_folder import first_line, no_progress_bar, version


def load_sentence_model(folder: Path) -> Any:
    """Loads a model onto the CPU, in float32; nothing is fetched and none of its code is run.

    The last two stay in memory, so that both sides share one.

    Raises:
        TCAFError: sentence-transformers is not installed, or the folder holds no such model.
    """
    return _load(folder, version(folder))


@lru_cache(maxsize=2)
def _load(folder: Path, version: tuple[tuple[str, int, int], ...]) -> Any:
    if not (folder / "modules.json").is_file():
        raise TCAFError(
            f"expected the folder of a sentence-transformers model at {folder}, "
            "found no modules.json there"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise missing_extra("sentence-transformers") from None
    try:
        with no_progress_bar():
            model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TCAFError(
            f"the sentence-transformers model in {folder} does not load: {first_line(error)}"
        ) from None
    return model.float()
