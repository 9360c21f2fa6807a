"""Makes the ready model `audioset`, and says what it knows of labels that it was not made from.

    tcaf prepare audioset SHARDS --vocabulary vocabulary.csv --out STORE
    python -m benchmarks.ready_audioset STORE --out audioset.safetensors

*Held-out labels*: the labels are dealt into five parts. Of each part nothing is learnt: every clip
that carries one of its labels is left out, and so is one clip in ten of the others. The rest makes
a model, which is asked for the part's labels, by name alone, on all clips that carry one, and for
all labels. Regularisers, whether deviations are read, gamma, temperature and the thresholds of sets
follow from these five models; a last one is made of all clips and labels with the same settings.
A clip has several labels; an answer is right if it is one of them.
"""

import argparse
import json
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tcaf.data.batches import load_batch
from tcaf.data.classes import ClassSet
from tcaf.data.sampler import in_order
from tcaf.data.store import FeatureStore
from tcaf.data.windows import Windows
from tcaf.evaluation.calibration import reliability
from tcaf.evaluation.conformal import Conformity, conformity
from tcaf.evaluation.temperature import calibrated, fit_temperature, probabilities
from tcaf.settings.experiment import Experiment
from tcaf.systems.textlda import Blocks, TextLDA
from tcaf.systems.textlda_fit import Choice, choices
from tcaf.systems.textlda_labels import LabelsFit
from tcaf.systems.textlda_vectors import TextLDAConfig
from tcaf.text.class_text import embed_classes
from tcaf.text.spaces import ClassText
from tcaf.training.auxiliary import AuxiliaryVideos
from tcaf.training.model_file import TrainedModel, save_model

FOLDS = 5
SETTINGS = {
    "system": "textlda",
    "text": {"source": "sentence", "phrases": ["name", "description"]},
    "options": {"time": "off", "spread": "chosen"},
    "evaluation": {"gamma_grid": "margins"},
}
CANDIDATES = (5, 10, 20, 50)
"""Names in a list, as somebody gives them."""

MOST_CLIPS = 4_000
"""Clips of each fold that are asked, known labels and held-out ones each."""

MOST_SCORES = 4_000
"""Scores that are kept for the thresholds of sets, of each half."""

WINDOWS = Windows()
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Clips:
    """A store with the text of its labels.

    Args:
        store: the clips.
        names: of the labels, sorted.
        carries: which clip has which label.
        text: of the labels, as sources.
        asked: of the labels, by name alone.
    """

    store: FeatureStore
    names: tuple[str, ...]
    carries: Bool[Tensor, "clips num_labels"]
    text: Float[Tensor, "num_labels text_dim"]
    asked: Float[Tensor, "num_labels text_dim"]

    @classmethod
    def of(cls, store: FeatureStore) -> "Clips":
        """Reads labels and embeds their text."""
        names = tuple(sorted({label for labels in store.labels for label in labels}))
        number = {name: i for i, name in enumerate(names)}
        carries = torch.zeros(len(store), len(names), dtype=torch.bool)
        pairs = [(row, number[n]) for row, labels in enumerate(store.labels) for n in labels]
        rows, labels = torch.tensor(pairs).T
        carries[rows, labels] = True
        settings = Experiment.from_layers(SETTINGS).text
        by_name = replace(settings, phrases=("name",))
        text, asked = (
            torch.from_numpy(embed_classes(each, names, store)).float()
            for each in (settings, by_name)
        )
        return cls(store, names, carries, text, asked)

    def fit(self, rows: Int[Tensor, " rows"], labels: Int[Tensor, " labels"]) -> LabelsFit:
        """Returns the fit of some labels on some clips, which carry no other."""
        own = [tuple(c.nonzero()[:, 0].tolist()) for c in self.carries[rows][:, labels]]
        names = tuple(self.names[i] for i in labels.tolist())
        text = {"text": self.text[labels].numpy()}
        videos = AuxiliaryVideos(self.store, rows.numpy(), names, tuple(own), {}, 0, 0, text)
        spec, options = self.store.spec, SETTINGS["options"]
        dims = {"audio_dim": spec.audio_dim, "visual_dim": spec.visual_dim}
        model = TextLDA(TextLDAConfig(**dims, text_dim=self.text.shape[1], **options))
        return LabelsFit(videos.part(WINDOWS, CPU, 512), model)

    def reduced(self, model: TextLDA, rows: Int[Tensor, " rows"]) -> list[Blocks]:
        """Returns what is needed of clips, whatever the choice."""
        pieces = in_order(rows.numpy(), 512)
        return [model.reduced(load_batch(self.store, piece, WINDOWS)) for piece in pieces]


