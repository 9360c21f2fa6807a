"""Small media files, a tiny backbone for their frames, and a run trained on such features."""

import numpy as np

from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.store import FeatureStore
from tcaf.data.writer import new_store
from tcaf.extract.backbones import BackboneInfo, FrameSize
from tcaf.training.run import train

RATE = 16_000

SPEC = FeatureSpec(128, 6, 0.96, 0.64, "logmel", "colours")
"""What `logmel` and `Colours` make."""

COLOURS = BackboneInfo("visual", "write_clip_run", "6", 0.64, "none", "none needed")


class Colours:
    """A visual backbone whose token is the mean colour of two frames."""

    name = "colours"
    dim = 6
    step_s = 0.64
    fps = 3.125
    takes_incomplete_windows = False
    window_frames = 2
    frame_size = FrameSize(5, 7)

    def embed(self, windows):
        return (windows.mean(axis=(2, 3)) / 255).reshape(len(windows), 6).astype(np.float32)


def open_backbone(options, weights):
    assert not options
    assert weights is None
    return Colours()


class Shades(Colours):
    """Another one, whose token is the mean colour of one frame."""

    name = "shades"
    dim = 3
    step_s = 0.32
    window_frames = 1
    frame_size = FrameSize(3, 5)

    def embed(self, windows):
        return (windows.mean(axis=(1, 2, 3)) / 255).astype(np.float32)


def open_shades(options, weights):
    assert not options
    return Shades()


SHADES = BackboneInfo("visual", open_shades, "3", 0.32, "none", "none needed")
SHADES_SPEC = FeatureSpec(128, 3, 0.96, 0.32, "logmel", "shades")
"""What `logmel` and `Shades` make."""


def write_clip(path, *, seconds=3, pitch=440, colour=(200, 40, 90), sound=True, picture=True):
    """Writes a tone over frames of one colour that grow brighter."""
    import av

    with av.open(str(path), "w") as container:
        video = audio = None
        if picture:
            video = container.add_stream("mpeg4", rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if sound:
            audio = container.add_stream("aac" if path.suffix == ".mp4" else "pcm_s16le", rate=RATE)
            audio.layout = "mono"
        for k in range(10 * seconds if picture else 0):
            shade = (np.array(colour) * (0.5 + 0.5 * k / (10 * seconds))).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.broadcast_to(shade, (48, 64, 3)).copy(), "rgb24")
            frame.pts = k
            container.mux(video.encode(frame))
        if picture:
            container.mux(video.encode(None))
        if sound:
            time = np.arange(seconds * RATE) / RATE
            wave = (0.5 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
            for start in range(0, len(wave), 1024):
                block = wave[None, start : start + 1024]
                frame = av.AudioFrame.from_ndarray(block, "flt", "mono")
                frame.sample_rate, frame.pts = RATE, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


PARTS_OF = {
    "train": ("stage_1_train", "stage_1_train", "val_seen", "test_seen"),
    "val": ("val_unseen",) * 3,
    "test": ("test_unseen",) * 3,
}

KINDS = {"ant": "train", "bee": "train", "cat": "train", "dog, wet": "val", "eel": "test"}
"""Classes of the run by their part of the split."""


def write_run(folder, experiment, spec=SPEC):
    """Trains on clips around a mean token for each class; returns the run's folder."""
    rng = np.random.default_rng(0)
    text = {name: rng.normal(size=11).astype(np.float32) for name in KINDS}
    with new_store(folder / "store", spec) as writer:
        for name, kind in KINDS.items():
            middles = rng.normal(size=128), rng.uniform(size=spec.visual_dim)
            for number, part in enumerate(PARTS_OF[kind]):
                audio, visual = (
                    (m + 0.1 * rng.normal(size=(length, len(m)))).astype(np.float32)
                    for m, length in zip(middles, (3, 5), strict=True)
                )
                writer.add(VideoFeatures(f"{name}_{number}", audio, visual, name, part))
        writer.splits["cls"] = Split(
            *(tuple(n for n, kind in KINDS.items() if kind == part) for part in PARTS_OF)
        )
        writer.add_text("made", text)
    train(experiment, FeatureStore.open(folder / "store"), folder / "run")
    return folder / "run"
