"""Tiny models with random weights of the kinds that embed text beside something else.

Weights are so large that features depend on every pixel, sample and word.
"""

import warnings

import numpy as np
import torch

SIDE = 22
RATE = 8000
WORDS = (
    *("a", "photo", "picture", "of", "red", "blue", "green", "circle", "square", "cat", "dog"),
    *("the", "sound", "noise", "beep", "drum", "people", "singing"),
)


def write_tokenizer(folder, longest=11):
    """Writes a tokenizer of `WORDS`; longer texts are cut."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<s>", "</s>", "<unk>")
    vocabulary = {word: number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=longest,
    ).save_pretrained(folder)


def _text(**more):
    return {
        "hidden_size": 10,
        "intermediate_size": 19,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 37,
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


_VISION = {
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": SIDE,
    "patch_size": 11,
}


def _drawn(model, seed=0):
    """Returns a model in evaluation mode with weights of its own stream."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5, generator=draw)
    return model.eval()


def _saved(model, folder, *parts):
    from tcaf.pretrained.model_folder import quiet

    folder.mkdir(exist_ok=True)
    with quiet():
        for part in (model, *parts):
            part.save_pretrained(folder)
    write_tokenizer(folder)
    return model, folder


def write_clip(folder, seed=0):
    """Writes a CLIP model; returns it and its folder."""
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    config = transformers.CLIPConfig(projection_dim=13, vision_config=_VISION, text_config=_text())
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE)
    return _saved(_drawn(transformers.CLIPModel(config), seed), folder, processor)


def write_siglip2(folder):
    """Writes a SigLIP 2 model that takes pictures of any shape; returns it and its folder."""
    import transformers
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    from tcaf.pretrained.model_folder import quiet

    vision = {name: _VISION[name] for name in list(_VISION)[:4]}
    with quiet():
        config = transformers.Siglip2Config(
            vision_config={**vision, "num_patches": 16, "patch_size": 4},
            text_config={**_text(hidden_size=12), "projection_size": 12},
        )
        model = _drawn(transformers.Siglip2Model(config))
    return _saved(model, folder, Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16))


def write_xclip(folder):
    """Writes an X-CLIP model, which takes three frames; returns it and its folder."""
    import transformers
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    config = transformers.XCLIPConfig(
        projection_dim=12,
        vision_config={
            **_VISION,
            "mit_hidden_size": 12,
            "mit_intermediate_size": 13,
            "mit_num_hidden_layers": 1,
            "mit_num_attention_heads": 2,
            "num_frames": 3,
        },
        text_config=_text(),
        prompt_layers=1,
        prompt_num_attention_heads=2,
    )
    sides = {"height": SIDE, "width": SIDE}
    processor = VideoMAEImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=sides)
    return _saved(_drawn(transformers.XCLIPModel(config)), folder, processor)


def clap_features(fused=False, max_length_s=4):
    """Returns what turns samples into what `write_clap`'s model takes."""
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mel bands without a line
        return transformers.ClapFeatureExtractor(
            feature_size=16,
            sampling_rate=RATE,
            hop_length=250,
            max_length_s=max_length_s,
            fft_window_size=512,
            frequency_min=50,
            frequency_max=3900,
            truncation="fusion" if fused else "rand_trunc",
        )


CLAP_AUDIO = {
    "num_mel_bins": 16,
    "spec_size": 64,
    "patch_size": 4,
    "patch_stride": [4, 4],
    "patch_embeds_hidden_size": 8,
    "hidden_size": 16,
    "window_size": 4,
    "depths": [1, 1],
    "num_attention_heads": [2, 2],
    "num_hidden_layers": 2,
}
"""A half of CLAP that is made in no time."""


def write_clap(folder, fused=False, seed=0, max_length_s=4):
    """Writes a CLAP model; returns it and its folder."""
    import transformers

    config = transformers.ClapConfig(
        projection_dim=13,
        audio_config={**CLAP_AUDIO, "enable_fusion": fused},
        text_config=_text(),
    )
    model = _drawn(transformers.ClapModel(config), seed)
    return _saved(model, folder, clap_features(fused, max_length_s))


def perception_model():
    """Returns a PE-AV model with a ViT in place of timm's network, a package of its own."""
    import transformers as tf

    from tcaf.pretrained.model_folder import quiet

    sizes = {
        "hidden_size": 8,
        "intermediate_size": 11,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 4,
    }
    codec = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 2], "codebook_dim": 5}
    with quiet():
        config = tf.PeAudioVideoConfig(
            text_config={
                **_text(hidden_size=12, num_hidden_layers=2),
                "model_type": "modernbert",
                "cls_token_id": 1,
                "sep_token_id": 2,
            },
            audio_video_config=tf.PeAudioVideoEncoderConfig(
                audio_config=tf.PeAudioEncoderConfig(
                    dac_config={**codec, "decoder_hidden_size": 16, "hidden_size": 16}, **sizes
                ),
                video_config=tf.PeVideoEncoderConfig(
                    vision_config=tf.ViTConfig(**_VISION, num_labels=9), **sizes
                ),
                **sizes,
            ),
        )
        return _drawn(tf.PeAudioVideoModel(config))


def write_perception_files(folder):
    """Writes the tokenizer and the feature extractor of `perception_model`."""
    import transformers

    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    transformers.PeAudioFeatureExtractor(hop_length=4, sampling_rate=RATE).save_pretrained(folder)
    return folder


def random_windows(num_windows, num_frames, height=40, width=60, seed=0):
    """Returns frames of noise."""
    shape = (num_windows, num_frames, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def tones(*pitches, seconds=2.56):
    """Returns a sine of each pitch at `RATE`."""
    times = np.arange(round(seconds * RATE)) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * p * times) for p in pitches]).astype(np.float32)
