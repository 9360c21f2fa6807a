"""What people name: a path on this machine, or the address of something elsewhere.

Owns telling them apart. Fetching is `remote`.
"""

import re
from pathlib import Path

from tcaf.errors import TCAFError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?([^/].*|/.*)", re.DOTALL)


def as_url(named: str | Path) -> str | None:
    """Returns an address such as `s3://bucket/store`; None for what names a path.

    A `Path` was one slash shorter the moment it was made, and is understood all the same, unless
    something of that name is there.
    """
    text = str(named)
    match = _URL.fullmatch(text)
    if match is None:
        return None
    scheme, rest = match[1], match[2]
    if "://" in text:
        return text
    if isinstance(named, str) or Path(f"{scheme}:").exists():
        return None
    return f"{scheme}:///{rest}" if scheme in ("file", "local") else f"{scheme}://{rest}"


def check_local(named: str | Path) -> None:
    """Checks that something is no address: writing goes to folders of this machine.

    Raises:
        TCAFError: it is one.
    """
    if url := as_url(named):
        raise TCAFError(
            f"cannot write to {url}: results are written to this machine; name a folder here, and "
            "copy it when it is done"
        )
