"""TextLDA fitted on videos with any number of labels, every one of which is a class.

Owns the fit where there is no split: all labels are sources of the kernel regression, as those of
further videos are in `textlda_auxiliary`, and all are seen classes, whose vectors lie between the
mean of their clips and what text makes of the others.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from tcaf.errors import TCAFError
from tcaf.systems.textlda import READ_OUTS, TextLDA
from tcaf.systems.textlda_auxiliary import AuxiliaryScatter, further_moments
from tcaf.systems.textlda_fit import Course, Moments, Scatter, TextLDAFit
from tcaf.systems.textlda_vectors import ClipVectors
from tcaf.systems.training_parts import AuxiliaryPart


class LabelScatter(AuxiliaryScatter):
    """What a read-out learns from clips that have labels and no class.

    Args:
        labels: counts and sums of the clips, by label.
        sizes: of the blocks of a vector.
        around: moments of the clips, by rarest frequent label.
        label_phi: centred unit text of the labels.
    """

    def __init__(
        self,
        labels: Moments,
        sizes: Sequence[int],
        around: Moments,
        label_phi: Float[Tensor, "num_labels text_dim"],
    ) -> None:
        none = type(labels)(sum(sizes), 0, label_phi)
        super().__init__(labels, sizes, around, none, label_phi[:0])
        self.by_kernel = True

    def within(self, moments: Moments) -> Float[Tensor, "dim dim"]:
        """Returns the scatter around groups: that around labels would count clips many times."""
        return self.around.within()


class LabelsFit(TextLDAFit):
    """All labelled clips reduced to moments: see `TextLDAFit`.

    Args:
        clips: the clips with their labels and these labels' text.
        model: whose weights are set; its option `time` is off.

    Raises:
        TCAFError: a model that reads time, or no two labels with clips of a frequent one.
    """

    def __init__(self, clips: AuxiliaryPart, model: TextLDA) -> None:
        if model.config.time != "off":
            raise TCAFError("a fit on labels reads no time: set options.time to off")
        self.clips = clips
        super().__init__(model, (), clips.class_text.model_input)

    def _read_outs(self, vectors: ClipVectors, course: Course | None) -> dict[str, Scatter]:
        found = further_moments(self.clips, vectors, self.phi)
        enough = {
            name: moments
            for name, moments in found.items()
            if bool(moments[0].counts.any()) and int((moments[1].counts > 0).sum()) > 1
        }
        if not enough:
            raise TCAFError(
                "textlda learns from clips of two labels or more, one of them frequent, got fewer"
            )
        return {
            name: LabelScatter(labels, [*vectors.sizes(READ_OUTS[name]).values()], around, self.phi)
            for name, (around, labels) in enough.items()
        }
