"""Which tokens lie in a stretch of a clip."""

import pytest

from tcaf.data.windows import tokens_within


@pytest.mark.parametrize(
    ("segment", "step_s", "tokens"),
    [
        ((0.0, 2.0), 1.0, [0, 1]),
        # Middles at 0.5, 1.5, 2.5: the first one lies before the start.
        ((0.6, 2.6), 1.0, [1, 2]),
        ((1.1, 1.3), 1.0, [1]),
        ((0.6, 0.8), 1.0, [0]),
        ((1.28, 2.56), 0.64, [2, 3]),
        ((7.0, 9.0), 1.0, []),
        ((3.0, 4.0), None, [0, 1, 2, 3, 4]),
    ],
)
def test_tokens_within(segment, step_s, tokens):
    assert list(range(5))[tokens_within(segment, step_s)] == tokens
