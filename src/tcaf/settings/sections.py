"""The sections of a run's settings: every field, its default, its unit, its range.

A section's fields are the only settings there are. Defaults are the paper's for UCF-GZSL (Mercea et
al., ECCV 2022, Sec. 4.1); presets list only what differs. Where paper and release part is
`fidelity`.
"""

from typing import Annotated, Literal

from pydantic import Field

from tcaf.errors import TCAFError
from tcaf.settings.validation import Count, Fraction, NotNegative, Positive, settings

Device = Literal["auto", "cpu", "cuda"]
"""Where to compute; `auto` takes a GPU where there is one."""

AttentionPattern = Literal["cross", "self", "full"]
Modalities = Literal["both", "audio", "visual"]

MOST_GAMMAS = 10_000
"""How many gammas calibrated stacking may try."""


@settings("data")
class DataSettings:
    """Which clips a run uses.

    Args:
        split: name of the class partition in the store; `cls` in the paper's tables. `cls@3` is the
            third random partition of its classes of training and validation.
        average: give the model the mean over time of each clip's features in place of their
            sequence, one token per modality at time 0, as methods before TCaF did.
        clips_per_class: train on at most so many clips of each class, drawn by the seed; validation
            and test keep all of theirs. Of two numbers the smaller one's clips are among the larger
            one's. None takes all.
        auxiliary: further videos with labels of any kind, to learn from beside the clips: folder of
            a store of such, or a CSV of id and labels (`cat|meowing`) that gives labels to clips of
            the run's own store that are in no part. Labels that are names of unseen classes are
            dropped, with the videos that carry them.
        auxiliary_similarity: labels are dropped like those whose name is as similar to that of an
            unseen class, as a cosine of text embeddings; 1 drops the names alone.
        start: a ready model whose class means are learnt from beside the clips, so that few of each
            class are enough: `imagenet`, for visual features of efficientnet_lite0. Its classes
            that are near to unseen ones, by auxiliary_similarity, are dropped.
    """

    split: str = "cls"
    average: bool = False
    clips_per_class: Count | None = None
    auxiliary: str = ""
    auxiliary_similarity: Annotated[float, Field(gt=0, le=1)] = 0.6
    start: Literal["", "imagenet"] = ""


@settings("text")
class TextSettings:
    """What the text embedding of a class is made from.

    Args:
        source: where vectors come from. `stored`: embeddings that came with the features, by class
            name. `sentence`: a sentence encoder on the CPU, which embeds any phrase. `hf`, `st`:
            likewise, the text of a model of the hub, or of a sentence-transformers model, that is a
            backbone too. `backbone`: that of the model which made the features of `modality`.
            `word2vec`, `glove`: the mean of the words' vectors in a file. `npy`: the authors' .npy
            file of named vectors. `attributes`: a CSV with the class in the first column and
            numbers in the others, under a header. `none`: one number, the same for all classes.
        name: which of the embeddings kept in the store `stored` takes; by default the only ones.
        path: the file for `word2vec` (.bin or text), `glove`, `npy` or `attributes`; for `hf` and
            `st` ID_OR_FOLDER[@REVISION] of the model; for `sentence` the folder of another
            sentence-transformers model, by default the packaged all-MiniLM-L6-v2 (384 numbers);
            for `backbone` the folder of the model that made the features, where it is not found by
            its name: other weights are refused.
        modality: for `backbone`, and for models of `hf` with a text space for each of several.
        phrases: kinds of phrases kept in the store that are embedded and averaged per class, such
            as name, verticals, description. `name` is the class name itself where the store has no
            other wording.
        phrases_file: a CSV with the columns name and phrase, several rows per class allowed, whose
            phrases are embedded in place of the store's.
        prompts: sentences that each phrase is put into, which are averaged like phrases: one of the
            sets general, actions, sounds, general_heard, actions_heard and sounds_heard, or a file
            with one a line, {} for the phrase.
        normalise: whether each phrase's vector and each class's mean are scaled to length 1; if
            not, the mean of the vectors is taken as they are.
        words: give how near a class is to each of a list of words in place of its vector: `english`
            for the packaged list, or a file with a word or phrase a line.
        words_temperature: small values look at the nearest words alone: what is given is
            sqrt(softmax(similarity / words_temperature)).
    """

    source: Literal[
        "stored",
        "sentence",
        "hf",
        "st",
        "backbone",
        "word2vec",
        "glove",
        "npy",
        "attributes",
        "none",
    ] = "stored"
    name: str = ""
    path: str = ""
    modality: Literal["", "audio", "visual"] = ""
    phrases: Annotated[tuple[str, ...], Field(strict=False)] = ("name",)
    phrases_file: str = ""
    prompts: str = ""
    normalise: bool = True
    words: str = ""
    words_temperature: Positive = 0.2

    def __post_init__(self) -> None:
        if self.words and not self.normalise:
            raise TCAFError("text.words compares directions; leave text.normalise true")


