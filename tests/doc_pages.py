"""The pages that people read: their blocks of code, their links, their headings."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Args:
        page: name of the file.
        kind: what stands behind the fence; `shell`, `toml`, `python`, `tree` or `formula` by its
            looks where there is none.
        text: of the block.
        number: of its kind on the page, from 0.
    """

    page: str
    kind: str
    text: str
    number: int

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments; lines that end in \\ go on."""
        lines = self.text.replace("\\\n", " ").splitlines()
        found = (shlex.split(line, comments=True) for line in lines)
        # Without variables that stand before a command.
        return [words[1:] if re.match(r"[A-Z_]+=", words[0]) else words for words in found if words]


PROGRAMS = (
    *("tcaf", "make", "pip", "python", "python3", "source"),
    *("curl", "docker", "hf", "torchrun"),
)
"""What a command in the documents begins with."""

SHELLS = ("sh", "bash", "shell", "console")
"""What stands behind the fence of commands."""


def _kind(text: str) -> str:
    first = text.splitlines()[0]
    if first.split()[0] in PROGRAMS:
        return "shell"
    if re.match(r"(# .*\.toml$|\[[\w.]+\]$)", first):
        return "toml"
    if re.match(r"(class|import|from|register)\b", first):
        return "python"
    return "tree" if first.split()[0].endswith("/") else "formula"


def prose(text: str) -> str:
    """Returns a page without its blocks, in which nothing is a link."""
    text = _FENCE.sub("", text)
    return "\n\n".join(part for part in re.split(r"\n{2,}", text) if not part.startswith("    "))


def blocks(page: Path) -> list[Block]:
    """Returns the blocks of a page; those that are parted by an empty line are several."""
    return _blocks(page.name, page.read_text(encoding="utf-8"))


def _blocks(page: str, text: str) -> list[Block]:
    found: list[tuple[int, str, str]] = [
        (each.start(), "shell" if each[1] in SHELLS else each[1], each[2])
        for each in _FENCE.finditer(text)
    ]
    # Fences are blanked out, so that places stay.
    rest = _FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), text)
    for each in re.finditer(r"(?:^|(?<=\n\n))((?: {4}[^\n]*\S[^\n]*\n)+)", rest):
        own = dedent(each[1])
        found.append((each.start(), _kind(own), own))
    counts: dict[str, int] = {}
    ordered = []
    for _, kind, own in sorted(found):
        ordered.append(Block(page, kind, own, counts.setdefault(kind, 0)))
        counts[kind] += 1
    return ordered


ALL = [block for page in PAGES for block in blocks(page)]


def commands_of(page: str, section: str = "") -> list[list[str]]:
    """Returns the words of a page's commands, or of those under a heading."""
    path = next(each for each in PAGES if each.name == page)
    text = path.read_text(encoding="utf-8")
    if section:
        # A block that comes first has an empty line before it too.
        text = "\n" + text.partition(f"## {section}\n")[2].partition("\n## ")[0]
    found = _blocks(page, text)
    return [words for block in found if block.kind == "shell" for words in block.commands]


def headings(page: Path) -> set[str]:
    """Returns the anchors of a page: of its headings, as GitHub makes them, and its own."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    named = set(re.findall(r'<a id="([^"]+)"', text))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return named | {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """Returns what the links of a page lead to, but for addresses of the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8")))
    return [link for link in found if not re.match(r"https?://", link)]


def named_in_tests(page: str, but: str) -> list[str]:
    """Returns the test files that name a page, but for one and for that of all pages."""
    files = (ROOT / "tests").rglob("test_*.py")
    others = (path for path in files if path.name not in (but, "test_docs.py"))
    return [path.name for path in others if page in path.read_text(encoding="utf-8")]