@dataclass(frozen=True)
class Fold:
    """One part of the labels held out.

    Args:
        held: the labels held out.
        known: the others.
        rows: clips that carry one of the former, then clips that do not and were left out.
        is_new: which are the former.
    """

    held: Int[Tensor, " held"]
    known: Int[Tensor, " known"]
    training: Int[Tensor, " clips"]
    rows: Int[Tensor, " asked"]
    is_new: Bool[Tensor, " asked"]


def folds(clips: Clips) -> list[Fold]:
    """Deals labels and clips, always in the same way."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(clips.names)))
    spare = torch.tensor([zlib.crc32(i.encode()) % 10 == 0 for i in clips.store.ids])
    found = []
    for held in order.tensor_split(FOLDS):
        held = held.sort().values
        known = torch.tensor(sorted(set(range(len(clips.names))) - set(held.tolist())))
        new = clips.carries[:, held].any(dim=1)
        draw = np.random.default_rng(1)
        asked = [
            torch.from_numpy(draw.permutation(np.flatnonzero(each))[:MOST_CLIPS])
            for each in (new.numpy(), (~new & spare).numpy())
        ]
        is_new = torch.arange(sum(map(len, asked))) < len(asked[0])
        training = (~new & ~spare).nonzero()[:, 0]
        found.append(Fold(held, known, training, torch.cat(asked), is_new))
    return found


def all_text(clips: Clips, fold: Fold) -> Float[Tensor, "num_labels text_dim"]:
    """Returns the text that a fold's model is asked with: of labels held out the name alone."""
    text = clips.text.clone()
    text[fold.held] = clips.asked[fold.held]
    return text


def hits(
    distances: Float[Tensor, "clips num_classes"], right: Bool[Tensor, "clips num_classes"], k: int
) -> Bool[Tensor, " clips"]:
    """Returns for which clips one of the k nearest classes is right."""
    return right.gather(1, distances.topk(k, dim=1, largest=False).indices).any(dim=1)


def harmonic(
    distances: Float[Tensor, "clips num_labels"],
    right: Bool[Tensor, "clips num_labels"],
    fold: Fold,
) -> tuple[float, float, float, float]:
    """Returns the best harmonic mean of both kinds of clips among all labels, and its gamma.

    Returns:
        Harmonic mean, share of clips of known labels that are right, that of new ones, gamma.
    """
    seen, new = distances[:, fold.known].min(dim=1), distances[:, fold.held].min(dim=1)
    seen_right = right[:, fold.known].gather(1, seen.indices[:, None])[:, 0]
    new_right = right[:, fold.held].gather(1, new.indices[:, None])[:, 0]
    margin = new.values - seen.values
    best = (0.0, 0.0, 0.0, 0.0)
    for gamma in margin.quantile(torch.linspace(0, 1, 101)).tolist():
        is_right = torch.where(margin >= gamma, seen_right, new_right).double()
        s, u = (float(is_right[each].mean()) for each in (~fold.is_new, fold.is_new))
        best = max(best, (2 * s * u / max(s + u, 1e-12), s, u, gamma))
    return best


def average_precision(
    distances: Float[Tensor, "clips num_classes"], right: Bool[Tensor, "clips num_classes"]
) -> tuple[float, float]:
    """Returns mean average precision and mean area under the curve, over classes."""
    order = distances.argsort(dim=0)
    found = right.gather(0, order).double()
    rank = torch.arange(1, len(found) + 1, dtype=torch.float64)[:, None]
    positive = found.sum(dim=0)
    precision = (found * found.cumsum(dim=0) / rank).sum(dim=0) / positive
    negative = len(found) - positive
    # Of a positive at rank r, as many negatives come before as r less the positives so far.
    before = (found * (rank - found.cumsum(dim=0))).sum(dim=0)
    area = 1 - before / (positive * negative)
    there = (positive > 0) & (negative > 0)
    return float(precision[there].mean()), float(area[there].mean())


