"""Class text: embeddings of an ordered list of classes, one matrix for each text space.

Owns the mapping that everything from the protocol to the answers carries, what of it a model is
given, and the file in which a run keeps it. Making embeddings is `class_text`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from tcaf.data.store import check_matrix, class_names
from tcaf.errors import TCAFError
from tcaf.files.sealed import read_sealed, write_sealed
from tcaf.settings.experiment import TEXT

SpaceVectors = Mapping[str, Mapping[str, Float[np.ndarray, " _"]]]
"""Text embedding of each class by name, for each space by name."""


@dataclass(frozen=True, eq=False)
class ClassText(Mapping[str, Tensor]):
    """Text embeddings of an ordered list of classes, by text space.

    Args:
        spaces: one matrix for each space, in the order in which the system names them.

    Raises:
        TCAFError: there is no space, or they are of different numbers of classes.
    """

    spaces: Mapping[str, Float[Tensor, "_ _"]]

    def __post_init__(self) -> None:
        # Shapes and no lengths, nor a set of them: a trace would take those for constants.
        sizes = {space: matrix.shape[0] for space, matrix in self.spaces.items()}
        first = next(iter(sizes.values()), None)
        if first is None or any(size != first for size in sizes.values()):
            found = ", ".join(f"{size} in {space!r}" for space, size in sizes.items()) or "none"
            raise TCAFError(f"expected the same classes in each text space, got {found}")

    @classmethod
    def of(cls, vectors: SpaceVectors, names: Sequence[str]) -> "ClassText":
        """Returns the text of some classes, in their order.

        Raises:
            TCAFError: a class has no embedding.
        """
        matrices = {}
        for space, by_name in vectors.items():
            with naming_space(space, vectors):
                if missing := [name for name in names if name not in by_name]:
                    raise TCAFError(f"class {missing[0]!r} has no text embedding")
            matrices[space] = torch.from_numpy(np.stack([by_name[name] for name in names]))
        return cls(matrices)

    def __getitem__(self, space: str) -> Float[Tensor, "num_classes text_dim"]:
        return self.spaces[space]

    def __iter__(self) -> Iterator[str]:
        return iter(self.spaces)

    def __len__(self) -> int:
        return len(self.spaces)

    @property
    def dims(self) -> dict[str, int]:
        """Size of a class's embedding, by space."""
        return {space: matrix.shape[1] for space, matrix in self.spaces.items()}

    @property
    def model_input(self) -> Any:
        """What a model is given: the matrix of its only space, or, of several, all of this.

        The one place that makes the choice.
        """
        return self if len(self) > 1 else next(iter(self.spaces.values()))

    def only(self, spaces: Iterable[str]) -> "ClassText":
        """Returns the text in some of the spaces, in their order."""
        return ClassText({space: self.spaces[space] for space in spaces})

    def select(self, rows: Any) -> "ClassText":
        """Returns the text of some of the classes, such as each clip's own.

        Args:
            rows: anything that picks rows of a matrix: labels, indices, a mask.
        """
        return ClassText({space: matrix[rows] for space, matrix in self.spaces.items()})

    def to(self, device: torch.device | str) -> "ClassText":
        """Returns the same on a device."""
        return ClassText({space: matrix.to(device) for space, matrix in self.spaces.items()})

    def by_name(self, names: Sequence[str]) -> dict[str, dict[str, Float[np.ndarray, " _"]]]:
        """Returns the embedding of each class by its name, for each space."""
        return {
            space: dict(zip(names, matrix.numpy(), strict=True))
            for space, matrix in self.spaces.items()
        }


@contextmanager
def naming_space(space: str, spaces: Iterable[str]) -> Iterator[None]:
    """Lets errors say which space they are about, unless the section text is all there is."""
    try:
        yield
    except TCAFError as error:
        if list(spaces) != [TEXT]:
            error.args = (f"text space {space!r}: {error}",)
        raise


def in_space(name: str, space: str) -> str:
    """Returns what a record calls a thing of one space: the bare name for that of section text."""
    return name if space == TEXT else f"{name}.{space}"


def write_class_text(path: Path, text: ClassText, names: Sequence[str]) -> None:
    """Writes the text embeddings of classes into one file, a tensor for each space.

    With the space `text` alone it is a file as `FeatureStore.add_text` writes it.
    """
    tensors = {in_space("embeddings", s): matrix.contiguous() for s, matrix in text.items()}
    path.parent.mkdir(exist_ok=True)
    write_sealed(path, safetensors.torch.save(tensors, {"classes": json.dumps(list(names))}))


def read_class_text(path: Path) -> dict[str, dict[str, Float[np.ndarray, " _"]]]:
    """Reads what `write_class_text` wrote: text embeddings of classes by name, for each space.

    Raises:
        TCAFError: the file is damaged.
    """
    try:
        names, data = read_sealed(path, "classes")
        spaces = {
            key.partition(".")[2] or TEXT: matrix
            for key, matrix in sorted(safetensors.torch.load(data).items())
            if key.partition(".")[0] == "embeddings"
        }
        for matrix in spaces.values():
            check_matrix(matrix)
        numbers = {space: matrix.float() for space, matrix in spaces.items()}
        return ClassText(numbers).by_name(class_names(names))
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TCAFError(f"text embeddings {path} are damaged: {error}") from None
