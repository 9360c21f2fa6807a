"""t-SNE maps, and which classes and clips they show.

Owns Figure 3's arithmetic: the choice of classes and clips, and their places on a plane. Draws
nothing and reads nothing. scikit-learn (extra `plot`) is imported inside functions.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.reports.theme import extra
from tcaf.seeding import derive_seed

PERPLEXITY = 30.0
"""The usual one (van der Maaten and Hinton, 2008); fewer points take a smaller one."""


def fitting_perplexity(num_points: int, perplexity: float = PERPLEXITY) -> float:
    """Returns `perplexity`, or a third of the other points where there are few."""
    return min(perplexity, max((num_points - 1) / 3, 1.0))


def _principal_plane(
    points: Float[np.ndarray, "points dim"],
) -> Float[np.ndarray, "points 2"]:
    """Returns the first two principal components, of the size that t-SNE starts from."""
    centred = points - points.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(points), 2))
    found = min(2, len(sizes))
    plane[:, :found] = left[:, :found] * sizes[:found]
    # A component's sign is any; its largest entry is made positive.
    largest = plane[np.abs(plane).argmax(axis=0), [0, 1]]
    plane *= np.where(largest < 0, -1.0, 1.0)
    spread = plane[:, 0].std()
    return plane * (1e-4 / spread if spread > 0 else 1.0)


def tsne(
    points: Float[np.ndarray, "points dim"], seed: int, perplexity: float = PERPLEXITY
) -> Float[np.ndarray, "points 2"]:
    """Lays points out on a plane by t-SNE, starting from their principal plane.

    The same points and seed give the same map on the same machine: one thread computes it.

    Args:
        points: any number, also none.
        seed: of what little t-SNE draws.
        perplexity: about how many neighbours a point has; see `fitting_perplexity`.

    Raises:
        TCAFError: a value is NaN or infinite, or scikit-learn is not installed.
    """
    if not np.isfinite(points).all():
        row = int(np.argwhere(~np.isfinite(points))[0, 0])
        raise TCAFError(f"t-SNE needs finite numbers; point {row} has others")
    wide = points.astype(np.float64)
    manifold, threads = extra("sklearn.manifold"), extra("threadpoolctl")
    if len(points) < 3 or not np.ptp(wide, axis=0).any():
        # Nothing to arrange: on a line, or all in one place.
        return np.stack([np.arange(len(points)), np.zeros(len(points))], axis=1).astype(float)
    with threads.threadpool_limits(limits=1):
        placed = manifold.TSNE(
            perplexity=fitting_perplexity(len(points), perplexity),
            init=_principal_plane(wide),
            learning_rate="auto",
            random_state=derive_seed(seed, "tsne") % 2**32,
            n_jobs=1,
        ).fit_transform(wide)
    return np.asarray(placed, np.float64)


def tsne_with_classes(
    video_embedding: Float[np.ndarray, "clips dim"],
    class_embedding: Float[np.ndarray, "num_classes dim"],
    seed: int,
    perplexity: float = PERPLEXITY,
) -> tuple[Float[np.ndarray, "clips 2"], Float[np.ndarray, "num_classes 2"]]:
    """Lays clips and classes out on one plane, as points of one t-SNE.

    t-SNE cannot place further points afterwards, so that classes have to be among those that it
    arranges. Distances between far groups mean nothing; which points are neighbours does.

    Raises:
        TCAFError: see `tsne`.
    """
    joined = np.concatenate([video_embedding, class_embedding])
    placed = tsne(joined, seed, perplexity)
    return placed[: len(video_embedding)], placed[len(video_embedding) :]


def choose_classes(
    classes: ClassSet,
    labels: Int[np.ndarray, " clips"],
    names: Sequence[str] | None = None,
    *,
    num_seen: int = 5,
    num_unseen: int = 2,
) -> ClassSet:
    """Chooses the classes of a map: those named, or as in Figure 3 five seen and two unseen.

    Args:
        classes: to choose among.
        labels: class of each clip that could be shown.
        names: the classes wanted, in this order; None takes those with most clips, of equals the
            first by name.
        num_seen: how many seen classes where none are named.
        num_unseen: how many unseen ones.

    Returns:
        The chosen classes, seen ones first unless they were named.

    Raises:
        TCAFError: an unknown name, or one without clips.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if names is not None:
        wanted = classes.ids(names)
        if empty := [name for name, i in zip(names, wanted, strict=True) if not counts[i]]:
            raise TCAFError(f"class {empty[0]!r} has no clip to show")
        return ClassSet(tuple(names), classes.seen & frozenset(names))
    chosen: list[str] = []
    for ids, number in ((classes.seen_ids, num_seen), (classes.unseen_ids, num_unseen)):
        filled = [i for i in ids.tolist() if counts[i]]
        filled.sort(key=lambda i: (-counts[i], classes.names[i]))
        chosen += sorted(classes.names[i] for i in filled[:number])
    return ClassSet(tuple(chosen), classes.seen & frozenset(chosen))


def choose_clips(
    classes: ClassSet,
    labels: Int[np.ndarray, " clips"],
    chosen: ClassSet,
    *,
    per_class: int,
    seed: int,
) -> tuple[Int[np.ndarray, " shown"], Int[np.ndarray, " shown"]]:
    """Draws at most `per_class` clips of each chosen class.

    Which clips of a class are drawn depends on the seed, its name and its clips alone.

    Args:
        classes: what `labels` index.
        labels: class of each clip.
        chosen: the classes to show, from `choose_classes`.
        per_class: at most so many of each.
        seed: of the draw.

    Returns:
        Which clips, ascending, and the index of each one's class in `chosen`.

    Raises:
        TCAFError: a chosen class is not in `classes`, or `per_class` is not positive.
    """
    if per_class < 1:
        raise TCAFError(f"a map needs at least one clip per class, got {per_class}")
    drawn: dict[int, int] = {}
    for number, name in enumerate(chosen.names):
        rows = np.flatnonzero(labels == classes.ids([name])[0])
        order = np.random.default_rng(derive_seed(seed, "map", name)).permutation(len(rows))
        drawn |= dict.fromkeys(rows[order[:per_class]].tolist(), number)
    shown = sorted(drawn)
    return np.array(shown, np.int64), np.array([drawn[row] for row in shown], np.int64)