def lists_of_names(
    distances: Float[Tensor, "clips num_held"], right: Bool[Tensor, "clips num_held"], size: int
) -> Float[Tensor, "lists size"]:
    """Returns distances from lists of names, the first of which is right and no other is."""
    draw = np.random.default_rng(size)
    found = []
    for own, of in zip(distances, right, strict=True):
        true, others = of.nonzero()[:, 0].numpy(), (~of).nonzero()[:, 0].numpy()
        wrong = draw.choice(others, size - 1, replace=False)
        found.append(own[torch.tensor([draw.choice(true), *wrong])])
    return torch.stack(found)


def calibration_error(
    distances: Float[Tensor, "clips num_classes"], right: Bool[Tensor, " clips"], temperature: float
) -> tuple[float, float]:
    """Returns the expected calibration error, every clip alike, and the mean probability."""
    chances = probabilities(distances, seen=[], gamma=0.0, temperature=temperature).amax(dim=1)
    alike = np.arange(len(distances))
    return reliability(chances.numpy(), right.numpy(), alike).error, float(chances.mean())


def try_choices(clips: Clips, dealt: list[Fold]) -> dict[Choice, list[dict[str, float]]]:
    """Returns what each choice reaches in each fold."""
    options = TextLDAConfig(audio_dim=1, visual_dim=1, text_dim=1, **SETTINGS["options"])
    tried = choices(options)
    found: dict[Choice, list[dict[str, float]]] = {choice: [] for choice in tried}
    for fold in dealt:
        fit = clips.fit(fold.training, fold.known)
        right, text = clips.carries[fold.rows], all_text(clips, fold)
        kept = None
        for epoch, choice in enumerate(tried, start=1):
            fit.solve(epoch)
            kept = clips.reduced(fit.model, fold.rows) if kept is None else kept
            vectors = fit.model.embed_text(text).class_embedding
            distances = torch.cat([fit.model.scores(each, vectors) for each in kept])
            mean, s, u, gamma = harmonic(distances, right, fold)
            new = distances[fold.is_new][:, fold.held]
            own = right[fold.is_new][:, fold.held]
            found[choice].append(
                {
                    "harmonic mean": mean,
                    "known": s,
                    "new": u,
                    "gamma": gamma,
                    "top 1": float(hits(new, own, 1).double().mean()),
                    "top 5": float(hits(new, own, 5).double().mean()),
                }
            )
    return found


def mean_of(rows: list[dict[str, float]], name: str) -> float:
    """Returns the mean of a number over folds."""
    return float(np.mean([row[name] for row in rows]))


