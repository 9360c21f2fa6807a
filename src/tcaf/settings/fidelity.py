"""Where the paper and the authors' release part: one setting for each side that can be taken."""

from typing import Annotated, Literal

from pydantic import Field

from tcaf.settings.validation import Count, settings

AudioScaling = Literal["divide_255", "l2", "none"]
VisualScaling = Literal["l2", "l2_over_time", "none"]
LayerNormKind = Literal["separate", "shared"]


@settings("fidelity")
class Fidelity:
    """Where the paper and the authors' release part: one field for each side that can be taken.

    The defaults are the preset `paper`: what the text says, repaired where the release is plainly
    broken. `Fidelity.official()` is what the release does. `docs/fidelity.md` lists all
    differences, and why some are not offered.

    Args:
        class_vectors: `by_name` gives a class the vector of its own name; `release_order` gives it
            the one that the release's two sort orders give it (79 of 101 UCF classes: another's).
        audio_scaling: `divide_255` for VGGish features, which are 8-bit; `l2` gives each token unit
            length; `none` leaves features as they are.
        visual_scaling: `l2` gives each token unit length; `l2_over_time` each feature over the
            tokens of a clip, as the release does; `none` leaves features as they are.
        evaluation_times: token times in `seconds`, as in training, or the token's `index`.
        window_times: a window keeps the `absolute` time of its tokens, or times `restart` at 0.
        audio_window: audio tokens cover the same `seconds` as the visual ones, or their number is
            the visual one x 0.64 x 0.96 as in the `release`.
        layer_norm: `separate` layer norms before attention and feed-forward, or one `shared`.
        batch_norm_momentum: weight of a batch in the running statistics; the release's second
            forward per batch moves them twice, which is 0.19.
        text_statistics: W_proj runs once, on the seen `classes`; or, as in the release, also on the
            text of the batch's `clips`, whose own batch statistics the regression then uses.
        squared_error: `mean` over the elements of a vector, or their `sum` (Eq. 17-18, literally).
        plateau_epochs: epochs without a better validation HM after which the learning rate falls.
        stage_2_schedule: stage 2 can `replay` stage 1's learning rates, or watch the `validation`
            HM of clips that it trains on.
        stage_2_epochs: train for the `best` number of epochs; or, as in the `release`, for all of
            them if the first one was best.
        cjme_attention: CJME weighs the triplet loss `per_clip`; or, as its release does by
            broadcasting, it multiplies the `separate_means` of weights and losses.
        avca_modality_tokens: AVCA's two modality embeddings are `learnt`; or, as in its release,
            `fixed` at their random start.
    """

    class_vectors: Literal["by_name", "release_order"] = "by_name"
    audio_scaling: AudioScaling = "divide_255"
    visual_scaling: VisualScaling = "l2"
    evaluation_times: Literal["seconds", "index"] = "seconds"
    window_times: Literal["absolute", "restart"] = "absolute"
    audio_window: Literal["seconds", "release"] = "seconds"
    layer_norm: LayerNormKind = "separate"
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    text_statistics: Literal["classes", "clips"] = "classes"
    squared_error: Literal["mean", "sum"] = "mean"
    plateau_epochs: Count = 3
    stage_2_schedule: Literal["replay", "validation"] = "replay"
    stage_2_epochs: Literal["best", "release"] = "best"
    cjme_attention: Literal["per_clip", "separate_means"] = "per_clip"
    avca_modality_tokens: Literal["learnt", "fixed"] = "learnt"

    @classmethod
    def official(cls) -> "Fidelity":
        """Returns the preset `official`: what the release does."""
        return cls(
            class_vectors="release_order",
            visual_scaling="l2_over_time",
            evaluation_times="index",
            window_times="restart",
            audio_window="release",
            layer_norm="shared",
            batch_norm_momentum=0.19,
            text_statistics="clips",
            plateau_epochs=4,
            stage_2_schedule="validation",
            stage_2_epochs="release",
            cjme_attention="separate_means",
            avca_modality_tokens="fixed",
        )
