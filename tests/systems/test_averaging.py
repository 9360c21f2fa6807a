"""What CJME, AVGZSLNet and AVCA have in common: they see averaged clips of both modalities."""

from dataclasses import replace

import pytest
import torch
from write_pairs import AUDIO_DIM, CLASSES, TEXT, TEXT_DIM, VISUAL_DIM, pairs

from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.systems.registry import SYSTEMS

JOINT_DIM = 17


@pytest.fixture(params=["cjme", "avgzslnet", "avca"])
def build(request):
    """Builds one of the three systems."""
    system = SYSTEMS[request.param]
    dims = {"audio_dim": AUDIO_DIM, "visual_dim": VISUAL_DIM, "text_dim": TEXT_DIM}
    plain = {"joint_dim": JOINT_DIM, "audio_scaling": "none", "visual_scaling": "none"}

    def make(**settings):
        with seeded(0, "model"):
            return system.model(system.config(**{**dims, **plain, **settings}))

    return make


@pytest.mark.parametrize("scaling", ["audio_scaling", "visual_scaling"])
def test_features_are_scaled(build, scaling):
    batch, classes = pairs(0)[0], torch.zeros(CLASSES, 17)
    plain, scaled = (build(**{scaling: kind}).eval() for kind in ("none", "l2"))
    name = scaling.removesuffix("_scaling")
    packed = batch.modality(name)
    larger = replace(batch, **{name: packed.with_tokens(10 * packed.tokens)})
    moved = [(m(larger).video_embedding - m(batch).video_embedding).abs() for m in (plain, scaled)]
    assert moved[0].max() > 0.01
    assert moved[1].max() < 1e-5
    assert not torch.allclose(plain.scores(batch, classes), scaled.scores(batch, classes))


def test_order_in_time_is_of_no_account(build):
    batch, _ = pairs(0)
    model, classes = build().eval(), torch.randn(CLASSES, 17, generator=generator(0, "classes"))
    ends = batch.audio.lens.cumsum(dim=0).tolist()
    backwards = torch.cat(
        [torch.arange(end - 1, start - 1, -1) for start, end in zip([0, *ends], ends, strict=False)]
    )
    turned = replace(
        batch,
        audio=batch.audio.with_tokens(batch.audio.tokens[backwards]),
        visual=batch.visual.with_tokens(batch.visual.tokens[backwards]),
    )
    scores = model.scores(batch, classes)
    torch.testing.assert_close(model.scores(turned, classes), scores)
    rolled = replace(batch, visual=batch.visual.with_tokens(batch.visual.tokens.roll(1, dims=0)))
    assert not torch.allclose(model.scores(rolled, classes), scores)


@pytest.mark.parametrize(("audio", "visual"), [([0, 2], [3, 1]), ([2, 1], [0, 3]), ([0], [2])])
def test_a_clip_without_one_modality(build, random_batch, audio, visual):
    model = build().eval()
    scores = model.scores(
        random_batch(audio, visual, audio_dim=5, visual_dim=11),
        model.embed_text(TEXT).class_embedding,
    )
    assert scores.shape == (len(audio), CLASSES)
    assert bool(scores.isfinite().all())


@pytest.mark.parametrize(("dims", "message"), [((3, 11), "audio.*5.*3"), ((5, 7), "visual.*11.*7")])
def test_features_of_another_size(build, random_batch, dims, message):
    with pytest.raises(TCAFError, match=message):
        build().eval()(random_batch([2], [3], audio_dim=dims[0], visual_dim=dims[1]))


def test_a_training_batch_of_one_clip(build, random_batch):
    with pytest.raises(TCAFError, match="single sample"):
        build().train()(random_batch([2], [3], audio_dim=5, visual_dim=11))
