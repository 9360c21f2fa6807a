"""What a part of the campaign hands back: its section of the report."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A section of the report, and whether the part met its criterion."""

    title: str
    passed: bool
    text: str
    """Markdown that stands under the title: what was done, the criterion, tables, faults."""
    seconds: float


def listed(faults: Sequence[str]) -> list[str]:
    """Returns the lines that end a section: its faults, one a line; none where there are none."""
    if not faults:
        return []
    return ["", "Faults:", "", *(f"- {' '.join(fault.split())}" for fault in faults)]
