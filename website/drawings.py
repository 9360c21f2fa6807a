"""Draws the pictures of the documentation: `python website/drawings.py` writes `docs/drawings/`.

Owns what they show; `Drawing` below owns how a box and an arrow look. They are kept in the
repository, so that pages show them where they lie, and a test compares. That of the rooms follows
from the arrows that CONTRIBUTING.md has.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "drawings"

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2430; text-anchor: middle }
.small { font-size: 11px; fill: #55606e }
.left { text-anchor: start }
rect { fill: #eef1f6; stroke: #8a94a6; rx: 6px }
rect.learnt { fill: #dde6fb; stroke: #4a66c9 }
rect.text { fill: #e4f3e4; stroke: #4a8f4f }
rect.asked { fill: #fbeedb; stroke: #b9852f }
rect.frame { fill: none; stroke-dasharray: 4 3 }
path { fill: none; stroke: #55606e; stroke-width: 1.3 }
path.dashed { stroke-dasharray: 4 3 }
#tip path { fill: #55606e; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ef } .small { fill: #aab3c0 }
  rect { fill: #2b303b; stroke: #7d8798 }
  rect.learnt { fill: #28345e; stroke: #8fa5f2 }
  rect.text { fill: #25402a; stroke: #7fbf86 }
  rect.asked { fill: #493a20; stroke: #d9a95a }
  path { stroke: #aab3c0 } #tip path { fill: #aab3c0 }
}
"""
"""Light and dark, as the reader's system has it."""


@dataclass(frozen=True)
class Box:
    """A labelled box.

    Args:
        x: of its middle.
        y: of its middle.
        lines: of text.
        kind: a class of `STYLE`; empty for plain.
        width: of the box.
    """

    x: float
    y: float
    lines: tuple[str, ...]
    kind: str = ""
    width: float = 130

    @property
    def height(self) -> float:
        """Room for the lines."""
        return 18 + 16 * len(self.lines)

    def edge(self, x: float, y: float) -> tuple[float, float]:
        """Returns where a straight line from its middle to a point leaves the box."""
        dx, dy = x - self.x, y - self.y
        reach = [
            abs(size / 2 / d) for size, d in ((self.width, dx), (self.height, dy)) if abs(d) > 1e-9
        ]
        share = min(reach)
        return self.x + dx * share, self.y + dy * share

    def way_to(self, end: "Box", bulge: float) -> list[tuple[float, float]]:
        """Returns three points: where an arrow leaves, what it bends towards, where it ends."""
        x, y = (self.x + end.x) / 2 + bulge, (self.y + end.y) / 2
        if bulge:
            return [self.edge(x, y), (x, y), end.edge(x, y)]
        return [self.edge(end.x, end.y), (x, y), end.edge(self.x, self.y)]


@dataclass
class Drawing:
    """Boxes and arrows on a page.

    Args:
        title: for those who do not see it.
        width: of the page.
        height: of the page.
    """

    title: str
    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, *lines: str, kind: str = "", width: float = 130) -> Box:
        """Draws a box; the first line is the name of the thing, the others say more."""
        one = Box(x, y, lines, kind, width)
        left, top = x - width / 2, y - one.height / 2
        self.parts.append(
            f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width:g}" '
            f'height="{one.height:g}"/>'
        )
        for number, line in enumerate(lines):
            self.text(x, top + 22 + 16 * number, line, "" if number == 0 else "small")
        return one

    def frame(self, x: float, y: float, width: float, height: float, label: str) -> None:
        """Draws a dashed frame with a label in its corner."""
        self.parts.append(
            f'<rect class="frame" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
        )
        self.text(x + 8, y + 16, label, "small left")

    def text(self, x: float, y: float, line: str, kind: str = "") -> None:
        """Writes a line, whose middle is at x."""
        safe = line.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{safe}</text>')

    def arrow(self, start: Box, end: Box, *, dashed: bool = False, bulge: float = 0) -> None:
        """Draws an arrow between the edges of two boxes; a bulge passes what lies between them."""
        (x1, y1), (x, y), (x2, y2) = start.way_to(end, bulge)
        way = f"Q{x:.1f} {y:.1f} {x2:.1f} {y2:.1f}" if bulge else f"L{x2:.1f} {y2:.1f}"
        kind = "dashed" if dashed else ""
        self.parts.append(
            f'<path class="{kind}" d="M{x1:.1f} {y1:.1f} {way}" marker-end="url(#tip)"/>'
        )

    def arrows(self, starts: Sequence[Box], ends: Sequence[Box]) -> None:
        """Draws an arrow from each of some boxes to each of others."""
        for start in starts:
            for end in ends:
                self.arrow(start, end)

    def svg(self) -> str:
        """Returns the picture."""
        tip = (
            '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker>'
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img">',
                f"<title>{self.title}</title>",
                f"<style>{STYLE}</style>",
                f"<defs>{tip}</defs>",
                *self.parts,
                "</svg>",
                "",
            ]
        )


