"""Weights into networks: named tensors of a file, read without running anything in them.

Owns the reading, the check that all of a network's weights are there and nothing else, and random
weights for trying things out. Where files come from is `fetch`.
"""

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Shaped
from safetensors.torch import load_file
from torch import Tensor, nn

from tcaf.errors import TCAFError


def read_state_dict(path: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """Reads tensors by name from a .safetensors or torch file, on the CPU; nothing in it is run.

    A state dict that lies under `state_dict`, beside other things, is taken out.

    Raises:
        TCAFError: the file is missing, damaged, holds other objects than tensors, or asks for code
            to be run.
    """
    expected = f"expected weights, a .safetensors or torch file of named tensors, at {path}"
    if not path.is_file():
        raise TCAFError(f"{expected}, found {'a folder' if path.is_dir() else 'nothing'}")
    try:
        content = _read_tensors(path)
    except TCAFError as error:
        raise TCAFError(f"{expected}; {error}") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        found = "an empty dict" if isinstance(content, Mapping) else type(content).__name__
        raise TCAFError(f"{expected}, found {found}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise TCAFError(f"{expected}, found {key!r} of type {type(value).__name__}")
    return dict(content)


def _read_tensors(path: Path) -> object:
    """Returns what a file holds; its damage as a TCAFError of one line."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Torch's own text runs over many lines and advises to switch the safety off.
        raise TCAFError("it is damaged, or holds more than tensors") from None
    except Exception as error:  # noqa: BLE001 - whatever a foreign file makes torch raise
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TCAFError(f"it is damaged ({line})") from None


def draw_weights(network: nn.Module) -> None:
    """Gives a network random weights from torch's global stream, and no biases.

    The scale of activations stays that of the input, so that inputs can be told apart.
    """
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def load_into(network: nn.Module, state: Mapping[str, Shaped[Tensor, "..."]], what: str) -> None:
    """Gives a network its weights; all of them have to be there, and nothing else.

    Args:
        network: takes the weights in place, in its own dtype and on its own device.
        state: tensors by the names that the network has for them.
        what: what the weights are and where they lie, for messages.

    Raises:
        TCAFError: a name is missing or unexpected, or a tensor has another shape than its own.
    """
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    came = {key: tuple(value.shape) for key, value in state.items()}
    wrong = [
        ("missing", [f"{key} {own[key]}" for key in own if key not in came]),
        ("unexpected", [f"{key} {came[key]}" for key in came if key not in own]),
        (
            "of another shape",
            [
                f"{key} {came[key]} in place of {own[key]}"
                for key in own
                if came.get(key, own[key]) != own[key]
            ],
        ),
    ]
    found = [f"{kind}: {_some(names)}" for kind, names in wrong if names]
    if found:
        raise TCAFError(f"{what} are not weights of this network; {'; '.join(found)}")
    network.load_state_dict(state)


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
