"""The authors' checkpoints: their weights under our names.

Owns the correspondence between the release's state-dict keys and `TCAF`'s. The imported model takes
the release's side where it shows in the forward pass (`Fidelity.official`): shared layer norms,
audio / 255, visual features normalised over time.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tcaf.errors import TCAFError, did_you_mean, shorten
from tcaf.settings.fidelity import Fidelity
from tcaf.settings.sections import AttentionPattern
from tcaf.systems.joint_space import TCAFConfig
from tcaf.systems.tcaf import TCAF

POSITION = "position_encoder_block."
LAYER = "Audio_visual_transformer.layers."
IGNORED = ("audiovisual_embeddings.", POSITION + "pad_embedding.")
"""The same tensors a second time, and a vector that touches padding only."""


def model_from_state_dict(
    state: Mapping[str, Tensor | np.ndarray],
    *,
    num_heads: int,
    attention: AttentionPattern = "cross",
) -> TCAF:
    """Builds the model whose weights the authors' release saved.

    Args:
        state: name to tensor or array, with or without the duplicated `audiovisual_embeddings.*`.
        num_heads: attention heads; the one size that no weight's shape tells (8 in the paper).
        attention: the pattern that it was trained with.

    Returns:
        An equal model, in evaluation mode; dropout rates are 0, since a checkpoint holds none.

    Raises:
        TCAFError: a weight is missing, unknown, or has a shape that does not fit the others.
    """
    weights = {
        name: value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        for name, value in state.items()
        if not name.startswith(IGNORED)
    }
    if (table := POSITION + "modal_embedding.weight") in weights:
        rows = weights.pop(table)
        if len(rows) != 2:
            raise TCAFError(f"the checkpoint's {table} has {len(rows)} rows, expected 2")
        modalities = zip(("audio", "visual"), rows, strict=True)
        weights |= {f"{POSITION}modal_embedding.{modality}": row for modality, row in modalities}
    model = TCAF(_config(weights, num_heads, attention))
    wanted = _names(model)
    missing = sorted({part for parts in wanted.values() for part in parts} - set(weights))
    if missing:
        hint = did_you_mean(missing[0], weights)
        raise TCAFError(f"the checkpoint lacks {shorten(missing)}{hint}")
    unknown = sorted(set(weights) - {part for parts in wanted.values() for part in parts})
    if unknown:
        raise TCAFError(f"the checkpoint has weights that TCaF lacks: {shorten(unknown)}")
    own = model.state_dict()
    own = {n: _fitted(n, [weights[p] for p in wanted[n]], own[n]) for n in wanted}
    model.load_state_dict(own)
    return model.eval()


def _size(weights: Mapping[str, Tensor], name: str, axis: int) -> int:
    if name not in weights:
        raise TCAFError(f"the checkpoint lacks {name!r}{did_you_mean(name, weights)}")
    return weights[name].shape[axis]


def _config(
    weights: Mapping[str, Tensor], num_heads: int, attention: AttentionPattern
) -> TCAFConfig:
    inner = _size(weights, LAYER + "0.attn.to_q.weight", 0)
    if num_heads < 1 or inner % num_heads:
        raise TCAFError(f"num_heads must divide {inner}, the size of all heads; got {num_heads}")
    layers = {n.removeprefix(LAYER).split(".")[0] for n in weights if n.startswith(LAYER)}
    official = Fidelity.official()
    return TCAFConfig(
        audio_dim=_size(weights, "A_enc.fc.0.weight", 1),
        visual_dim=_size(weights, "V_enc.fc.0.weight", 1),
        text_dim=_size(weights, "W_proj.fc.0.weight", 1),
        num_layers=len(layers),
        num_heads=num_heads,
        head_dim=inner // num_heads,
        token_dim=_size(weights, "A_enc.fc.4.weight", 0),
        joint_dim=_size(weights, "W_proj.fc.0.weight", 0),
        encoder_hidden_dim=_size(weights, "A_enc.fc.0.weight", 0),
        projection_hidden_dim=_size(weights, "O_proj.fc.0.weight", 0),
        feed_forward_dim=_size(weights, LAYER + "0.ff.net.0.weight", 0),
        position_dim=_size(weights, POSITION + "fourier_embeddings.weight", 0),
        attention=attention,
        dropout_encoder=0.0,
        dropout_position=0.0,
        dropout_transformer=0.0,
        dropout_text_projection=0.0,
        dropout_video_projection=0.0,
        audio_scaling=official.audio_scaling,
        visual_scaling=official.visual_scaling,
        layer_norm=official.layer_norm,
        batch_norm_momentum=official.batch_norm_momentum,
    )


def _names(model: TCAF) -> dict[str, list[str]]:
    """Returns, for each of the model's weights, the release's names of what it is joined from."""
    prefixes = {
        "encoders.audio.": "A_enc.",
        "encoders.visual.": "V_enc.",
        "video_projection.": "O_proj.",
        "video_decoder.": "D_o.",
        "text_projection.": "W_proj.",
        "text_decoder.": "D_w.",
    }
    exact = {
        "class_token": ["cls_token"],
        "positions.frequencies": [POSITION + "fourier_randn"],
        "positions.modality.audio": [POSITION + "modal_embedding.audio"],
        "positions.modality.visual": [POSITION + "modal_embedding.visual"],
    }
    parts = {
        "positions.time.": POSITION + "fourier_embeddings.",
        "positions.out.audio.": POSITION + "out_proj_audio.",
        "positions.out.visual.": POSITION + "out_proj_video.",
    }
    names = {}
    for name in model.state_dict():
        if name in exact:
            names[name] = exact[name]
        elif name.startswith("layers."):
            names[name] = _layer_names(name)
        elif prefix := next((p for p in parts if name.startswith(p)), None):
            names[name] = [parts[prefix] + name.removeprefix(prefix)]
        else:
            prefix = next(p for p in prefixes if name.startswith(p))
            names[name] = [prefixes[prefix] + _block_name(name.removeprefix(prefix))]
    return names


def _block_name(name: str) -> str:
    """Maps `1.norm.weight` or `linear.bias` to the position in the release's `fc` list."""
    block, _, rest = name.rpartition("linear.") if "linear." in name else name.rpartition("norm.")
    first = 4 if block.startswith("1.") else 0
    return f"fc.{first + ('norm.' in name)}.{rest}"


