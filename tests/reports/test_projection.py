import numpy as np
import pytest

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.reports.projection import (
    choose_classes,
    choose_clips,
    fitting_perplexity,
    tsne,
    tsne_with_classes,
)

pytest.importorskip("sklearn")

CENTRES = np.array([[9.0, 0, 0, 0, 0], [0, 9, 0, 0, 0], [0, 0, 9, 0, 0]])


def clouds(each=11):
    labels = np.repeat(np.arange(3), each)
    noise = np.random.default_rng(0).normal(size=(len(labels), 5))
    return CENTRES[labels] + noise, labels


def nearest(points, centres):
    return np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(axis=1)


def test_groups_stay_groups():
    points, labels = clouds()
    placed = tsne(points, 0)
    centres = np.stack([placed[labels == label].mean(axis=0) for label in range(3)])
    assert (nearest(placed, centres) == labels).all()


def test_classes_lie_among_their_clips():
    points, labels = clouds()
    clips, classes = tsne_with_classes(points, CENTRES, 0)
    assert clips.shape == (33, 2)
    centres = np.stack([clips[labels == label].mean(axis=0) for label in range(3)])
    assert nearest(classes, centres).tolist() == [0, 1, 2]


def test_the_map_is_reproducible():
    points, _ = clouds()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert (tsne(points, 3) == tsne(points, 3)).all()
    assert (tsne(points.astype(np.float32), 3) == tsne(points.astype(np.float32), 3)).all()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize("num_points", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_few_points(num_points, dim):
    points = np.random.default_rng(1).normal(size=(num_points, dim))
    placed = tsne(points, 0)
    assert placed.shape == (num_points, 2)
    assert np.isfinite(placed).all()
    assert len(np.unique(placed, axis=0)) == num_points


def test_equal_points():
    placed = tsne(np.ones((5, 3)), 0)
    assert placed.shape == (5, 2)
    assert np.isfinite(placed).all()


def test_perplexity_fits():
    # As asked for from 3 x 30 + 1 points on; below, a third of the others; never below 1.
    found = [fitting_perplexity(num) for num in (1000, 91, 31, 4, 2)]
    assert found == [30, 30, 10, 1, 1]
    assert fitting_perplexity(1000, 50.0) == 50


def test_numbers_must_be_finite():
    points = np.zeros((5, 2))
    points[3, 1] = np.nan
    with pytest.raises(TCAFError, match="finite numbers; point 3"):
        tsne(points, 0)


#                    clips   a  b  c  d  e  f  u  v  w
LABELS = np.repeat(range(9), [3, 5, 0, 5, 9, 1, 2, 4, 4])
CLASSES = ClassSet(tuple("abcdefuvw"), frozenset("abcdef"))


def test_default_classes_have_most_clips():
    chosen = choose_classes(CLASSES, LABELS, num_seen=3)
    # e 9, then b and d 5; v and w 4.
    assert chosen.names == ("b", "d", "e", "v", "w")
    assert chosen.seen == {"b", "d", "e"}
    # Of equals the first by name; c has no clip.
    assert choose_classes(CLASSES, LABELS, num_seen=2, num_unseen=1).names == ("b", "e", "v")
    assert choose_classes(CLASSES, LABELS, num_seen=9).names == tuple("abdefvw")
    assert len(choose_classes(CLASSES, LABELS)) == 7


def test_named_classes():
    chosen = choose_classes(CLASSES, LABELS, ["u", "a"])
    assert chosen.names == ("u", "a")
    assert chosen.seen == {"a"}
    with pytest.raises(TCAFError, match="class 'c' has no clip"):
        choose_classes(CLASSES, LABELS, ["a", "c"])
    with pytest.raises(TCAFError, match="unknown class 'x'"):
        choose_classes(CLASSES, LABELS, ["x"])


def test_clips_are_drawn_by_seed():
    chosen = choose_classes(CLASSES, LABELS, ["v", "e"])
    rows, labels = choose_clips(CLASSES, LABELS, chosen, per_class=5, seed=0)
    assert (np.diff(rows) > 0).all()
    # All 4 clips of v, which is class 0 of those chosen, and 5 of e's 9.
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 5
    assert (LABELS[rows] == np.where(labels == 0, 7, 4)).all()
    again, _ = choose_clips(CLASSES, LABELS, chosen, per_class=5, seed=0)
    assert (rows == again).all()
    others = [choose_clips(CLASSES, LABELS, chosen, per_class=5, seed=s)[0] for s in range(1, 9)]
    assert any((rows != other).any() for other in others)
    # The clips of e do not depend on what else is shown.
    alone, _ = choose_clips(
        CLASSES, LABELS, choose_classes(CLASSES, LABELS, ["e"]), per_class=5, seed=0
    )
    assert alone.tolist() == rows[labels == 1].tolist()


def test_at_least_one_clip_per_class():
    with pytest.raises(TCAFError, match="at least one clip per class, got 0"):
        choose_clips(CLASSES, LABELS, CLASSES, per_class=0, seed=0)
