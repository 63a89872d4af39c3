"""Runs the command line: in this process, or as a process of its own where signals matter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from leasehold.cli import main
from tests.unit.fake_api import TOKEN, FakeApi

ROOT = Path(__file__).parents[2]

# A test run that a script put into the background ignores SIGINT, and so would all that it starts.
_HEED_SIGNALS = "import signal; [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGQUIT)]; "
_AS_A_PROCESS = "import os, sys; os.execv(sys.executable, [sys.executable, '-m', 'leasehold.cli', *sys.argv[1:]])"
_AS_A_FUNCTION = "from leasehold.cli import main; main()"


_started: list[subprocess.Popen[str]] = []


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def out_bytes(self) -> bytes:
        """Standard output, where it is not all text."""
        return self.out.encode(errors="surrogateescape")


class Cli:
    """`cli("ls", "--json")` runs a command against the fake API in this process."""

    def __init__(
        self, api: FakeApi, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        self._capture = capfdbinary
        monkeypatch.setenv("LEASEHOLD_URL", api.url)
        monkeypatch.setenv("LEASEHOLD_TOKEN", TOKEN)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")

    def __call__(self, *argv: str) -> Outcome:
        with pytest.raises(SystemExit) as end:
            main(argv)
        out, err = self._capture.readouterr()
        return Outcome(int(end.value.code or 0), out.decode(errors="surrogateescape"), err.decode())


def environment(api: FakeApi, **more: str) -> Mapping[str, str]:
    """The environment of a command that talks to the fake API."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "LEASEHOLD_URL": api.url, "LEASEHOLD_TOKEN": TOKEN, **more}


def start(
    api: FakeApi, *argv: str, wrapper: str = "", in_process: bool = False, **options: Any
) -> subprocess.Popen[str]:
    """Start a command as a process; `wrapper` is Python to run first, in the very same interpreter if `in_process`."""
    program = wrapper + _HEED_SIGNALS + (_AS_A_FUNCTION if in_process else _AS_A_PROCESS)
    command = [sys.executable, "-c", program, *argv]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen(command, env=environment(api), text=True, cwd=ROOT, **pipes)
    _started.append(process)
    return process


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that it started itself; each leads a group."""
    threads = Path(f"/proc/{process.pid}/task")
    return [int(pid) for thread in threads.iterdir() for pid in (thread / "children").read_text().split()]


def kill_leftovers() -> None:
    """End what a failed test left running, with the commands it runs."""
    for process in _started:
        if process.poll() is None:
            for child in children(process):
                os.killpg(child, signal.SIGKILL)
            process.kill()
        process.communicate()
    _started.clear()


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Wait for its end."""
    out, err = process.communicate(timeout=20)
    return Outcome(process.returncode, out, err)
