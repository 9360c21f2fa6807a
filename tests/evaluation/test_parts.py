from dataclasses import replace

import numpy as np
import pytest
import torch

from tcaf.data.batches import load_batch
from tcaf.data.windows import Windows
from tcaf.errors import TCAFError
from tcaf.evaluation.gzsl import GAMMAS, evaluate
from tcaf.evaluation.parts import EvaluationPart, distances, evaluate_part
from tcaf.systems.interface import ZeroShotModel
from tcaf.text.spaces import ClassText

WINDOWS = Windows(window_s=5.0)


@pytest.fixture(scope="module")
def part(tiny_store):
    text = tiny_store.text("attributes")
    classes = tiny_store.split("cls").stage_1
    return EvaluationPart(
        tiny_store,
        tiny_store.rows("cls", "val"),
        classes,
        ClassText.of({"text": text}, classes.names),
    )


@pytest.fixture
def model(small_model, part):
    return small_model(text_dim=part.class_text.dims["text"])


def test_labels_are_columns(part):
    for row, label in zip(part.rows, part.labels.tolist(), strict=True):
        assert part.classes.names[label] == part.store.class_names[row]


def test_distances_by_loops(model, part):
    found = distances(model, part, WINDOWS, batch_size=7)
    assert found.shape == (len(part.rows), len(part.classes))
    with torch.no_grad():
        classes = model.embed_text(part.class_text["text"]).class_embedding
        for clip in (0, 6, 7, len(part.rows) - 1):
            alone = model(load_batch(part.store, part.rows[[clip]], WINDOWS)).video_embedding
            expected = (alone - classes).square().sum(dim=1).sqrt()
            torch.testing.assert_close(found[clip], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 13, 997])
def test_batch_size_changes_no_number(model, part, batch_size):
    found = distances(model, part, WINDOWS, batch_size=batch_size)
    torch.testing.assert_close(found, distances(model, part, WINDOWS), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 17, 10_000])
def test_how_much_is_read_at_once_changes_no_number(model, part, monkeypatch, most):
    expected = evaluate_part(model, part, WINDOWS, gammas=GAMMAS)
    monkeypatch.setattr("tcaf.data.batches.MOST_TOKENS", most)
    found = evaluate_part(model, part, WINDOWS, gammas=GAMMAS)
    assert found.scores() == pytest.approx(expected.scores())
    assert found.decisions.labels.tolist() == expected.decisions.labels.tolist()
    np.testing.assert_allclose(found.decisions.margin, expected.decisions.margin, atol=1e-6)


def test_evaluation_leaves_the_model_in_eval_mode_and_unchanged(model, part):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    distances(model.train(), part, WINDOWS)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("gamma", [None, 0.2])
def test_evaluate_part_is_gzsl_on_these_embeddings(model, part, gamma):
    with torch.no_grad():
        videos = model(load_batch(part.store, part.rows, WINDOWS)).video_embedding
        classes = model.embed_text(part.class_text["text"]).class_embedding
    expected = evaluate(
        videos,
        classes,
        part.labels,
        seen=part.classes.seen_ids,
        unseen=part.classes.unseen_ids,
        gamma=0.2 if gamma is None else gamma,
    )
    # A grid that differs from the paper's: of one gamma.
    found = evaluate_part(model, part, WINDOWS, gamma=gamma, gammas=(0.2,), batch_size=7)
    assert found.scores() == pytest.approx(expected.scores())
    assert found.decisions.labels.tolist() == part.labels.tolist()


def test_order_of_classes_is_of_no_account(model, part):
    order = np.random.default_rng(0).permutation(len(part.classes))
    moved = replace(
        part,
        classes=replace(part.classes, names=tuple(part.classes.names[i] for i in order)),
        class_text=part.class_text.select(order),
    )
    assert moved.labels.tolist() == order.argsort()[part.labels].tolist()
    results = [evaluate_part(model, p, WINDOWS, gammas=GAMMAS[:2]) for p in (part, moved)]
    assert results[0].scores() == pytest.approx(results[1].scores())


def test_any_system_with_the_interface_is_taken(part):
    class Oracle:
        """Knows nothing of clips: the first class is always the nearest."""

        config, modalities = None, ("audio", "visual")

        def embed_text(self, text_embedding):
            from tcaf.systems.joint_space import TextOutput

            return TextOutput(text_embedding, text_embedding)

        def scores(self, batch, class_embedding):
            return torch.arange(float(len(class_embedding))).expand(len(batch), -1)

        def eval(self):
            pass

    assert isinstance(Oracle(), ZeroShotModel)
    result = evaluate_part(Oracle(), part, WINDOWS, gamma=0.0, gammas=())
    assert result.decisions.predicted(0.0).tolist() == [0] * len(part.rows)


def test_tcaf_has_the_interface(small_model):
    assert isinstance(small_model(), ZeroShotModel)


def test_errors(model, part):
    empty = replace(part, rows=part.rows[:0])
    message = f"nothing to evaluate: store {part.store.path} has no clips in this part"
    with pytest.raises(TCAFError, match=message):
        distances(model, empty, WINDOWS)
    strange = replace(part, rows=part.store.rows("cls", "test_unseen"))
    with pytest.raises(TCAFError, match="unknown class"):
        evaluate_part(model, strange, WINDOWS, gammas=GAMMAS)
    model.class_token.data.fill_(torch.nan)
    with pytest.raises(TCAFError, match="clip 0 has a NaN or infinite distance"):
        evaluate_part(model, part, WINDOWS, gammas=GAMMAS)
