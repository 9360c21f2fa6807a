"""An exported model as a static page: features of a clip are classified in the browser, offline.

Owns the folder of the page. Its files stand in `web/`; onnxruntime-web is fetched by npm at the
version and digests of the lock file there, when a page is built and at no other time.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from tcaf.errors import TCAFError, one_line
from tcaf.export.bundle import CLASSES, Bundle, write_bundle
from tcaf.files.atomic import check_place, new_folder

WEB = Path(__file__).parent / "web"
PAGE = ("index.html", "page.css", "page.js", "arrays.js")
PACKAGE = ("package.json", "package-lock.json")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Of onnxruntime-web, what a browser needs to run a model on the CPU."""

NPM_TIMEOUT_S = 600


def check_page(folder: Path, *, overwrite: bool) -> None:
    """Checks that a page can be written to a folder, before anything is made.

    Raises:
        TCAFError: something else is there, or npm is not installed.
    """
    check_place(folder, overwrite=overwrite, what="page of an export", mark=CLASSES)
    if shutil.which("npm") is None:
        raise TCAFError(
            "npm is not installed, which fetches onnxruntime-web for a page: install Node.js"
        )


def write_page(bundle: Bundle, folder: Path, *, overwrite: bool = False) -> None:
    """Writes a page with an exported model into a folder, whole or not at all.

    Args:
        bundle: of a model as ONNX.
        folder: to be made; any static server shows it.
        overwrite: replace a page that is there already.

    Raises:
        TCAFError: see `check_page`; the model is not of ONNX, or npm cannot fetch.
    """
    check_page(folder, overwrite=overwrite)
    if not bundle.model.endswith(".onnx"):
        raise TCAFError(f"a page runs a model of ONNX, {bundle.model} is none")
    with tempfile.TemporaryDirectory() as work:
        fetched = _fetch_runtime(Path(work))
        with new_folder(folder, overwrite=overwrite) as made:
            for name in PAGE:
                shutil.copyfile(WEB / name, made / name)
            (made / "onnxruntime").mkdir()
            for name in RUNTIME:
                shutil.copyfile(fetched / "dist" / name, made / "onnxruntime" / name)
            write_bundle(bundle, made)


def _fetch_runtime(work: Path) -> Path:
    """Returns the folder of onnxruntime-web, fetched and checked by npm."""
    for name in PACKAGE:
        shutil.copyfile(WEB / name, work / name)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(  # noqa: S603 - words of our own
            command, cwd=work, capture_output=True, text=True, check=False, timeout=NPM_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TCAFError(f"npm cannot fetch onnxruntime-web: {one_line(str(error))}") from None
    found = work / "node_modules" / "onnxruntime-web"
    if done.returncode or not all((found / "dist" / name).is_file() for name in RUNTIME):
        told = one_line(done.stderr)[:300] or f"exit status {done.returncode}"
        raise TCAFError(f"npm cannot fetch onnxruntime-web: {told}")
    return found
