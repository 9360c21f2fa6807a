"""The ready model `imagenet`: any class name in the feature space of an ImageNet network.

The packaged EfficientNet-Lite0 ends in a linear classifier of 1,000 named classes. Its rows are the
directions of features that speak for a class, so they stand for class means: TextLDA predicts those
of other names from them, by kernel regression over text (`systems.textlda_auxiliary` has the
formula; each row counts as the mean of many clips). Nothing is trained and nothing fetched.

Gamma and temperature are those of a few photographs, `benchmarks/ready_imagenet.py`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tcaf.data.classes import ClassSet
from tcaf.data.features import NO_BACKBONE, FeatureSpec
from tcaf.extract.efficientnet import DIM, STEP_S, classifier_rows
from tcaf.pretrained.imagenet_classes import imagenet_names, imagenet_text
from tcaf.settings.experiment import Experiment
from tcaf.systems.textlda import ReadOut, TextLDA, text_kernel
from tcaf.systems.textlda_vectors import TextLDAConfig
from tcaf.text.spaces import ClassText
from tcaf.training.model_file import TrainedModel

BACKBONE = "efficientnet_lite0:frames=4"

SETTINGS = {
    "system": "textlda",
    "text": {"source": "sentence", "phrases": ["name", "names"]},
    "options": {"time": "off"},
    "evaluation": {"gamma_grid": "margins"},
}

LAMBDA = 1.0
GAMMA = 0.08
TEMPERATURE = 0.03
IMAGES_A_CLASS = 1000.0
"""About what the network has learnt a class from: the row counts for much more than its text."""


def predicting_read_out(
    rows: Float[Tensor, "num_sources dim"], text: Float[Tensor, "num_sources text_dim"]
) -> tuple[ReadOut, Float[Tensor, " text_dim"]]:
    """Returns a read-out whose class vectors are predicted from rows of a classifier.

    Args:
        rows: of the classifier.
        text: of their classes, of unit length.

    Returns:
        The read-out, and what is taken from text before it is scaled to unit length.
    """
    mean = text.mean(dim=0)
    phi = F.normalize(text - mean, dim=1)
    centre = rows.mean(dim=0)
    kernel = text_kernel(phi, phi)
    solved = torch.linalg.solve(kernel + LAMBDA * torch.eye(len(phi)), rows - centre)
    read_out = ReadOut(text.shape[1])
    # Adding the same to all rows changes no answer of the network, and features have no other
    # centre that is known.
    read_out.mean = rows.new_zeros(rows.shape[1])
    read_out.whiten = torch.eye(rows.shape[1])
    read_out.text_map = rows.new_zeros(text.shape[1], 0)
    read_out.source_text, read_out.source_map = phi, solved
    read_out.source_mean = rows.new_zeros(rows.shape[1])
    read_out.seen_shift = rows.new_zeros(0, rows.shape[1])
    return read_out, mean


def open_imagenet() -> TrainedModel:
    """Returns the model, made of the packaged weights.

    Raises:
        TCAFError: the extra `video` is not installed.
    """
    names = imagenet_names()
    text, rows = imagenet_text(), classifier_rows()
    read_out, mean = predicting_read_out(rows, text)
    # A class that the network knows is its row, not what text makes of the others.
    read_out.seen_text = read_out.source_text
    predicted = text_kernel(read_out.source_text, read_out.source_text) @ read_out.source_map
    read_out.seen_shift = (rows - rows.mean(dim=0)) - predicted
    read_out.seen_counts = rows.new_full((len(rows),), IMAGES_A_CLASS)
    experiment = Experiment.from_layers(SETTINGS)
    config = TextLDAConfig(audio_dim=1, visual_dim=DIM, text_dim=text.shape[1], time="off")
    model = TextLDA(config)
    model.text_mean = mean
    model.read_outs["visual"] = read_out
    spec = FeatureSpec(1, DIM, None, STEP_S, NO_BACKBONE, BACKBONE)
    classes = ClassSet(tuple(names), frozenset(names))
    return TrainedModel(
        "textlda",
        model.eval(),
        spec,
        classes,
        ClassText({"text": text}),
        GAMMA,
        experiment,
        TEMPERATURE,
    )
