"""Whether an error is want of memory."""

_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")
"""What torch's allocator for the CPU says, in a RuntimeError that is no other class of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that there was not enough memory, of the CPU or a GPU.

    "CUDA error: an illegal memory access was encountered" is none, nor is any other error that
    only has the word in it: smaller sizes would not mend those.
    """
    # By name, so that who asks need not import torch.
    if isinstance(error, MemoryError) or _is_torchs(type(error)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text and any(words in text for words in _CPU_ALLOCATOR)
    )


def _is_torchs(kind: type[BaseException]) -> bool:
    return any(
        parent.__name__ == "OutOfMemoryError" and parent.__module__.split(".")[0] == "torch"
        for parent in kind.__mro__
    )
