"""Going on without a terminal: a process of its own, whose words go to a file or to the system's log."""

from __future__ import annotations

import io
import os
import sys
import syslog
from typing import Any, TextIO


def open_log(path: str) -> int:
    """Open a file for what will be said, at its end; raise `OSError` where that cannot be."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def go_to_background(log: int | None) -> bool:
    """Go on in another process; return whether this is it, or the one that it came from.

    It belongs to no session and no terminal, and prints to `log`, or line by line to the system's log. There must be
    no other threads.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return False
    os.setsid()
    # Who leads a session may get a terminal again by opening one.
    if os.fork():
        os._exit(0)
    _leave_terminal(log)
    return True


def _leave_terminal(log: int | None) -> None:
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number, target in enumerate((nothing, nothing if log is None else log, nothing if log is None else log)):
        os.dup2(target, number)
    if log is None:
        syslog.openlog("leasehold", syslog.LOG_PID, syslog.LOG_USER)
        sys.stdout, sys.stderr = to_syslog(syslog.LOG_INFO), to_syslog(syslog.LOG_NOTICE)


def to_syslog(level: int) -> TextIO:
    """A stream each line of which goes to the system's log."""
    return io.TextIOWrapper(io.BufferedWriter(_Syslog(level)), errors="replace")


class _Syslog(io.RawIOBase):
    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level
        self._rest = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            self._send(line)
        return size

    def close(self) -> None:
        if not self.closed and self._rest:
            self._send(self._rest)
            self._rest = b""
        super().close()

    def _send(self, line: bytes) -> None:
        # The log takes no NUL.
        syslog.syslog(self._level, line.decode(errors="replace").replace("\0", "\ufffd"))