@torch.inference_mode()
def main() -> None:
    """Makes the model and prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    start = time.perf_counter()
    clips = Clips.of(FeatureStore.open(given.store))
    dealt = folds(clips)
    tried = try_choices(clips, dealt)
    print(
        "mean over five folds: harmonic mean of both among all labels; new labels among each other"
    )
    for spread in (True, False):
        own = {c: r for c, r in tried.items() if c.spread == spread}
        best = max(own, key=lambda c: mean_of(own[c], "harmonic mean"))
        told = ", ".join(
            f"{n} {100 * mean_of(own[best], n):.1f}"
            for n in ("harmonic mean", "known", "new", "top 1", "top 5")
        )
        switch = "on" if spread else "off"
        print(f"  deviations {switch}: rho {best.rho}, lambda {best.lambda_}: {told}")
    choice = max(tried, key=lambda c: mean_of(tried[c], "harmonic mean"))
    gamma = mean_of(tried[choice], "gamma")
    print(f"chosen: {asdict(choice)}, gamma {gamma:.4f}")
    epoch = list(tried).index(choice) + 1
    measured = measure(clips, dealt, epoch, gamma)
    print(json.dumps(measured.numbers, indent=1))

    everything = torch.arange(len(clips.store))
    fit = clips.fit(everything, torch.arange(len(clips.names)))
    fit.solve(epoch)
    classes = ClassSet(clips.names, frozenset(clips.names))
    trained = TrainedModel(
        "textlda",
        fit.model.eval(),
        clips.store.spec,
        classes,
        ClassText({"text": clips.text}),
        gamma,
        Experiment.from_layers(SETTINGS),
        measured.temperature,
        measured.conformity,
    )
    save_model(given.out, trained, compact=True)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes, {time.perf_counter() - start:.0f} s")


@dataclass(frozen=True)
class Measured:
    """What the five models of the chosen settings say.

    Args:
        temperature: of probabilities.
        conformity: of clips with a single label.
        numbers: for people.
    """

    temperature: float
    conformity: Conformity
    numbers: dict[str, float]


def measure(clips: Clips, dealt: list[Fold], epoch: int, gamma: float) -> Measured:
    """Measures what the chosen settings reach, with gamma as the last model has it."""
    rows: list[dict[str, float]] = []
    lists: dict[int, list[Tensor]] = {size: [] for size in CANDIDATES}
    alone: list[tuple[Tensor, Tensor, Fold]] = []
    every: list[tuple[Tensor, Tensor]] = []
    for fold in dealt:
        fit = clips.fit(fold.training, fold.known)
        fit.solve(epoch)
        vectors = fit.model.embed_text(all_text(clips, fold)).class_embedding
        kept = clips.reduced(fit.model, fold.rows)
        distances = torch.cat([fit.model.scores(each, vectors) for each in kept])
        right = clips.carries[fold.rows]
        single = right.sum(dim=1) == 1
        new, own = distances[fold.is_new][:, fold.held], right[fold.is_new][:, fold.held]
        precision, area = average_precision(new, own)
        added = calibrated(distances, seen=fold.known, gamma=gamma).float()
        one = single[fold.is_new]
        row = {
            "chance top 1": float(own.double().mean()),
            "top 1": float(hits(new, own, 1).double().mean()),
            "top 5": float(hits(new, own, 5).double().mean()),
            "mAP": precision,
            "AUC": area,
            "single label: clips": float(one.sum()),
            "single label: top 1": float(hits(new[one], own[one], 1).double().mean()),
            "single label: top 5": float(hits(new[one], own[one], 5).double().mean()),
        }
        for name, kind in (("new", fold.is_new), ("known", ~fold.is_new)):
            for k in (1, 5):
                row[f"{name} among all, top {k}"] = float(
                    hits(added[kind], right[kind], k).double().mean()
                )
        rows.append(row)
        for size in CANDIDATES:
            lists[size].append(lists_of_names(new[:1000], own[:1000], size))
        alone.append((distances[single], right[single].double().argmax(dim=1), fold))
        every.append((added, hits(added, right, 1)))
    drawn = {size: torch.cat(each) for size, each in lists.items()}
    # One temperature for lists of any length: the mean of those that fit each.
    fitted = [
        fit_temperature(each, torch.zeros(len(each), dtype=torch.int64), seen=[], gamma=0.0)
        for each in drawn.values()
    ]
    temperature = float(np.exp(np.mean(np.log(fitted))))
    numbers = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    numbers["temperature"] = temperature
    for (size, each), best in zip(drawn.items(), fitted, strict=True):
        is_right = each.argmin(dim=1) == 0
        error, chance = calibration_error(each, is_right, temperature)
        numbers |= {
            f"{size} names: temperature": best,
            f"{size} names: top 1": float(is_right.double().mean()),
            f"{size} names: mean probability": chance,
            f"{size} names: calibration error": error,
        }
    added, is_right = torch.cat([a for a, _ in every]), torch.cat([r for _, r in every])
    error, chance = calibration_error(added, is_right, temperature)
    numbers |= {"all names: mean probability": chance, "all names: calibration error": error}
    numbers["all names: top 1"] = float(is_right.double().mean())
    halves = [
        conformity(d, labels, seen=fold.known, temperature=temperature) for d, labels, fold in alone
    ]
    scores = {
        half: np.sort(np.concatenate([getattr(each, half) for each in halves]))
        for half in ("seen", "unseen")
    }
    every_nth = {half: max(1, len(s) // MOST_SCORES) for half, s in scores.items()}
    return Measured(
        temperature,
        Conformity(**{half: s[:: every_nth[half]] for half, s in scores.items()}),
        numbers,
    )


if __name__ == "__main__":
    main()
