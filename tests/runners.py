"""Runners beside the stack: processes on build hosts of their own, as far as one machine has several."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.stack import READY_WITHIN_S, ROOT, STOPPED_WITHIN_S, Stack, StackError, foreign_environment, kill, marked


class RunnerProcess:
    """`python -m worker.runner` with a token and a folder of its own; started again, it finds what it left."""

    def __init__(self, stack: Stack, folder: Path, name: str, *, labels: str = "", slots: int = 4) -> None:
        self.name = name
        self.data = folder / name
        self._stack = stack
        self._arguments = ["--name", name, "--labels", labels, "--slots", str(slots)]
        with stack.client() as admin:
            token = admin.create_token(user=name, role="runner")["token"]
        self._environment = {
            **foreign_environment(),
            "LEASEHOLD_URL": stack.url,
            "LEASEHOLD_TOKEN": token,
            "LEASEHOLD_DATA": str(self.data),
            "TEMPORAL_ADDRESS": stack.temporal_address,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start it, and wait until the service knows it."""
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data.parent / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.runner", *self._arguments],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        end = time.monotonic() + READY_WITHIN_S
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > end:
                raise StackError(f"runner {self.name} is not up")
            time.sleep(0.05)
        return self

    def _is_up(self) -> bool:
        with self._stack.client() as client:
            mine = [host for one in client.runners() if one["name"] == self.name for host in one["hosts"]]
        instance = self.data / f"runner-{self.name}" / "instance"
        return instance.exists() and instance.read_text().strip() in {host["instance"] for host in mine}

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """`kill -9` the process itself; what it started is not hit."""
        kill(self.pid)
        assert self._process is not None
        self._process.wait(STOPPED_WITHIN_S)

    def kill_all(self) -> None:
        """`kill -9` the process and its supervisor, so that nobody is left to end its commands."""
        for pid in (self.pid, *_children(self.pid)):
            kill(pid)
        assert self._process is not None
        self._process.wait(STOPPED_WITHIN_S)

    def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOPPED_WITHIN_S)

    def close(self) -> None:
        """Stop it if it runs, and kill all that has its settings."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        for pid in marked("LEASEHOLD_DATA", str(self.data)):
            kill(pid)


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def commands_of(lease: str) -> list[int]:
    """The processes that live of a lease's command."""
    return marked("LEASEHOLD_LEASE", lease)
