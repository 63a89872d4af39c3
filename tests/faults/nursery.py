"""Starts processes of test stacks: programs, or the service and its test builds, which it forks ready loaded.

    python -m tests.faults.nursery [preload]

A line of JSON on its standard input starts a process, a line on its standard output says its pid. All that it started
is killed when it ends, which it does when whoever started it does, however that ends.

Loading the service takes a second of CPU, so a process that is to be killed a hundred times is forked from here: a
fresh one in every other respect.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from tests.stack import ROOT

_PR_SET_PDEATHSIG = 1


class Process:
    """A process that was started, known by a descriptor, so that no other one is taken for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended, and return whether it has."""
        return self._fd < 0 or bool(select.select([self._fd], [], [], timeout_s)[0])

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return not self.wait(0)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal if it runs."""
        if self.lives:
            signal.pidfd_send_signal(self._fd, number)


class Nursery:
    """The process that starts others; usable inside `with`, from any thread."""

    def __init__(self, *, preload: bool = False) -> None:
        """`preload`: load the service, without which only programs can be started."""
        self._preload = preload
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery", *(["preload"] if self._preload else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
        """Start a program; its output is added to `log`.

        The command `["build", name]` is a test build, `["service", name]` the service itself.
        """
        order = {"command": list(command), "environment": dict(environment), "log": str(log)}
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            return Process(int(self._process.stdout.readline()))


def _serve() -> None:
    # The kernel reaps the children: whoever wants to know looks at them by a descriptor.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
        os.write(1, f"{pid}\n".encode())


def _become(order: dict[str, Any]) -> NoReturn:
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(order["environment"])
        command = order["command"]
        if command[0] in {"build", "service"}:
            from tests.faults import build

            (build.run if command[0] == "build" else build.serve)(command[1])
        os.execvp(command[0], command)
    except BaseException as error:
        os.write(2, f"{order['command']} could not be started: {error!r}\n".encode())
        raise
    finally:
        os._exit(1)


if __name__ == "__main__":
    if "preload" in sys.argv:
        from tests.faults import build

        build.load()
    _serve()
