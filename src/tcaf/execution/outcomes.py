"""What comes in place of an answer, where a process has ended or its work has failed: in words.

Owns nothing of how that is found out, which is `processes`.
"""

import traceback
from dataclasses import dataclass

from tcaf.errors import TCAFError


@dataclass(frozen=True)
class Crash:
    """The process ended by itself before it had answered, at the last try of the task.

    Args:
        reason: in words.
    """

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Killed:
    """The process was ended from outside before it had answered, which says nothing of the task.

    Args:
        reason: in words.
        wants_memory: whether it was by the signal that also comes for want of memory.
    """

    reason: str
    wants_memory: bool

    @property
    def hint(self) -> str:
        """What to add to words such as "killed"."""
        return ", perhaps for want of memory" if self.wants_memory else ""

    def __str__(self) -> str:
        return self.reason + self.hint


@dataclass(frozen=True)
class OutOfTime:
    """The process was ended here, since it had not answered within the time that the task has.

    Args:
        limit_s: that time, in seconds.
    """

    limit_s: float

    def __str__(self) -> str:
        return f"not done within {self.limit_s:.0f} s"


@dataclass(frozen=True)
class OutOfMemory:
    """The process ended itself, since it took more memory than the task may.

    Args:
        limit_bytes: that much, beyond what the process had before it.
    """

    limit_bytes: float

    def __str__(self) -> str:
        return f"it takes more than {self.limit_bytes / 2**30:.1f} GiB"


@dataclass(frozen=True)
class Failed:
    """The function raised; what comes in place of an answer where errors are not raised again.

    Args:
        error: what it raised; what a pipe might not carry is a RuntimeError that names it.
        trace: the traceback in the process.
    """

    error: Exception
    trace: str

    @classmethod
    def of(cls, error: Exception) -> "Failed":
        """Makes an error fit to be sent: not every exception goes through a pipe."""
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, OSError) and error.errno is not None:
            paths = (error.filename, None, error.filename2)
            return cls(OSError(error.errno, error.strerror, *paths), trace)
        if isinstance(error, TCAFError):
            return cls(TCAFError(str(error)), trace)
        return cls(RuntimeError(f"{type(error).__name__}: {error}"), trace)


Failure = Failed | Crash | Killed | OutOfTime | OutOfMemory
"""What comes in place of an answer."""
