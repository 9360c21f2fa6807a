"""What the hub shows of a model and of a store: cards in Markdown, with a head that it reads.

Owns their words. Numbers are those that a run kept; what is not known is said to be unknown.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tcaf.data.features import MODALITIES, NO_BACKBONE, FeatureSpec, Modality
from tcaf.data.store import FeatureStore
from tcaf.extract.backbones import BACKBONES
from tcaf.systems.registry import find_system
from tcaf.training.model_file import TrainedModel

UNSTATED = "not stated; ask whoever made it"
SCORES = {"seen": "S", "unseen": "U", "harmonic_mean": "HM", "zsl": "ZSL"}
NOUNS: Mapping[Modality, str] = {"audio": "the sound", "visual": "the picture"}
MOST_CLASSES = 100
"""Names that a card lists."""


@dataclass(frozen=True)
class Origin:
    """What is known of how a model came to be.

    Args:
        result: of its run, as `result.json`; None where there is none.
        provenance: of its run; empty where there is none.
    """

    result: Mapping[str, Any] | None
    provenance: Mapping[str, Any]

    @property
    def data(self) -> Mapping[str, Any]:
        """What is known of the clips."""
        found: Mapping[str, Any] = self.provenance.get("data") or {}
        return found


def model_card(name: str, trained: TrainedModel, origin: Origin, licence: str) -> str:
    """Returns the card of a model.

    Args:
        name: of the repository.
        trained: the model.
        origin: of the model.
        licence: of the weights, as the hub calls it.
    """
    system = find_system(trained.system)
    modalities = [m for m in MODALITIES if m in trained.model.modalities]
    head: dict[str, Any] = {
        "license": licence,
        "library_name": "tcaf",
        "pipeline_tag": "video-classification",
        "tags": ["tcaf", trained.system, "zero-shot", "audio-visual", *modalities],
    }
    if origin.result:
        head["model-index"] = _model_index(name, origin)
    seen = trained.classes.seen
    sections = [
        f"# {_plain(name)}",
        f"{system.title}, a system of [tcaf](https://pypi.org/project/tcaf/) for audio-visual "
        f"zero-shot classification. It goes by {_and([NOUNS[m] for m in modalities])} of a clip "
        f"and says which of any class names it shows; it was trained on {len(seen)} classes.",
        "## Numbers",
        _numbers(origin),
        "## How to use it",
        _usage(name, trained),
        "## Intended use",
        "Naming what short clips show or sound like, of classes that are named when it is asked, "
        "for search, sorting and research. Answers are suggestions for people to look at. It is "
        "not for decisions about persons, nor for watching them.",
        "## What it was trained on",
        _training(trained, origin),
        "## Licences",
        _licences(trained.spec, modalities, origin.data, licence),
        "## Limits",
        _limits(trained),
        "## How it was made",
        _making(trained, origin),
    ]
    return _front_matter(head) + "\n" + "\n\n".join(sections) + "\n"


def store_card(
    name: str, store: FeatureStore, licence: str, clips_by_part: Mapping[str, int]
) -> str:
    """Returns the card of a store.

    Args:
        name: of the repository.
        store: what lies there, as Parquet.
        licence: of the features, as the hub calls it.
        clips_by_part: how many clips each part has.
    """
    size = len(store)
    sizes = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    head = {
        "license": licence,
        "tags": ["tcaf", "audio-visual", "zero-shot", "features"],
        "task_categories": ["video-classification"],
        "size_categories": [next((word for top, word in sizes.items() if size < top), "n>1M")],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "all", "path": "*.parquet"}]}
        ],
    }
    spec = store.spec
    modalities = [m for m in MODALITIES if getattr(spec, f"{m}_backbone") != NO_BACKBONE]
    rows = [f"| {_cell(part or 'none')} | {count:,} |" for part, count in clips_by_part.items()]
    splits = [
        f"- `{_plain(key)}`: {len(split.train)} classes to train on, "
        f"{len(split.val_unseen)} held out for validation, {len(split.test_unseen)} for the test"
        for key, split in store.splits.items()
    ]
    sections = [
        f"# {_plain(name)}",
        f"Features of {size:,} clips, for audio-visual zero-shot classification with "
        "[tcaf](https://pypi.org/project/tcaf/). A row is a clip: `id`, `class`, `part`, and the "
        "tokens of `audio` and `visual`, each a list of lists of numbers, in order of time.",
        "## Clips",
        "\n".join(["| part | clips |", "|---|---|", *rows]),
        "\n".join(splits) or "No split.",
        "## Features",
        _features(spec, modalities),
        "## How to use it",
        _code(
            f"tcaf train --store hf://datasets/{name} --out run",
            f"tcaf store from-parquet hf://datasets/{name} --out store   # a store to keep",
        ),
        "pandas, polars, DuckDB and datasets read the Parquet files as they are; `tcaf.json` holds "
        "splits, phrases of classes and digests, `text/` the text embeddings of classes.",
        "## Where it comes from",
        _facts(store.source) or UNSTATED,
        _left_out(store),
        "## Licences",
        _licences(spec, modalities, store.source, licence),
        "## Limits",
        "Features hold what their backbones saw, and no more; clips cannot be made from them again "
        "in general, but do not take that for anonymity. Labels are those of the source, with its "
        "errors. Compare numbers on the same parts only.",
    ]
    return _front_matter(head) + "\n" + "\n\n".join(sections) + "\n"


def _front_matter(head: Mapping[str, Any]) -> str:
    """Returns the head as YAML, each value of which is written as JSON, which YAML contains."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    return "\n".join(["---", *lines, "---", ""])


