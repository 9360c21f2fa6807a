"""What the ready model `imagenet` knows of names that it was not made from, and how sure it may be.

    python -m benchmarks.ready_imagenet

prints two tables. *Held-out classes*: of five parts of the 1,000 classes each is predicted from the
other four by name; asked with a class's own row of the network's classifier, how often is its
prediction the nearest of the part's 200? *Photographs*: those that come with scikit-image (which
has to be installed) and scikit-learn, with names that somebody gave them who looked at them; gamma
and temperature of the model follow from them. No video is looked at.
"""

import csv
import importlib.util
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tcaf.answers.classifier import ZeroShotClassifier
from tcaf.answers.imagenet import predicting_read_out
from tcaf.data.features import VideoFeatures
from tcaf.extract.backbones import open_backbone
from tcaf.extract.efficientnet import classifier_rows
from tcaf.pretrained.imagenet_classes import imagenet_text

PHOTOGRAPHS = {
    "astronaut": "astronaut in a space suit",
    "brick": "brick wall",
    "camera": "man taking photographs",
    "chelsea": "cat purring",
    "china": "temple",
    "clock_motion": "clock ticking",
    "coffee": "drinking a cup of coffee",
    "coins": "counting coins",
    "flower": "flower blooming",
    "grass": "mowing the lawn",
    "gravel": "gravel on the ground",
    "horse": "horse riding",
    "hubble_deep_field": "stars and galaxies",
    "moon": "the moon at night",
    "motorcycle_left": "motorcycle racing",
    "page": "reading a book page",
    "retina": "human eye",
    "rocket": "rocket launch",
    "text": "handwriting",
}
"""Files, without their suffix, and what they were called before any answer was seen."""

BENCHMARKS = ("activitynet.csv", "ucf.csv", "vggsound.csv")
"""Whose names stand beside those of the photographs."""

FOLDS = 5
CANDIDATES = (5, 10, 20, 50, 100)
DRAWS = 40


def held_out(
    rows: Float[Tensor, "classes dim"],
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    text: Float[Tensor, "classes text_dim"],
) -> tuple[float, float]:
    """Returns how often the nearest, and one of the five nearest, predictions is the right one."""
    order = np.random.default_rng(0).permutation(len(rows))
    ranks = []
    for fold in np.array_split(order, FOLDS):
        others = np.setdiff1d(order, fold)
        vectors = F.normalize(predict(rows[others], text[others], text[fold]), dim=1)
        own = F.normalize(rows[fold] - rows[others].mean(dim=0), dim=1)
        alike = own @ vectors.T
        ranks.append((alike >= alike.diag()[:, None]).sum(dim=1))
    rank = torch.cat(ranks)
    return float((rank == 1).float().mean()), float((rank <= 5).float().mean())


def by_kernel(rows: Tensor, text: Tensor, asked: Tensor) -> Tensor:
    """As the model does it."""
    read_out, mean = predicting_read_out(rows, text)
    return read_out.classes(F.normalize(asked - mean, dim=1))


def by_line(rows: Tensor, text: Tensor, asked: Tensor) -> Tensor:
    """Linear in centred text, with the regulariser at which that is best."""
    mean = text.mean(dim=0)
    phi, new = (F.normalize(each - mean, dim=1) for each in (text, asked))
    kernel = phi @ phi.T + 10 * torch.eye(len(phi))
    return new @ phi.T @ torch.linalg.solve(kernel, rows - rows.mean(dim=0))


def by_nearest_name(rows: Tensor, text: Tensor, asked: Tensor) -> Tensor:
    """The row of the class whose name is nearest."""
    return rows[(asked @ text.T).argmax(dim=1)] - rows.mean(dim=0)


def photographs() -> dict[str, UInt8[np.ndarray, "height width 3"]]:
    """Reads the photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    package = importlib.util.find_spec("skimage")  # its pictures need none of its code
    assert package is not None, "pip install scikit-image"
    assert package.origin is not None, "scikit-image as a zip has no files"
    folder = Path(package.origin).parent / "data"
    found = {}
    for name in PHOTOGRAPHS:
        if name in ("china", "flower"):
            found[name] = load_sample_image(f"{name}.jpg")
            continue
        (file,) = folder.glob(f"{name}.*g")
        found[name] = np.asarray(Image.open(file).convert("RGB"))
    return found


def features(picture: UInt8[np.ndarray, "height width 3"], network: Any) -> VideoFeatures:
    """Returns the features of the middle of a picture and of two corners, as three tokens."""
    from PIL import Image

    height, width = picture.shape[:2]
    side = min(height, width)
    part = int(0.8 * side)
    corners = [((height - side) // 2, (width - side) // 2, side), (0, 0, part)]
    corners.append((height - part, width - part, part))
    crops = [Image.fromarray(picture[y : y + s, x : x + s]) for y, x, s in corners]
    frames = np.stack([np.asarray(c.resize((224, 224), Image.Resampling.BICUBIC)) for c in crops])
    return VideoFeatures("", np.zeros((0, 1), np.float32), network.embed(frames[:, None]))


def benchmark_names(file: str) -> set[str]:
    """Returns the names of a benchmark's classes, in words and small letters."""
    path = Path(str(resources.files("tcaf") / "benchmarks" / file))
    with path.open(encoding="utf-8", newline="") as opened:
        return {row["words"].lower() for row in csv.DictReader(opened)}


