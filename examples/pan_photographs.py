"""Makes two short clips, panned over the photographs that come with scikit-learn.

    python examples/pan_photographs.py FOLDER

For trying out a ready model where there is no clip at hand: `temple.mp4` and `flower.mp4`, three
seconds each, without sound.
"""

import sys
from pathlib import Path

from tcaf.sources.photographs import PHOTOGRAPHS, pan_photograph


def main(folder: Path) -> None:
    """Writes both clips."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        pan_photograph(name, folder / f"{name}.mp4")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
