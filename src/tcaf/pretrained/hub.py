"""Models by name: a folder, or a repository of the Hugging Face Hub at one commit.

Owns what a name may be, fetching, and what is known of what came: commit and licence. Only
settings, tokenizers and weights in safetensors are fetched; nothing is unpickled and no code of a
model's is run. huggingface_hub keeps the files in its own cache, beside those that other programs
fetched. Loading is `aligned_model`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tcaf.errors import MissingExtraError, TCAFError, one_line
from tcaf.files.transfers import is_offline

SETTINGS = ("*.json", "*.txt", "*.model", "README.md")
"""Settings, tokenizers and the model card, in any folder of a repository."""

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "[0-9]_*/model.safetensors")
"""Weights: in one file or in many, and those of a sentence-transformers model's later modules."""

PASSED_OVER = ("onnx/*", "openvino/*", ".git*", "*/.git*")
"""The same model for other programs."""

_COMMIT = re.compile("[0-9a-f]{40}")


def is_commit(revision: str) -> bool:
    """Returns whether a revision is a whole commit hash, whose content never changes."""
    return _COMMIT.fullmatch(revision) is not None


@dataclass(frozen=True)
class ModelName:
    """What a person calls a model.

    Args:
        name: a folder, or the name of a repository.
        revision: commit, branch or tag; empty for a folder, or for the newest commit.
    """

    name: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Splits `ID_OR_FOLDER[@REVISION]`; a folder that is there may have an @ in its name.

        Raises:
            TCAFError: it is empty, or has nothing before or behind the @.
        """
        if text and _find_folder(text):
            return cls(text)
        name, at, revision = text.partition("@")
        if not name or (at and not revision) or text != text.strip():
            raise TCAFError(
                f"expected a model's folder, or its name on the hub as in "
                f"openai/clip-vit-base-patch32 or NAME@REVISION, got {text!r}"
            )
        return cls(name, revision)

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


@dataclass(frozen=True)
class ModelFiles:
    """A model's files on this machine.

    Args:
        name: of the model, with the commit that was fetched as its revision.
        folder: where they are.
        licence: as the model card says; empty where it does not.
    """

    name: ModelName
    folder: Path
    licence: str = ""

    @property
    def commit(self) -> str:
        """The commit of a model of the hub; empty for a folder."""
        return self.name.revision

    def files(self) -> list[Path]:
        """Returns all files of a folder; of a model of the hub those that `find_model` fetches.

        Other programs keep theirs beside them.
        """
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        return [file for file in files if not self.commit or self._is_fetched(file)]

    def _is_fetched(self, file: Path) -> bool:
        name = file.relative_to(self.folder).as_posix()
        wanted, passed_over = (
            any(fnmatch(name, pattern) for pattern in patterns)
            for patterns in ((*SETTINGS, *WEIGHTS), PASSED_OVER)
        )
        return wanted and not passed_over

    def to_json(self) -> dict[str, str]:
        """Returns what records say of the model."""
        return {"model": self.name.name, "commit": self.commit, "licence": self.licence}


def find_model(text: str) -> ModelFiles:
    """Returns where a model's files lie, after fetching those that are not there yet.

    With a commit as revision nothing is asked of the hub once the files are there. Nothing is
    fetched where `HF_HUB_OFFLINE` or `TCAF_OFFLINE` is 1.

    Args:
        text: `ID_OR_FOLDER[@REVISION]`; without a revision the newest commit.

    Raises:
        TCAFError: no such folder, model or revision; a model that asks for its terms to be accepted
            first, or has no weights in safetensors; no network; or no huggingface_hub.
    """
    name = ModelName.parse(text)
    if folder := _find_folder(name.name):
        return ModelFiles(name, folder, _licence(folder))
    if name.name.startswith((".", "~", os.sep)) or name.name.count("/") > 1:
        raise TCAFError(f"expected the folder of a model at {name.name}, found none")
    folder = _fetch(name)
    if not list(folder.glob("*.safetensors")) and not list(folder.glob("[0-9]_*/*.safetensors")):
        raise TCAFError(
            f"model {name} has no weights in safetensors, and pickled ones are not read; name a "
            f"revision that has them (NAME@refs/pr/NUMBER, if somebody offered them), or convert "
            "it and give the folder"
        )
    return ModelFiles(ModelName(name.name, folder.name), folder, _licence(folder))


def _find_folder(text: str) -> Path | None:
    """Returns the folder that a name stands for; None where there is no such folder."""
    with suppress(OSError, RuntimeError):  # longer than names may be, the home of nobody
        folder = Path(text).expanduser()
        return folder if folder.is_dir() else None
    return None


def _fetch(name: ModelName) -> Path:
    """Returns the folder of a model's commit in the cache of huggingface_hub."""
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError:
        raise MissingExtraError(
            "huggingface_hub is not installed; pip install 'tcaf[hub]'"
        ) from None
    with _one_line_errors(name):
        return Path(
            snapshot_download(
                name.name,
                revision=name.revision or None,
                allow_patterns=[*SETTINGS, *WEIGHTS],
                ignore_patterns=list(PASSED_OVER),
                local_files_only=is_offline() is not None,
                endpoint=constants.ENDPOINT,
                library_name="tcaf",
            )
        )


@contextmanager
def _one_line_errors(name: ModelName) -> Iterator[None]:
    """Says in one line what huggingface_hub raises, and what to do about it."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging

    on_hub = f"https://huggingface.co/{name.name}"
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list each try that fails
    try:
        yield
    except errors.HFValidationError:
        raise TCAFError(
            f"expected the folder of a model, or a name on the hub such as "
            f"openai/clip-vit-base-patch32, got {name.name!r}"
        ) from None
    except errors.GatedRepoError:
        raise TCAFError(
            f"model {name} is given to those only who accepted its terms: do so at {on_hub}, then "
            "log in by `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise TCAFError(
            f"there is no folder {name.name} here and no model {name.name!r} on the hub, or it is "
            "private: log in by `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise TCAFError(
            f"model {name.name!r} has no revision {name.revision!r}; see {on_hub}/commits/main"
        ) from None
    except Exception as error:  # noqa: BLE001 - and whatever its client of HTTP raises
        variable = is_offline()
        # Behind the first line huggingface_hub explains its cache.
        said = one_line(str(error).strip().partition("\n")[0]).removeprefix("Got: ")
        why = f"{variable} is set" if variable else said or type(error).__name__
        raise TCAFError(
            f"cannot fetch model {name} ({why}); fetch it where there is a network by `hf download "
            f"{name.name}{f' --revision {name.revision}' if name.revision else ''} --local-dir "
            "FOLDER` and give the folder"
        ) from None
    finally:
        logging.set_verbosity(level)


def _licence(folder: Path) -> str:
    """Returns the licence that a model card names in its front matter; empty without one."""
    with suppress(OSError, UnicodeDecodeError):
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
        if lines and lines[0].strip() == "---":
            for line in lines[1:]:
                key, _, value = line.partition(":")
                if line.strip() == "---":
                    break
                if key.strip() in ("license", "license_name") and value.strip() not in (
                    "",
                    "other",
                ):
                    return value.split("#")[0].strip().strip("'\"")
    return ""
