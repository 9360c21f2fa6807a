"""Folders sent to the Hugging Face Hub, each as one commit.

Owns what is asked of huggingface_hub for that, and what goes wrong in one line. Fetching is `hub`;
what is in a folder is for whoever sends it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tcaf.errors import MissingExtraError, TCAFError, one_line
from tcaf.files.transfers import is_offline

Kind = Literal["model", "dataset"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Pushed:
    """What is on the hub.

    Args:
        name: of the repository, as user/name.
        kind: of it.
        commit: that the folder became.
    """

    name: str
    kind: Kind
    commit: str

    @property
    def address(self) -> str:
        """What tcaf opens, at this commit whatever comes after it."""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.name}@{self.commit}"


def check_name(name: str) -> None:
    """Checks that a repository may be called so, before anything is made.

    Raises:
        TCAFError: it may not.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise TCAFError(f"expected the name of a repository on the hub as user/name, got {name!r}")


def push_folder(
    folder: Path,
    name: str,
    kind: Kind,
    *,
    message: str,
    private: bool = False,
    branch: str = "",
) -> Pushed:
    """Makes the content of a folder that of a repository, which is made if it is not there.

    Files that are on the hub and not in the folder are deleted there; earlier commits keep them.

    Args:
        folder: its files.
        name: of the repository, as user/name.
        kind: of it.
        message: of the commit.
        private: whether a repository that is made is for its owner alone.
        branch: that the commit goes to; `main` by default.

    Raises:
        TCAFError: a name that cannot be, nobody is logged in or may write there, no network, or
            no huggingface_hub.
    """
    check_name(name)
    if variable := is_offline():
        raise TCAFError(f"cannot push to {name}: {variable} is set; unset it")
    try:
        from huggingface_hub import HfApi, constants
    except ImportError:
        raise MissingExtraError(
            "huggingface_hub is not installed; pip install 'tcaf[hub]'"
        ) from None
    hub = HfApi(endpoint=constants.ENDPOINT, library_name="tcaf")
    with _one_line_errors(name):
        hub.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        if branch:
            hub.create_branch(name, repo_type=kind, branch=branch, exist_ok=True)
        done = hub.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=folder,
            commit_message=message,
            revision=branch or None,
            delete_patterns="*",
        )
    return Pushed(name, kind, done.oid)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Says in one line what huggingface_hub raises, and what to do about it."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    disable_progress_bars()
    try:
        yield
    except errors.HfHubHTTPError as error:
        status = None if error.response is None else error.response.status_code
        if status in (401, 403):
            raise TCAFError(
                f"cannot push to {name}: log in as someone who may write there by `hf auth login`, "
                "with a token that may write"
            ) from None
        raise TCAFError(f"cannot push to {name}: {_first_line(error)}") from None
    except errors.LocalTokenNotFoundError:
        raise TCAFError(f"cannot push to {name}: log in by `hf auth login`") from None
    except Exception as error:  # noqa: BLE001 - and whatever its client of HTTP raises
        raise TCAFError(f"cannot push to {name}: {_first_line(error)}") from None
    finally:
        logging.set_verbosity(level)
        enable_progress_bars()


def _first_line(error: Exception) -> str:
    return one_line(str(error).strip().partition("\n")[0]) or type(error).__name__
