"""What a part of the campaign hands back: its section of the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A section of the report, and whether the part met its criterion."""

    title: str
    passed: bool
    text: str
    """Markdown that stands under the title: what was done, the criterion, tables, faults."""
    seconds: float
