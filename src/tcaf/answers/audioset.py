"""The ready model `audioset`: any name of a sound, from clips of AudioSet.

TextLDA on all of AudioSet's labels (`systems.textlda_labels`), in a file made by
`benchmarks/ready_audioset.py`, which also says what it knows of labels that it was not made from.
Its features are those of the backbone `vggish`, whose weights are fetched on first use.
"""

from tcaf.answers.ready import FOLDER
from tcaf.training.model_file import TrainedModel, load_model

FILE = FOLDER / "audioset.safetensors"


def open_audioset() -> TrainedModel:
    """Returns the model. Its backbone is opened by the first file that is asked about."""
    return load_model(FILE)
