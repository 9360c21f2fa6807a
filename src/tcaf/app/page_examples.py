"""Clips to try the page with, made on the spot of what ships: photographs, and rendered shapes.

Owns what they show, and which names are offered with each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tcaf.sources.photographs import pan_photograph
from tcaf.sources.rendered import RenderedClip
from tcaf.sources.world import World

NAMES = (
    *("temple", "flower blooming", "cat purring", "playing guitar"),
    *("motorcycle racing", "swimming"),
)
SHAPES = ("spinning top", "bouncing ball", "fireworks", "cat purring", "traffic light", "swimming")


@dataclass(frozen=True)
class Example:
    """A clip to try.

    Args:
        title: what it is called on the page.
        file: its name.
        names: that are offered with it.
        write: makes it at a path.
    """

    title: str
    file: str
    names: tuple[str, ...]
    write: Callable[[Path], None]


def _shape(place: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        world = World(6, 4, 6, ("together",), 0)
        clip = RenderedClip(path.name, world.classes[place], "test_seen", (0, place))
        clip.render(path.parent)

    return write


def examples() -> list[Example]:
    """Returns the examples that can be made here, by what is installed."""
    found = [Example("shape, sound", "shape.mp4", SHAPES, _shape(37))]
    if find_spec("sklearn") and find_spec("PIL"):
        found = [
            Example("temple", "temple.mp4", NAMES, lambda path: pan_photograph("temple", path)),
            Example("flower", "flower.mp4", NAMES, lambda path: pan_photograph("flower", path)),
            *found,
        ]
    return found
