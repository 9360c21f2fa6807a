"""What MkDocs calls while it builds the site: generated pages, and files from outside `docs/`.

Pages link to files of the repository, such as `../results/ready.md`, so that they can be read where
they lie. The site holds every file that is linked to, and those that these link to, at its path in
the repository; links are turned round accordingly. So the site needs no address of a repository.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "website"), str(ROOT / "src")]

import reference  # noqa: E402

GENERATED = {
    "commands.md": reference.commands_page,
    "settings.md": reference.settings_page,
    "api.md": reference.api_page,
}
"""Pages that follow from the code."""

PROJECT = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the repository that the site has besides those that are linked to."""

_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
_MERMAID = re.compile(r"^```mermaid\n.*?^```$", re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages, and every file of the repository that a page links to."""
    for name, page in GENERATED.items():
        files.append(File.generated(config, name, content=page()))
    left = [Path(f.abs_src_path) for f in files if f.is_documentation_page() and f.abs_src_path]
    wanted = list(PROJECT)
    while wanted or left:
        for path in wanted:
            uri = site_path(path)
            # What is not there is left to MkDocs, which names the link.
            if files.get_file_from_path(uri) or not (ROOT / path).is_file():
                continue
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                left.append(ROOT / path)
        page = left.pop() if left else None
        wanted = _linked(page, page.read_text(encoding="utf-8")) if page else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links to files of the repository into links within the site."""
    where = page.file.abs_src_path
    if where is None:
        return markdown
    # GitHub draws this; here it would be drawn by a script from elsewhere.
    drawing = posixpath.relpath("drawings/rooms.svg", posixpath.dirname(page.file.src_uri) or ".")
    markdown = _MERMAID.sub(f"![The rooms and what each imports]({drawing})", markdown)

    def turned(link: re.Match[str]) -> str:
        target = site_path(_repository_path(Path(where), link[2]))
        here = posixpath.dirname(page.file.src_uri) or "."
        return f"{link[1]}{posixpath.relpath(target, here)}{link[3] or ''}{link[4]}"

    return _outside_code(markdown, lambda text: _LINK.sub(turned, text))


def _outside_code(markdown: str, change: Any) -> str:
    """Changes all of a text but its fenced blocks."""
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _linked(page: Path, text: str) -> list[str]:
    """Returns the files of the repository that a page links to, as seen from its root."""
    return [_repository_path(page, link[2]) for link in _LINK.finditer(_FENCE.sub("", text))]


def _repository_path(page: Path, target: str) -> str:
    """Returns what a link of a page leads to, as seen from the repository's root."""
    here = page.parent.relative_to(ROOT).as_posix()
    path = posixpath.normpath(posixpath.join(here, target))
    if (ROOT / path).is_dir():
        path = posixpath.join(path, "README.md")
    # A page that is generated has no file to be found.
    return path


def site_path(path: str) -> str:
    """Returns where a file of the repository is in the site."""
    return path.removeprefix("docs/")
