"""What the processes of `test_pool` do: a module that they can import."""

import os
import signal
import sys
import time


def open_double(factor):
    def work(task):
        if task == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if task == "exit":
            sys.exit(3)
        if task == "sleep":
            time.sleep(600)
        return task * factor

    return work


def open_badly():
    sys.exit(7)