def _model_index(name: str, origin: Origin) -> list[dict[str, Any]]:
    test = (origin.result or {})["test"]
    kind = str(origin.data.get("kind", "features"))
    metrics = [
        {"type": key, "name": short, "value": round(100 * test[key], 2)}
        for key, short in SCORES.items()
        if test.get(key) is not None
    ]
    task = {"type": "video-classification", "name": "generalised zero-shot classification"}
    data = {"type": kind, "name": kind, "split": "test"}
    return [{"name": name, "results": [{"task": task, "dataset": data, "metrics": metrics}]}]


def _numbers(origin: Origin) -> str:
    if not origin.result:
        return "No scores are kept with this model."
    test = origin.result["test"]
    validation = (origin.result.get("choice") or {}).get("validation") or {}
    rows = ["| clips | S | U | HM | ZSL | gamma |", "|---|---|---|---|---|---|"]
    for title, scores in (("test", test), ("validation", validation)):
        if scores:
            cells = [_percent(scores.get(key)) for key in SCORES]
            rows.append(f"| {title} | {' | '.join(cells)} | {scores.get('gamma', 0):g} |")
    error = (test.get("reliability") or {}).get("error")
    calibrated = (
        ""
        if error is None
        else (
            f" Probabilities of test clips are off by {100 * error:.1f} percent points on average "
            "(expected calibration error)."
        )
    )
    return (
        "\n".join(rows) + "\n\nMean class accuracy in percent, of one run: S of clips of seen "
        "classes and U of unseen ones, all classes being candidates; HM their harmonic mean; ZSL "
        "of unseen clips among unseen classes alone. Epoch and gamma were chosen on validation "
        f"clips, and the test clips looked at once.{calibrated}"
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _usage(name: str, trained: TrainedModel) -> str:
    names = list(trained.classes.names[:2])
    return "\n\n".join(
        [
            _code(
                "pip install 'tcaf[video,text,hub]'",
                f"tcaf predict hf://{name} clip.mp4 --classes {json.dumps('; '.join(names))}",
            ),
            "```python\nfrom tcaf import open_classifier\n\n"
            f'classifier = open_classifier("hf://{name}")\n'
            f"classifier.set_classes({json.dumps(names, ensure_ascii=False)})\n"
            'print(classifier.classify("clip.mp4"))\n```',
            f"`hf://{name}@COMMIT` is the model as it was at a commit, whatever comes after it.",
        ]
    )


def _training(trained: TrainedModel, origin: Origin) -> str:
    seen = [name for name in trained.classes.names if name in trained.classes.seen]
    listed = "; ".join(_plain(name) for name in seen[:MOST_CLASSES])
    more = f" and {len(seen) - MOST_CLASSES} more" if len(seen) > MOST_CLASSES else ""
    known = _facts({k: v for k, v in origin.data.items() if not k.startswith("class_text")})
    return "\n\n".join(
        [
            known or "What its clips were is not kept with it.",
            _features(trained.spec, [m for m in MODALITIES if m in trained.model.modalities]),
            f"Classes of the training: {listed}{more}." if seen else "It needed no training.",
        ]
    )


def _features(spec: FeatureSpec, modalities: Sequence[str]) -> str:
    rows = ["| | backbone | numbers a token | seconds a token |", "|---|---|---|---|"]
    for modality in MODALITIES:
        if modality in modalities:
            step_s = spec.step_s(modality)
            step = "one token a clip" if step_s is None else f"{step_s:g}"
            backbone = _cell(getattr(spec, f"{modality}_backbone"))
            rows.append(f"| {modality} | `{backbone}` | {spec.dim(modality)} | {step} |")
    return "\n".join(rows)


def _licences(
    spec: FeatureSpec, modalities: Sequence[str], data: Mapping[str, Any], licence: str
) -> str:
    rows = ["| part | licence |", "|---|---|", f"| what lies here | {_cell(licence)} |"]
    for modality in modalities:
        backbone = getattr(spec, f"{modality}_backbone")
        rows.append(f"| {modality} backbone `{_cell(backbone)}` | {_backbone_licence(backbone)} |")
    rows.append(f"| clips | {_cell(str(data.get('licence') or UNSTATED))} |")
    rows += [
        f"| model of a hub `{_cell(str(model.get('model')))}` | "
        f"{_cell(str(model.get('licence') or UNSTATED))} |"
        for model in _models(data)
    ]
    return "\n".join(rows)


def _models(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the models of a hub that a store was made with, as `sources.videos` records them."""
    found = data.get("models") or {}
    return [each for each in found.values() if isinstance(each, Mapping)]


def _backbone_licence(name: str) -> str:
    info = BACKBONES.get(name.partition(":")[0])
    return UNSTATED if info is None else info.licence


def _limits(trained: TrainedModel) -> str:
    lines = [
        "It answers one of the names that it is given, whether or not any is right; `--abstain` "
        "of `tcaf predict` lets it answer none of them.",
        "Names that are far from what it was trained on are answered worse, and classes of the "
        "training are favoured as far as gamma does not hold them back.",
        "Probabilities were calibrated on validation clips of its own data and are too sure "
        "elsewhere."
        if trained.temperature is not None
        else "It gives distances and no probabilities.",
        "Features must come from the same backbones, and clips be of the same kind; what its "
        "backbones and its data are biased to, it is biased to.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _making(trained: TrainedModel, origin: Origin) -> str:
    known = origin.provenance
    facts = {
        "system": trained.system,
        "pushed by": f"tcaf {version('tcaf')}",
        "seed": known.get("seed"),
        "commit of the code": known.get("commit"),
        "versions": known.get("versions"),
    }
    text = _facts({key: value for key, value in facts.items() if value is not None})
    return f"{text}\n\n`config.json` holds its settings."


def _left_out(store: FeatureStore) -> str:
    told = [
        f"{len(ids):,} were left out: {_plain(reason)}" for reason, ids in store.left_out.items()
    ]
    return "\n".join(f"- {line}" for line in told) or "Nothing was left out."


def _facts(values: Mapping[str, Any]) -> str:
    """Returns a list of what is known."""
    lines = []
    for key, value in without_places(values).items():
        told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if told:
            lines.append(f"- {_plain(key)}: {_plain(told)}")
    return "\n".join(lines)


def without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is known of a source, without paths of the machine that it was made on."""
    return {key: value for key, value in values.items() if not _is_place(value)}


def _is_place(value: Any) -> bool:
    """Returns whether a value is, or holds, a path of some machine."""
    if isinstance(value, str):
        return value.startswith(("/", "~", "\\\\")) or value[1:3] in (":\\", ":/")
    if isinstance(value, Mapping):
        return any(map(_is_place, value.values()))
    return isinstance(value, list | tuple) and any(map(_is_place, value))


def _and(words: Sequence[str]) -> str:
    return " and ".join(words)


def _code(*lines: str) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _plain(text: str) -> str:
    """Returns a text that Markdown shows as it is, in one line."""
    spaced = " ".join(str(text).split())
    for sign in "\\`*_<>[]|":
        spaced = spaced.replace(sign, f"\\{sign}")
    return spaced


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
