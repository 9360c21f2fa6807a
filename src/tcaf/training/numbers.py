"""Numbers that cannot be: what no run could have written is refused where it is read.

Owns the range of each number that a run keeps, by its name, wherever it stands. Settings check
themselves (`settings.validation`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from tcaf.errors import TCAFError
from tcaf.evaluation.scores import SCORES

Rule = tuple[str, Callable[[float], bool]]

# A mean of accuracies that are all 1 is 1 but for rounding.
_SCORE: Rule = ("a number from 0 to 1", lambda value: 0 <= value <= 1 + 1e-9)
_NOT_NEGATIVE: Rule = ("a finite number from 0 on", lambda value: value >= 0)
_COUNT: Rule = ("a whole number from 0 on", lambda value: value >= 0 and value % 1 == 0)

RULES: dict[str, Rule] = {
    **dict.fromkeys((*SCORES, "curve_area"), _SCORE),
    "gamma": ("a finite number", lambda value: True),
    "temperature": ("a finite number above 0", lambda value: value > 0),
    "stage": ("1 or 2", lambda value: value in (1, 2)),
    "epoch": ("a whole number from 1 on", lambda value: value >= 1 and value % 1 == 0),
    "stage_1": _COUNT,
    "stage_2": _COUNT,
    "learning_rate": _NOT_NEGATIVE,
    "seconds": _NOT_NEGATIVE,
}
"""What each number has to be, in words, and whether a finite one is that."""

_OPTIONAL = {*SCORES, "curve_area", "gamma", "temperature"}
"""What may be None: scores without clips, what imported weights and older releases do not have."""


def check_numbers(values: Mapping[str, Any], where: str) -> None:
    """Checks the numbers of a JSON object and of those inside it.

    Args:
        values: as they were read; names without a rule are passed over.
        where: what holds them, for messages.

    Raises:
        TCAFError: one is not what its rule says.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            check_numbers(value, where)
        elif name in RULES and not (value is None and name in _OPTIONAL):
            expected, holds = RULES[name]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and math.isfinite(value) and holds(value)):
                raise TCAFError(
                    f"{where} is damaged: expected {name} to be {expected}, found {value!r}"
                )