def model() -> Drawing:
    """TCaF, from tokens and class text to a distance (Mercea et al. 2022, Sec. 3)."""
    page = Drawing(
        "TCaF: from the tokens of a clip and the text of a class to a distance", 780, 430
    )
    page.frame(10, 10, 480, 290, "a clip")
    page.frame(10, 310, 480, 110, "a class")
    sound = page.box(90, 65, "sound", "a token a second")
    picture = page.box(90, 135, "picture", "a token a second")
    encoders = page.box(245, 100, "two encoders", "to one token size", kind="learnt")
    times = page.box(245, 180, "times in seconds", "of each token")
    start = page.box(245, 255, "class token", "a learnt vector", kind="learnt")
    blocks = page.box(
        405,
        180,
        "transformer",
        "a modality sees the",
        "other and the class",
        "token, not itself",
        kind="learnt",
        width=140,
    )
    page.arrows([sound, picture], [encoders])
    page.arrows([encoders, times, start], [blocks])
    names = page.box(90, 370, "name, phrases")
    encoder = page.box(245, 370, "text encoder", "as it is published", kind="text")
    w = page.box(405, 370, "w", "text embedding", kind="text")
    page.arrow(names, encoder)
    page.arrow(encoder, w)
    theta_o = page.box(590, 180, "theta_o", "video embedding", kind="learnt")
    theta_w = page.box(590, 370, "theta_w", "class embedding", kind="learnt")
    page.arrow(blocks, theta_o)
    page.arrow(w, theta_w)
    distance = page.box(705, 270, "distance", "+ gamma if seen", kind="asked", width=120)
    page.arrows([theta_o, theta_w], [distance])
    decoders = page.box(560, 270, "decoders", "both back to w", kind="learnt", width=110)
    page.arrow(theta_o, decoders, dashed=True)
    page.arrow(theta_w, decoders, dashed=True)
    page.text(590, 40, "blue: learnt in training", "small")
    page.text(590, 58, "dashed: in training alone", "small")
    return page


def protocol() -> Drawing:
    """The two stages: which clips are learnt from, chosen by and tested on."""
    page = Drawing("The protocol: what is learnt from, chosen by and tested on", 780, 330)
    for x, label in (
        (270, "classes for training"),
        (470, "unseen in validation"),
        (680, "unseen in the test"),
    ):
        page.text(x, 28, label)
    for y, label, more in (
        (85, "Stage 1", "chooses epoch and gamma"),
        (185, "Stage 2", "anew, for as many epochs"),
        (285, "Test", "once"),
    ):
        page.text(10, y - 4, label, "left")
        page.text(10, y + 14, more, "small left")
    learnt, chosen, tested = "learnt", "asked", "text"
    page.box(225, 85, "stage_1_train", "learnt from", kind=learnt, width=110)
    page.box(330, 85, "val_seen", "chosen by", kind=chosen, width=85)
    page.box(470, 85, "val_unseen", "chosen by", kind=chosen, width=130)
    page.box(270, 185, "stage_1_train, val_seen", "learnt from", kind=learnt, width=200)
    page.box(470, 185, "val_unseen", "learnt from: seen now", kind=learnt, width=150)
    page.box(358, 285, "test_seen", "the answer may be any class", kind=tested, width=375)
    page.box(680, 285, "test_unseen", "the answer may be any class", kind=tested, width=180)
    return page