@settings("model")
class ModelSettings:
    """The size and shape of TCaF (Sec. 3.2); dimensions of the inputs come from the data.

    Args:
        num_layers: transformer layers, L in the paper.
        num_heads: attention heads per layer, H.
        head_dim: size of one attention head, d_head.
        token_dim: size of a token inside the transformer, d_dim.
        joint_dim: size of the space shared by clips and class names, d_out.
        encoder_hidden_dim: hidden size of A_enc and V_enc, d_fhidd.
        projection_hidden_dim: hidden size of O_proj and D_o, d_fhidd.
        feed_forward_dim: hidden size of the feed-forward function, d_ff.
        position_dim: size of a token's position, d_pos; even.
        fourier_scale: standard deviation of the random frequencies of time, in 1/s before the
            factor 2 pi; small values see slow changes.
        attention: `cross` lets a modality see the other one, `self` itself, `full` both; the class
            token sees and is seen by all (Table 3).
        class_token: read the clip from a learnt class token; without it, from the mean over the
            output tokens (Table 3).
        modalities: which inputs are used (Table 4).
        dropout_encoder: dropout of A_enc and V_enc, drop_enc.
        dropout_position: dropout after positions are added, drop_prob,pos.
        dropout_transformer: dropout inside the transformer layers, drop_prob.
        dropout_text_projection: dropout of W_proj and D_w, drop_proj_w.
        dropout_video_projection: dropout of O_proj and D_o, drop_proj_o.
    """

    num_layers: Count = 6
    num_heads: Count = 8
    head_dim: Count = 64
    token_dim: Count = 300
    joint_dim: Count = 64
    encoder_hidden_dim: Count = 512
    projection_hidden_dim: Count = 512
    feed_forward_dim: Count = 128
    position_dim: Count = 64
    fourier_scale: Positive = 10.0
    attention: AttentionPattern = "cross"
    class_token: bool = True
    modalities: Modalities = "both"
    dropout_encoder: Fraction = 0.3
    dropout_position: Fraction = 0.2
    dropout_transformer: Fraction = 0.3
    dropout_text_projection: Fraction = 0.1
    dropout_video_projection: Fraction = 0.1

    def __post_init__(self) -> None:
        if self.position_dim % 2:
            raise TCAFError(f"model.position_dim must be even, got {self.position_dim}")
        if self.attention == "cross" and self.modalities != "both" and not self.class_token:
            raise TCAFError(
                f"model.attention 'cross' with model.modalities {self.modalities!r} and no class "
                "token leaves nothing to attend to; use 'self' or keep the class token"
            )


@settings("objective")
class ObjectiveSettings:
    """Which terms the training objective sums (Eq. 15, Table 2).

    Args:
        cross_entropy: over the seen classes of the stage (Eq. 16).
        regression: distance of a clip from its class (Eq. 17).
        reconstruction: distance of the decoded embeddings from the class's text (Eq. 18).
    """

    cross_entropy: bool = True
    regression: bool = True
    reconstruction: bool = True

    def __post_init__(self) -> None:
        if not (self.cross_entropy or self.regression or self.reconstruction):
            raise TCAFError("objective: every term is off; there is nothing to train on")


