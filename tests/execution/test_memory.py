"""What is want of memory and what is not."""

import ast
import inspect

import numpy as np
import pytest
import torch

from tcaf.execution import memory
from tcaf.execution.memory import is_out_of_memory

HUGE = 2**50
"""A petabyte and more: no machine has it."""


def raised(function, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - asked of below
        function(*arguments)
    return caught.value


def test_torch_without_memory_on_the_cpu():
    error = raised(torch.empty, HUGE)
    assert type(error) is RuntimeError  # which torch uses for everything
    assert is_out_of_memory(error)


def test_python_and_numpy_without_memory():
    assert is_out_of_memory(raised(bytearray, HUGE))
    error = raised(np.empty, HUGE)
    assert type(error) is not MemoryError  # a class of numpy's own
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        # Older words of torch's, with the place that they come from.
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: not enough memory"),
    ],
)
def test_other_words_for_it(error):
    assert is_out_of_memory(error)


class OutOfMemoryError(RuntimeError):
    """One of somebody else's."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError(
            "unsupported operation: more than one element of the tensor refers to a "
            "single memory location"
        ),
        RuntimeError("not enough memory"),
        ValueError("DefaultCPUAllocator: not enough memory"),
        OSError(12, "Cannot allocate memory"),
        KeyboardInterrupt(),
        OutOfMemoryError("of a game"),
    ],
)
def test_the_word_alone_is_none(error):
    assert not is_out_of_memory(error)


def test_a_real_error_with_the_word_is_none():
    error = raised(torch.zeros(1).expand(7).add_, 1)
    assert "memory" in str(error)
    assert not is_out_of_memory(error)


def test_torch_is_not_needed_to_ask():
    tree = ast.parse(inspect.getsource(memory))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
