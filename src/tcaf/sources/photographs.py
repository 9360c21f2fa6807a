"""Clips panned over the photographs that come with scikit-learn (extra `plot`): something real.

For trying a model where there is no clip at hand. Owns the two clips, three seconds each, without
sound; PyAV writes them (extra `video`).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tcaf.errors import MissingExtraError

SECONDS, RATE = 3, 15
WIDTH, HEIGHT = 384, 288

PHOTOGRAPHS: Mapping[str, str] = {"temple": "china.jpg", "flower": "flower.jpg"}
"""What each clip shows, and scikit-learn's name of the photograph."""


def pan_photograph(name: str, path: Path) -> None:
    """Writes a clip that moves from one side of a photograph to the other.

    Args:
        name: of `PHOTOGRAPHS`.
        path: of the clip, which ends in .mp4.

    Raises:
        MissingExtraError: scikit-learn, Pillow or PyAV is not installed.
    """
    try:
        import av
        import PIL  # noqa: F401 - scikit-learn reads photographs by it
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is not installed; pip install 'tcaf[video,plot]'"
        ) from None
    picture: UInt8[np.ndarray, "height width 3"] = load_sample_image(PHOTOGRAPHS[name])
    height, width = picture.shape[:2]
    with av.open(str(path), "w") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        side = height * WIDTH // HEIGHT
        for step in range(SECONDS * RATE):
            left = (width - side) * step // (SECONDS * RATE - 1)
            part = np.ascontiguousarray(picture[:, left : left + side])
            frame = av.VideoFrame.from_ndarray(part, "rgb24")
            container.mux(stream.encode(frame.reformat(WIDTH, HEIGHT, "yuv420p")))
        container.mux(stream.encode(None))
