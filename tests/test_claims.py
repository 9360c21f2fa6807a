"""What the paper claims, on a world where it can be true or false: time matters."""

from dataclasses import replace

import pytest

from tcaf.evaluation.gzsl import score
from tcaf.experiments.presets import read_preset
from tcaf.settings.experiment import Experiment
from tcaf.sources.synthetic import prepare_synthetic
from tcaf.training.protocol import TwoStages


@pytest.mark.slow
def test_time_tells_classes_apart_that_averages_cannot(tmp_path):
    """TCaF separates seen classes that differ only in when a sound is heard; averages do not.

    A model that knows all but the relation is right for a third of the clips: 24 seen classes share
    8 triples of look, motion and sound.
    """
    store = prepare_synthetic(tmp_path / "world")
    experiment = Experiment.from_layers(read_preset("synthetic"))
    accuracy = {}
    for average in (False, True):
        own = replace(experiment, data=replace(experiment.data, average=average))
        protocol = TwoStages(own, store, {"text": store.text("attributes")})
        stage = protocol.new_stage(1)
        # Half of the preset's epochs: stage 1 finds the relation in about the seventh.
        for epoch in range(1, own.training.epochs // 2 + 1):
            stage.run_epoch(epoch, own.training.learning_rate)
        result = protocol.evaluate(stage.model, protocol.validation, None)
        # Gamma far below any distance: only seen classes are candidates.
        accuracy[average] = score(result.decisions, gamma=-1e6).seen
    print(f"accuracy on seen classes: {accuracy[False]:.3f}, averaged {accuracy[True]:.3f}")
    assert accuracy[False] >= 0.80
    assert accuracy[True] <= 0.45
