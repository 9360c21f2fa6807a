"""Which processes go on: one that waits for the system to take note of its end has ended."""

from contextlib import suppress


def still_running(processes, timeout):
    """Returns the processes of psutil that have not ended after some seconds."""
    import psutil

    _, left = psutil.wait_procs(processes, timeout=timeout)
    found = []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
