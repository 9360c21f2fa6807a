"""How much anybody may ask for: the settings of a page or a service that others reach."""

from dataclasses import dataclass

from tcaf.errors import TCAFError
from tcaf.extract.containers import FILE_MEMORY


@dataclass(frozen=True)
class Limits:
    """How much may be asked for.

    Args:
        max_mib: MiB of a file.
        max_length_s: seconds that a clip may last.
        timeout_s: seconds that reading a file may take.
        patience_s: seconds that a file may wait until somebody reads it.
        memory_gib: GiB that it may take.
        max_waiting: files that may wait to be read, beside those that are.
        max_names: class names to choose from, at most.
        max_name_length: characters of a name.
        max_json_mib: MiB of a question without a file, which may hold features.
        upload_s: seconds that sending a question may take.
        max_tokens: tokens of a clip's features that are sent, at most.
        cache_mib: MiB of features that are kept.
        cache_names: lists of names whose vectors are kept.

    Raises:
        TCAFError: a limit that is not above 0.
    """

    max_mib: float = 256.0
    max_length_s: float = 600.0
    timeout_s: float = 120.0
    patience_s: float = 60.0
    memory_gib: float = FILE_MEMORY / 2**30
    max_waiting: int = 16
    max_names: int = 2000
    max_name_length: int = 200
    max_json_mib: float = 16.0
    upload_s: float = 120.0
    max_tokens: int = 20_000
    cache_mib: float = 256.0
    cache_names: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "max_waiting" else None
            if not (value > 0 or value == least):
                raise TCAFError(f"{name} must be above 0, got {value:g}")

    @property
    def max_bytes(self) -> int:
        """Bytes of a file."""
        return int(self.max_mib * 2**20)
