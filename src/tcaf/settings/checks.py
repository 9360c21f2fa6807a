"""Checks."""

import math
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tcaf.errors import TCAFError, did_you_mean


@dataclass(frozen=True)
class _Range:
    """What a number must be: from `least` (or above it, if `least_open`) to below `below`."""

    least: float
    least_open: bool = False
    below: float = math.inf

    def describe(self) -> str:
        """Returns the range in words."""
        low = f"above {self.least:g}" if self.least_open else f"at least {self.least:g}"
        return low if self.below == math.inf else f"{low} and below {self.below:g}"

    def holds(self, value: float | int) -> bool:
        """Returns whether a number lies in the range."""
        low = value > self.least if self.least_open else value >= self.least
        return low and value < self.below


_POSITIVE = _Range(0.0, least_open=True)
_FRACTION = _Range(0.0, below=1.0)
_COUNT = _Range(1.0)
_RANGES = {
    "fourier_scale": _POSITIVE,
    "batch_norm_momentum": _Range(0.0, least_open=True, below=1 + 1e-9),
    "plateau_epochs": _COUNT,
    "epochs": _COUNT,
    "batches_per_epoch": _COUNT,
    "batch_size": _COUNT,
    "learning_rate": _POSITIVE,
    "weight_decay": _Range(0.0),
    "beta1": _FRACTION,
    "beta2": _FRACTION,
    "plateau_factor": _Range(0.0, least_open=True, below=1.0),
    "window_s": _POSITIVE,
    "warmup_epochs": _Range(0.0),
    "clip_norm": _POSITIVE,
    "gamma_max": _Range(0.0),
    "gamma_step": _POSITIVE,
    "strongest": _POSITIVE,
    "margin": _POSITIVE,
    "ratio": _Range(0.0, least_open=True, below=1.0),
}
"""Of numbers that are no dropout (a fraction), size or count (at least 1)."""


def _is(value: object, hint: Any) -> bool:
    """Returns whether a value is of an annotated type; whole numbers count as numbers."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is UnionType:
        return any(_is(value, choice) for choice in get_args(hint))
    if hint in (int, float):
        kinds = int if hint is int else int | float
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def check_type(name: str, value: object, hint: Any) -> None:
    """Checks one setting against its annotation.

    Raises:
        TCAFError: it is of another type, or not among the choices.
    """
    if _is(value, hint):
        return
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        told = ", ".join(map(repr, choices))
        near = did_you_mean(str(value), choices)
        raise TCAFError(f"{name}: expected one of {told}, got {value!r}{near}")
    told = getattr(hint, "__name__", str(hint))
    raise TCAFError(f"{name}: expected {told}, got {value!r}")


def check_settings(section: str, settings: object) -> None:
    """Checks types and choices of a section's settings, and that numbers are finite and in range.

    Raises:
        TCAFError: naming the setting, what was expected and what came.
    """
    hints = get_type_hints(type(settings))
    for name, value in vars(settings).items():
        check_type(f"{section}.{name}", value, hints[name])
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        range_ = _RANGES.get(name, _FRACTION if name.startswith("dropout") else _COUNT)
        if not math.isfinite(value) or not range_.holds(value):
            unit = " seconds" if name.endswith("_s") else ""
            raise TCAFError(f"{section}.{name} must be {range_.describe()}{unit}, got {value}")
