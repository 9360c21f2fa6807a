"""Makes two short clips, panned over the photographs that come with scikit-learn.

    python examples/pan_photographs.py FOLDER

For trying out a ready model where there is no clip at hand: `temple.mp4` and `flower.mp4`, three
seconds each, without sound.
"""

import sys
from pathlib import Path

import av
import numpy as np
from sklearn.datasets import load_sample_image

SECONDS, RATE = 3, 15
WIDTH, HEIGHT = 384, 288


def pan(picture: np.ndarray, path: Path) -> None:
    """Writes a clip that moves from one side of a picture to the other."""
    height, width = picture.shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        side = height * WIDTH // HEIGHT
        for step in range(SECONDS * RATE):
            left = (width - side) * step // (SECONDS * RATE - 1)
            part = np.ascontiguousarray(picture[:, left : left + side])
            frame = av.VideoFrame.from_ndarray(part, "rgb24")
            container.mux(stream.encode(frame.reformat(WIDTH, HEIGHT, "yuv420p")))
        container.mux(stream.encode(None))


def main(folder: Path) -> None:
    """Writes both clips."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, name in (("china.jpg", "temple"), ("flower.jpg", "flower")):
        pan(load_sample_image(file), folder / f"{name}.mp4")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