def systems() -> Drawing:
    """What each system sees of a clip, and of class text."""
    page = Drawing("What each system sees of a clip and of class text", 780, 470)
    page.frame(10, 10, 330, 300, "a clip")
    page.frame(10, 330, 330, 130, "class text")
    sound = page.box(80, 90, "sound", "tokens", width=100)
    picture = page.box(80, 230, "picture", "tokens", width=100)
    means = page.box(250, 90, "means")
    time = page.box(250, 230, "together in time", "order, products")
    page.arrows([sound, picture], [means, time])
    names = page.box(72, 400, "names, phrases", width=110)
    text = page.box(184, 400, "encoder", kind="text", width=70)
    words = page.box(286, 400, "word list", "shares of words", kind="text", width=100)
    page.arrow(names, text)
    page.arrow(text, words, dashed=True)
    ridge = page.box(620, 45, "Ridge", "means to text", width=260)
    old = page.box(620, 125, "CJME, AVGZSLNet, AVCA", "means to a learnt space", width=260)
    lda = page.box(620, 215, "TextLDA", "whitened means, predicted from text", width=260)
    tcaf = page.box(620, 305, "TCaF, Perceiver", "every token; a learnt space", width=260)
    cosine = page.box(620, 395, "TCaF (cosine head)", "every token; the space of text", width=260)
    page.arrows([means], [ridge, old, lda])
    page.arrow(time, lda)
    page.arrows([time], [tcaf, cosine])
    page.arrow(words, lda, dashed=True)
    page.text(620, 455, "text goes to all; dashed: where it is asked for", "small")
    return page


def rooms() -> Drawing:
    """The rooms of the package and what each imports, from the arrows of CONTRIBUTING.md."""
    arrows = imports((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(name for arrow in arrows for name in arrow))
    depth = dict.fromkeys(names, 0)
    for _ in names:  # the longest way from the top
        for start, end in arrows:
            depth[end] = max(depth[end], depth[start] + 1)
    floors = [[n for n in names if depth[n] == d] for d in range(max(depth.values()) + 1)]
    page = Drawing("The rooms of the package: an arrow is an import", 780, 70 * len(floors) + 60)
    boxes: dict[str, Box] = {}
    for number, floor in enumerate(floors):
        # Below the middle of those that import them.
        above = {
            n: sum(xs := [boxes[s].x for s, e in arrows if e == n]) / len(xs) if number else 0.0
            for n in floor
        }
        floor = sorted(floor, key=lambda name: above[name])
        gap = 780 / (len(floor) + 1)
        for place, name in enumerate(floor, start=1):
            boxes[name] = page.box(gap * place, 35 + 70 * number, name, width=120)
    for start, end in arrows:
        one, other = boxes[start], boxes[end]
        between = [box for box in boxes.values() if box not in (one, other)]
        page.arrow(one, other, bulge=least_bulge(one, other, between))
    ground = "errors, seeding, progress, plugins: the ground, which all may use"
    page.text(390, 70 * len(floors) + 35, ground, "small")
    return page


def least_bulge(start: Box, end: Box, others: Sequence[Box]) -> float:
    """Returns the least bulge with which an arrow runs through as little of other boxes as can be.

    Its way is looked at in forty places, with eight points of air around a box.
    """

    def cost(bulge: float) -> tuple[int, float]:
        (x1, y1), (x, y), (x2, y2) = start.way_to(end, bulge)
        met = 0
        for step in range(41):
            s = step / 40
            at = (1 - s) ** 2 * x1 + 2 * s * (1 - s) * x + s**2 * x2
            on = (1 - s) ** 2 * y1 + 2 * s * (1 - s) * y + s**2 * y2
            met += any(
                abs(at - box.x) < box.width / 2 + 8 and abs(on - box.y) < box.height / 2 + 8
                for box in others
            )
        return met, abs(bulge)

    return min((float(bulge) for bulge in range(-400, 401, 20)), key=cost)


def imports(contributing: str) -> list[tuple[str, str]]:
    """Returns the arrows of the flowchart in CONTRIBUTING.md."""
    (chart,) = re.findall(r"```mermaid\nflowchart TD\n(.*?)```", contributing, re.S)
    found = []
    for line in chart.splitlines():
        starts, _, ends = line.partition("-->")
        found += [
            (start.strip(), end.strip())
            for start in starts.split("&")
            for end in ends.split("&")
            if ends
        ]
    return found


DRAWINGS = {"model": model, "protocol": protocol, "systems": systems, "rooms": rooms}


def main() -> None:
    """Writes all drawings."""
    OUT.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (OUT / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
