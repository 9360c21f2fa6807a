"""Portable models and text sides as files: ONNX for any runtime, `.pt2` for torch without tcaf.

Owns the tracing with sizes left open: how many clips, how long they are, how many classes.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from tcaf.errors import MissingExtraError, TCAFError, one_line
from tcaf.export.portable import PortableModel, PortableText

Kind = Literal["onnx", "pt2"]

OPSET = 18
"""Of ONNX: what onnxruntime and onnxruntime-web have read since 2023."""


def model_graph(model: PortableModel, joint_dim: int, kind: Kind) -> bytes:
    """Returns the file of a model.

    Args:
        model: in evaluation mode.
        joint_dim: size of a class embedding.
        kind: of file.

    Raises:
        TCAFError: a package of the extra `export` is missing, or the model cannot be traced.
    """
    batch, classes = Dim("batch"), Dim("num_classes")
    sizes = {m: Dim(f"{m}_len") for m in model.masks}
    clips: dict[str, Tensor] = {}
    open_sizes: dict[str, dict[int, Any]] = {}
    for number, modality in enumerate(model.masks):
        length = 5 + 2 * number  # two sizes that are equal by chance would be taken for one
        if modality in model.tokens:
            clips[modality] = torch.ones(2, length, model.spec.dim(modality))
            open_sizes[modality] = {0: batch, 1: sizes[modality]}
        clips[f"{modality}_mask"] = torch.ones(2, length, dtype=torch.bool)
        open_sizes[f"{modality}_mask"] = {0: batch, 1: sizes[modality]}
    embedding, seen = torch.ones(3, joint_dim), torch.ones(3, dtype=torch.bool)
    inputs = {"clips": clips, "class_embedding": embedding, "seen": seen}
    names = [*clips, "class_embedding", "seen"]
    dynamic = {"clips": open_sizes, "class_embedding": {0: classes}, "seen": {0: classes}}
    return _traced(model, inputs, dynamic, names, model.outputs, kind)


def text_graph(text: PortableText, kind: Kind) -> bytes:
    """Returns the file of a text side; see `model_graph`."""
    classes = Dim("num_classes")
    inputs = {"text": {space: torch.ones(3, dim) for space, dim in text.dims.items()}}
    dynamic = {"text": {space: {0: classes} for space in text.dims}}
    return _traced(text, inputs, dynamic, list(text.dims), ("class_embedding",), kind)


def _traced(
    module: nn.Module,
    inputs: dict[str, Any],
    dynamic: dict[str, Any],
    names: list[str],
    outputs: tuple[str, ...],
    kind: Kind,
) -> bytes:
    if kind == "onnx":
        _check_packages()
    with torch.no_grad(), _quiet(), _without_gradients(module):
        try:
            if kind == "pt2":
                file = io.BytesIO()
                program = torch.export.export(module, (), inputs, dynamic_shapes=dynamic)
                torch.export.save(program, file)
                return file.getvalue()
            made = torch.onnx.export(
                module,
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=names,
                output_names=outputs,
                opset_version=OPSET,
                verbose=False,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            first = error.__cause__ or error  # torch wraps it into advice for programmers
            told = one_line(str(first).partition("\n")[0])[:300]
            raise TCAFError(f"torch cannot trace this model: {told}") from None
    assert made is not None
    proto = made.model_proto
    _check_open(proto, dynamic)
    found: bytes = proto.SerializeToString()
    return found


def _check_open(proto: Any, dynamic: dict[str, Any]) -> None:
    """Checks that no size was taken for a constant: torch falls back to that without a word."""
    axes: dict[str, Any] = {}
    for name, each in dynamic.items():
        axes |= each if isinstance(next(iter(each)), str) else {name: each}
    for given in proto.graph.input:
        dims = given.type.tensor_type.shape.dim
        for axis in axes[given.name]:
            if not dims[axis].dim_param:
                raise TCAFError(
                    f"torch cannot leave the size of {given.name} open along axis {axis}; it took "
                    f"{dims[axis].dim_value} for a constant"
                )


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Lets weights ask for no gradient, as the file of `torch.export` then keeps them."""
    learnt = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in learnt:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learnt:
            weight.requires_grad_(True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what torch warns of and logs about its own making of graphs."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; pip install 'tcaf[export]'"
        ) from None