def _layer_names(name: str) -> list[str]:
    _, number, rest = name.split(".", 2)
    layer = f"{LAYER}{number}."
    if rest == "attention.to_qkv.weight":
        return [f"{layer}attn.to_{part}.weight" for part in "qkv"]
    rest = rest.replace("attention.to_out.", "attn.to_out.0.")
    rest = rest.replace("attention_norm.", "norm.").replace("feed_forward.", "ff.net.")
    return [layer + rest]


def _fitted(name: str, parts: list[Tensor], own: Tensor) -> Tensor:
    """Joins the parts of a weight and gives them its shape (1x1 convolutions become matrices)."""
    joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    # A 1x1 convolution has trailing axes of size 1, the class token leading ones.
    if [size for size in joined.shape if size != 1] != [size for size in own.shape if size != 1]:
        raise TCAFError(
            f"the checkpoint's {name} has shape {tuple(joined.shape)}, expected {tuple(own.shape)}"
        )
    if not bool(joined.isfinite().all()):
        raise TCAFError(f"the checkpoint's {name} has NaN or infinite values")
    return joined.reshape(own.shape)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Reads the state dict of a `.pt` file, executing nothing in it.

    Raises:
        TCAFError: no such file, one that holds more than tensors, or one without a state dict.
    """
    if not path.is_file():
        raise TCAFError(f"expected a checkpoint at {path}, found nothing")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Torch's own text advises to switch the safety off.
        raise TCAFError(
            f"{path} is no checkpoint of plain tensors: it is damaged, or holds more"
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever a foreign file makes torch raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TCAFError(f"{path} is no checkpoint of plain tensors: {reason}") from None
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise TCAFError(f"{path} holds no state dict, but {type(content).__name__}")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise TCAFError(f"{path} holds no state dict: {shorten(strange)} are no tensors")
    return {str(name): value for name, value in content.items()}
