from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from write_pairs import clips_of

from tcaf.data.batches import FeatureBatch
from tcaf.data.packed import Packed
from tcaf.errors import TCAFError
from tcaf.seeding import generator, seeded
from tcaf.settings.experiment import Experiment
from tcaf.settings.sections import ModelSettings
from tcaf.systems.registry import configure
from tcaf.systems.tcaf_cosine import TCAFCosine, TCAFCosineConfig, tcaf_cosine_objective

NO_DROPOUT = {
    f.name: 0.0 for f in ModelSettings.__dataclass_fields__.values() if "dropout" in f.name
}
TEXT = F.normalize(torch.randn(7, 11, generator=generator(0, "text")), dim=1)


@pytest.fixture(scope="module")
def build(small_config):
    def make(seed=0, **settings):
        with seeded(seed, "model"):
            return TCAFCosine(TCAFCosineConfig(**{**vars(small_config()), **settings}))

    return make


@torch.no_grad()
def test_the_head_is_a_linear_map_of_a_block_at_unit_length(build, small_model, random_batch):
    model, batch = build().eval(), random_batch([2, 0, 3], [3, 4, 0])
    # Encoders and transformer are TCaF's, name by name.
    shared = small_model().state_dict()
    own = {n: t for n, t in shared.items() if n in model.state_dict() and "projection" not in n}
    model.load_state_dict(own, strict=False)
    head, token = model.video_projection, small_model().transform(batch)
    torch.testing.assert_close(model.transform(batch), token)
    expected = head[1].weight @ head[0](token).T + head[1].bias[:, None]
    expected = (expected / expected.norm(dim=0)).T
    torch.testing.assert_close(model(batch).video_embedding, expected)
    assert (expected < 0).any()


@torch.no_grad()
def test_classes_are_seen_from_the_mean_of_the_seen_ones(build):
    model = build()
    seen = torch.tensor([[3.0, 0.0], [1.0, 4.0]])
    seen = F.pad(seen, (0, 9))
    # Mean (2, 2): (1, -2) and (-1, 2) are left.
    side = torch.tensor([1.0, -2.0]) / 5**0.5
    found = model.train().embed_text(seen).class_embedding
    torch.testing.assert_close(found[:, :2], torch.stack([side, -side]))
    # Later from the same place, whatever the candidates: (2, 5) is (0, 3) from it.
    other = F.pad(torch.tensor([[2.0, 5.0]]), (0, 9))
    found = model.eval().embed_text(other).class_embedding
    torch.testing.assert_close(found[0, :2], torch.tensor([0.0, 1.0]))


@torch.no_grad()
def test_distances_and_loss_by_hand(build, random_batch):
    model, batch = build(temperature=0.5, **NO_DROPOUT), random_batch([2, 1, 3], [3, 4, 2])
    batch = replace(batch, labels=torch.tensor([4, 0, 6]))
    experiment = Experiment()
    model.train()
    losses = tcaf_cosine_objective(model, batch, None, TEXT, experiment)
    assert list(losses.named) == ["cross_entropy"]
    clips, centred = model(batch).video_embedding, TEXT - TEXT.mean(dim=0)
    cosines = torch.stack([F.cosine_similarity(clip[None], centred) for clip in clips])
    exponents = (cosines / 0.5).exp()
    right = exponents[torch.arange(3), batch.labels] / exponents.sum(dim=1)
    torch.testing.assert_close(losses.total, -right.log().mean())
    distances = model.scores(batch, model.embed_text(TEXT).class_embedding)
    torch.testing.assert_close(distances, 1 - cosines)


def test_every_parameter_gets_a_gradient(build):
    model = build().train()
    batch = clips_of(torch.arange(35) % 7, 1, visual_dim=7, shortest=1)
    tcaf_cosine_objective(model, batch, None, TEXT, Experiment()).total.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.slow
def test_it_learns_classes_that_it_has_not_seen(build):
    """Features are a linear map of text: 5 classes beside the 30 learnt ones, 20 % by chance."""
    text = F.normalize(torch.randn(35, 11, generator=generator(0, "many")), dim=1)

    def clips(labels, seed):
        ones, zeros = torch.ones(len(labels), dtype=torch.int64), torch.zeros(len(labels))
        packed = []
        for name, dim in (("audio", 5), ("visual", 7)):
            place = text @ torch.randn(11, dim, generator=generator(0, name))
            noise = 0.1 * torch.randn(len(labels), dim, generator=generator(seed, name))
            packed.append(Packed(place[labels] + noise, ones, zeros))
        return FeatureBatch(*packed, labels=labels)

    model = build(**{**NO_DROPOUT, "visual_scaling": "none"}).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(150):
        labels = torch.randint(30, (97,), generator=generator(step, "labels"))
        loss = tcaf_cosine_objective(model, clips(labels, step), None, text[:30], Experiment())
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    model.eval()
    labels = torch.arange(30, 35).repeat(20)
    with torch.no_grad():
        distances = model.scores(clips(labels, 999), model.embed_text(text[30:]).class_embedding)
    assert (distances.argmin(dim=1) + 30 == labels).double().mean() > 0.6


def test_it_is_built_from_tcafs_settings():
    experiment = Experiment(
        system="tcaf_cosine",
        model=ModelSettings(token_dim=13, joint_dim=17),
        options={"temperature": 0.3},
    )
    config = configure(experiment, audio_dim=5, visual_dim=7, text_dim=11)
    assert (config.token_dim, config.temperature) == (13, 0.3)
    with pytest.raises(TCAFError, match=r"options\.temperature must be above 0, got 0"):
        TCAFCosineConfig(audio_dim=5, visual_dim=7, text_dim=11, temperature=0.0)