@settings("training")
class TrainingSettings:
    """How a stage is trained.

    Args:
        epochs: epochs of stage 1; stage 2 takes as many as the best one needed.
        batches_per_epoch: batches in an epoch.
        batch_size: clips in a batch; of one alone batch normalisation has no statistics.
        optimiser: `adam` adds weight decay to the gradients; `adamw` takes it from the weights.
        learning_rate: of the optimiser, before the schedule.
        weight_decay: of the optimiser.
        beta1: the optimiser's running average of gradients.
        beta2: the optimiser's running average of squared gradients.
        schedule: `plateau` multiplies the learning rate by `plateau_factor` when validation HM has
            not risen for `fidelity.plateau_epochs`; `cosine` lowers it along half a cosine over all
            epochs; `constant` leaves it.
        warmup_epochs: epochs in which the learning rate rises linearly, before the schedule.
        clip_norm: gradients whose norm over all weights is larger are scaled down to it; none
            leaves them.
        plateau_factor: what the learning rate is multiplied by.
        sampling: `balanced` draws a class, then one of its clips, with replacement; `uniform` draws
            clips.
        window_s: longest stretch of a clip used in training, in seconds, at a random place; none
            uses whole clips.
        device: where to compute: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        precision: of matrix products in training steps: `float32`; `tf32`, quicker on GPUs that
            have it, 10 bits of a number's 23; `bfloat16`, quicker still, 7 bits. Weights and sums
            are float32, and so are validation, test and answers.
        static_shapes: fill batches up to a few fixed shapes, so that a GPU records the step of a
            shape once and plays it again (CUDA graphs); of TCaF's kind, in one process. Numbers
            change by rounding, and which elements dropout takes.
    """

    epochs: Count = 50
    batches_per_epoch: Count = 300
    batch_size: Annotated[int, Field(ge=2)] = 64
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: Positive = 7e-5
    weight_decay: NotNegative = 1e-5
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    schedule: Literal["plateau", "constant", "cosine"] = "plateau"
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    clip_norm: Positive | None = None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    sampling: Literal["balanced", "uniform"] = "balanced"
    window_s: Positive | None = None
    device: Device = "auto"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    static_shapes: bool = False

    def __post_init__(self) -> None:
        if self.warmup_epochs >= self.epochs:
            raise TCAFError(
                f"training.warmup_epochs must be below training.epochs ({self.epochs}), got "
                f"{self.warmup_epochs}"
            )


@settings("evaluation")
class EvaluationSettings:
    """How a model is evaluated.

    Args:
        window_s: longest stretch of a clip used, in seconds, from its middle; none: whole clips.
        batch_size: clips in a batch; changes speed and memory, and nothing beyond rounding.
        gamma_grid: which gammas calibrated stacking tries: `fixed` ones from 0 up, as in the paper,
            or some hundred over the `margins` of the validation clips, negative ones too, for
            systems whose distances are of another scale than TCaF's.
        gamma_max: largest gamma of the fixed grid.
        gamma_step: distance between the gammas of the fixed grid.
        anchored: take half of a system's distance and half of the cosine distance of the features
            from class text in their own space, brought to the same mean, in validation, test and
            answers; for features of models that embed text too, whose text is in the sections
            `[text_spaces.visual]` and `[text_spaces.audio]`.
    """

    window_s: Positive | None = None
    batch_size: Count = 256
    gamma_grid: Literal["fixed", "margins"] = "fixed"
    gamma_max: NotNegative = 3.0
    gamma_step: Positive = 0.2
    anchored: bool = False

    def __post_init__(self) -> None:
        if self.gamma_grid == "margins" and (self.gamma_max, self.gamma_step) != (3.0, 0.2):
            raise TCAFError(
                "evaluation.gamma_max and gamma_step are of the fixed grid; set "
                "evaluation.gamma_grid to fixed, or leave them out"
            )
        if self.gamma_max / self.gamma_step > MOST_GAMMAS:
            raise TCAFError(
                f"evaluation: at most {MOST_GAMMAS} gammas are tried, got gamma_max "
                f"{self.gamma_max} in steps of {self.gamma_step}"
            )

    @property
    def gammas(self) -> tuple[float, ...] | None:
        """The gammas tried: 0, `gamma_step`, ... up to `gamma_max`; None: over the margins."""
        if self.gamma_grid == "margins":
            return None
        # Multiples are rounded so that 3 x 0.2 reads 0.6 in every report.
        count = int(self.gamma_max / self.gamma_step + 1e-6)
        return tuple(round(i * self.gamma_step, 10) for i in range(count + 1))
