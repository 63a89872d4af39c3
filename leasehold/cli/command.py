"""The command that `leasehold run` runs: a job of its own, as a shell would start it.

It has its own process group, so that a signal reaches it and everything it started exactly once: from the terminal
if it was given that, else forwarded by us.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from leasehold.cli.exits import SIGNALLED
from leasehold.cli.output import note, one_line


class Command:
    """A running command. Raises `OSError` when it cannot be started."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._terminal = _terminal()
        self._process = subprocess.Popen(argv, env=env, process_group=0)
        self._running = True
        self._stopping = threading.Lock()
        if self._terminal is not None:
            # We are in the background from here on, and must be allowed to take the terminal back.
            self._ttou = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            self._resume()

    def send(self, signum: int) -> None:
        """Send a signal to the command and all that it started, unless it has ended."""
        if self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def stop(self, why: str) -> None:
        """Tell people why, and the command to end, unless it has ended already; who comes first says why."""
        if self._stopping.acquire(blocking=False) and self._running:
            note(one_line(f"{why}: stopping the command"))
            self.send(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the end, and return the exit status; 128 + n where signal n was the end."""
        stops = 0 if self._terminal is None else os.WUNTRACED
        while True:
            _, status = os.waitpid(self._process.pid, stops)
            if not os.WIFSTOPPED(status):
                break
            self._suspend()
        self._running = False
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._terminal is not None:
            self._take_terminal(os.getpgrp())
            signal.signal(signal.SIGTTOU, self._ttou)
        return code if code >= 0 else SIGNALLED - code

    def _suspend(self) -> None:
        """The command was stopped (Ctrl-Z): stop with it, and go on with it when the shell says so."""
        self._take_terminal(os.getpgrp())
        os.killpg(0, signal.SIGTSTP)
        self._resume()

    def _resume(self) -> None:
        """Hand over the terminal, if we have it, and wake the command, which may have asked for it too early."""
        if self._terminal is not None and os.tcgetpgrp(self._terminal) == os.getpgrp():
            self._take_terminal(self._process.pid)
        self.send(signal.SIGCONT)

    def _take_terminal(self, group: int) -> None:
        if self._terminal is not None:
            # The command may be gone, or the terminal.
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._terminal, group)


def _terminal() -> int | None:
    """The terminal to hand to the command: none where it is not ours, or where a pipe's other end may need it."""
    try:
        ours = sys.stdout.isatty() and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return None
    return 0 if ours else None
