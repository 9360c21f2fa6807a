"""What there is to see and to hear of a clip, read by a process that the clip may crash.

Owns that process. What is kept of a clip is `reports.answer_timeline`.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tcaf.errors import TCAFError
from tcaf.execution.outcomes import Crash, Failed, Killed, OutOfMemory, OutOfTime
from tcaf.execution.processes import PATIENT
from tcaf.execution.standing import StandingProcesses
from tcaf.execution.worker import Send
from tcaf.extract.containers import FILE_MEMORY
from tcaf.reports.answer_timeline import ClipView, view_clip


class Viewers:
    """A process that reads frames and waveforms for as long as it is open.

    Args:
        timeout_s: seconds that a clip may take.
        num_frames: how many are kept.
        bins: strokes of the waveform, at most.
    """

    def __init__(self, timeout_s: float, num_frames: int, bins: int) -> None:
        self._processes: StandingProcesses[Path | None, ClipView | str]
        self._processes = StandingProcesses(
            _open_viewer,
            (num_frames, bins),
            1,
            limit=lambda _: timeout_s,
            limit_bytes=FILE_MEMORY,
            environment=PATIENT,
        )

    def start(self) -> None:
        """Starts the process, so that the first clip need not wait for that."""
        # That it does not start is said to whoever asks for a view.
        with suppress(TCAFError):
            self._processes.do(None)

    def view(self, path: Path) -> ClipView:
        """Returns what there is to see and to hear of a clip.

        Raises:
            TCAFError: it cannot be read, in one line.
        """
        found = self._processes.do(path)
        if isinstance(found, ClipView):
            return found
        if isinstance(found, OutOfTime | Killed | OutOfMemory | Crash | Failed):
            raise TCAFError("the clip cannot be drawn: reading it once more came to no end")
        raise TCAFError(found)

    def close(self) -> None:
        """Ends the process."""
        self._processes.close()


def _open_viewer(num_frames: int, bins: int) -> Callable[[Path | None, Send], ClipView | str]:
    """Returns what the process does with each clip."""

    def view(path: Path | None, send: Send) -> ClipView | str:
        if path is None:
            return "started"
        try:
            return view_clip(path, num_frames, bins)
        except TCAFError as error:
            return str(error)

    return view