def likelihood(distances: Sequence[Float[np.ndarray, " names"]], temperature: float) -> float:
    """Returns the mean negative logarithm of the probability of the first name of each set."""
    losses = [d[0] / temperature + np.logaddexp.reduce(-d / temperature) for d in distances]
    return float(np.mean(losses))


def gain_of_being_known(
    rows: Float[Tensor, "classes dim"],
    text: Float[Tensor, "classes text_dim"],
    pooled: Float[Tensor, "pictures dim"],
) -> float:
    """Returns how much nearer a picture is to a class by its row than as others predict it.

    The mean over classes, weighed by the probability that the network itself gives them.
    """
    predicted = torch.empty_like(rows)
    order = np.random.default_rng(0).permutation(len(rows))
    for fold in np.array_split(order, FOLDS):
        others = np.setdiff1d(order, fold)
        predicted[fold] = by_kernel(rows[others], text[others], text[fold])
    z = F.normalize(pooled, dim=1)
    own = z @ F.normalize(rows - rows.mean(dim=0), dim=1).T
    others_say = z @ F.normalize(predicted, dim=1).T
    weights = (pooled @ rows.T).softmax(dim=1)
    return float((weights * (own - others_say)).sum(dim=1).mean())


def main() -> None:
    """Prints the tables."""
    rows, text = classifier_rows(), imagenet_text()
    print("held-out classes, top 1 and top 5 of 200 (percent)")
    for title, predict in (
        ("kernel regression", by_kernel),
        ("linear in text", by_line),
        ("the row of the nearest name", by_nearest_name),
    ):
        first, five = held_out(rows, predict, text)
        print(f"  {title:28} {100 * first:5.1f} {100 * five:5.1f}")

    network = open_backbone("efficientnet_lite0:frames=1", "visual")
    videos = {name: features(picture, network) for name, picture in photographs().items()}
    classifier = ZeroShotClassifier.load("imagenet")
    own_names = list(PHOTOGRAPHS.values())
    names = list(
        dict.fromkeys([*own_names, *sorted(set().union(*map(benchmark_names, BENCHMARKS)))])
    )
    classifier.set_classes(names)
    found, ranks = {}, []
    for name, right in PHOTOGRAPHS.items():
        answers = classifier.classify(videos[name], top_k=len(names)).answers
        found[name] = {answer.name: answer.distance for answer in answers}
        ranks.append(sum(found[name][other] <= found[name][right] for other in own_names))
    rank = np.array(ranks)
    print(
        f"{len(rank)} photographs among their own names: top 1 {100 * np.mean(rank == 1):.0f}, "
        f"top 5 {100 * np.mean(rank <= 5):.0f} (percent)"
    )

    rng = np.random.default_rng(0)
    sets = []
    for name, right in PHOTOGRAPHS.items():
        for number in CANDIDATES:
            for _ in range(DRAWS):
                wrong = rng.choice(len(names), number - 1, replace=False)
                asked = [right, *(names[i] for i in wrong if names[i] != right)]
                sets.append(np.array([found[name][each] for each in asked]))
    tried = np.geomspace(0.01, 1, 81)
    losses = [likelihood(sets, float(temperature)) for temperature in tried]
    best = float(tried[int(np.argmin(losses))])
    sure = [np.exp(-d / best) / np.exp(-d / best).sum() for d in sets]
    right = np.mean([d.argmin() == 0 for d in sets])
    print(
        f"temperature {best:.3f}: among {' to '.join(map(str, (CANDIDATES[0], CANDIDATES[-1])))} "
        f"names {100 * right:.0f} % are right, at {100 * np.mean([p.max() for p in sure]):.0f} % "
        "probability in the mean"
    )
    pooled = torch.from_numpy(np.stack([video.visual.mean(axis=0) for video in videos.values()]))
    print(f"gamma {gain_of_being_known(rows, text, pooled):.3f}")


if __name__ == "__main__":
    main()
