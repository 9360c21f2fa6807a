"""A model with what stands beside it, so that a program without torch answers, and adds classes.

Owns the folder of an export: the model's file, `text.onnx` or `text.pt2` from class text to class
embeddings, `classes.json` with the candidates and what the numbers mean, and, if asked for,
`vocabulary.json` with the text of names to add. `docs/export.md` is its documentation.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.interface import Classifier
from tcaf.errors import TCAFError
from tcaf.export.graphs import Kind, model_graph, text_graph
from tcaf.export.portable import PortableModel, PortableText
from tcaf.files.atomic import check_folder, make_parents, read_json, replacing
from tcaf.text.spaces import ClassText

FORMAT = "tcaf-export"
VERSION = 1
CLASSES = "classes.json"
VOCABULARY = "vocabulary.json"
KINDS: dict[str, Kind] = {".onnx": "onnx", ".pt2": "pt2"}
"""What is written, by the suffix of the file."""


@dataclass(frozen=True)
class Bundle:
    """The files of an export, in memory.

    Args:
        model: name of the model's file.
        files: content of each, by name; `classes.json` is the last.
        description: what `classes.json` holds, without the numbers of classes.
    """

    model: str
    files: dict[str, bytes]
    description: dict[str, Any]


def kind_of(out: Path) -> Kind:
    """Returns what is to be written to a file.

    Raises:
        TCAFError: its suffix does not say, or its name is that of a file beside it.
    """
    kind = KINDS.get(out.suffix.lower())
    if kind is None:
        known = " or ".join(KINDS)
        raise TCAFError(f"expected a file that ends in {known}, got {str(out)!r}")
    if out.stem.lower() == "text":
        raise TCAFError(f"{out} is the name of the text side, which lies beside the model")
    return kind


def check_out(out: Path, *, overwrite: bool) -> None:
    """Checks that an export may be written to a file, before anything is made.

    Raises:
        TCAFError: files are there that are of no export, or `overwrite` is false; or see `kind_of`.
    """
    kind = kind_of(out)
    check_folder(out.parent)
    files = [out.parent / name for name in (out.name, f"text.{kind}", CLASSES, VOCABULARY)]
    there = [file for file in files if file.exists()]
    if not there:
        return
    content = read_json(files[2], "classes of an export") if files[2].is_file() else None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TCAFError(f"{there[0]} exists already and is of no export; name another folder")
    if content.get("model") != out.name:
        raise TCAFError(
            f"{out.parent} holds the export {content.get('model')!r} already; a folder is for one"
        )
    if not overwrite:
        raise TCAFError(f"{out} exists already; name another place or pass --overwrite")


def make_bundle(
    classifier: Classifier, name: str, kind: Kind, vocabulary: Sequence[str] = ()
) -> Bundle:
    """Makes the files of a model with its candidates.

    Args:
        classifier: what answers, with the candidates that are set.
        name: of the model's file.
        kind: of file.
        vocabulary: names whose text embeddings are to lie beside it, to be added as candidates.

    Raises:
        TCAFError: several models, or one that has no form for elsewhere; a package of the extra
            `export` is missing; a name that has no text embedding.
    """
    if not isinstance(classifier, ZeroShotClassifier):
        raise TCAFError(
            "several models that answer together cannot be exported as one; export each of them"
        )
    answering = classifier.model.to("cpu")
    portable = PortableModel(
        answering,
        classifier.trained.system,
        classifier.spec,
        classifier.windows,
        classifier.gamma,
        classifier.temperature,
    ).eval()
    text = PortableText(answering, classifier.class_text.dims).eval()
    files = {}
    if vocabulary:
        embedded = classifier.embed_names(vocabulary)
        words = {"names": list(vocabulary), "text_embedding": _text_rows(embedded)}
        files[VOCABULARY] = _json(words)
    text_name = f"text.{kind}"
    files[name] = model_graph(portable, classifier.class_embedding.shape[1], kind)
    files[text_name] = text_graph(text, kind)
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    description = {
        "format": FORMAT,
        "version": VERSION,
        "tcaf": version("tcaf"),
        "model": name,
        "text_model": text_name,
        "sha256": digests,
        **_meaning(classifier, portable),
    }
    seen = set(classifier.seen_columns)
    classes = {
        "names": list(classifier.classes),
        "seen": [column in seen for column in range(len(classifier.classes))],
        "class_embedding": _rows(classifier.class_embedding),
        "text_embedding": _text_rows(classifier.class_text),
    }
    files[CLASSES] = _json({**description, **classes})
    return Bundle(name, files, description)


def _meaning(classifier: ZeroShotClassifier, portable: PortableModel) -> dict[str, Any]:
    """Returns what the numbers that go in and come out mean."""
    spec, windows = classifier.spec, classifier.windows
    settings = classifier.text_settings
    return {
        "system": classifier.trained.system,
        "gamma": classifier.gamma,
        "temperature": classifier.temperature,
        "inputs": [
            *(name for m in portable.masks for name in _inputs(m, m in portable.tokens)),
            "class_embedding",
            "seen",
        ],
        "outputs": list(portable.outputs),
        "features": {
            modality: {
                "backbone": getattr(spec, f"{modality}_backbone"),
                "dim": spec.dim(modality),
                "step_s": spec.step_s(modality),
            }
            for modality in portable.tokens
        },
        "window_s": windows.window_s,
        "text": {
            space: {
                "dim": dim,
                "source": settings[space].source,
                # A file's place is this machine's alone.
                "model": Path(settings[space].path).name,
                "phrases": list(settings[space].phrases),
                "prompts": Path(settings[space].prompts).name,
                "normalise": settings[space].normalise,
                "words": Path(settings[space].words).name,
            }
            for space, dim in classifier.class_text.dims.items()
        },
        "notes": list(classifier.notes),
    }


def _json(value: dict[str, Any]) -> bytes:
    """Returns a JSON object with one line for each of its keys: matrices stay in one."""
    lines = [
        f"  {json.dumps(key)}: {json.dumps(each, ensure_ascii=False, allow_nan=False)}"
        for key, each in value.items()
    ]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _inputs(modality: str, has_tokens: bool) -> list[str]:
    return [*([modality] if has_tokens else []), f"{modality}_mask"]


def _rows(matrix: Tensor | Float[np.ndarray, "n dim"]) -> list[list[float]]:
    """Returns a matrix of float32 as numbers with the fewest digits that tell them apart."""
    rows = np.asarray(matrix, np.float32)
    return [[float(str(number)) for number in row] for row in rows]


def _text_rows(text: ClassText) -> dict[str, list[list[float]]]:
    return {space: _rows(matrix) for space, matrix in text.items()}


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Writes all files of an export, or none of them."""
    make_parents(folder / bundle.model)
    with ExitStack() as stack:
        # All are written before the first takes its place.
        for name, content in bundle.files.items():
            stack.enter_context(replacing(folder / name)).write_bytes(content)


def export_model(
    classifier: Classifier,
    out: Path,
    *,
    vocabulary: Sequence[str] = (),
    overwrite: bool = False,
) -> Bundle:
    """Exports a model with its candidates to a file, with what belongs to it beside it.

    Args:
        classifier: what answers, with the candidates that are set.
        out: the model's file, whose suffix says what is written: `.onnx` or `.pt2`.
        vocabulary: see `make_bundle`.
        overwrite: replace an export of this name that is there already.

    Raises:
        TCAFError: see `check_out` and `make_bundle`.
    """
    check_out(out, overwrite=overwrite)
    bundle = make_bundle(classifier, out.name, kind_of(out), vocabulary)
    write_bundle(bundle, out.parent)
    if VOCABULARY not in bundle.files:
        (out.parent / VOCABULARY).unlink(missing_ok=True)  # of the export before
    return bundle
