"""One embedded stack of its own: real processes, free ports, a data folder to throw away.

The end-to-end tests, the benchmark and `examples/demo.py` run on it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx

from leasehold.client import Client

ROOT = Path(__file__).resolve().parent.parent
TEMPORAL = ROOT / ".tools" / "temporal"
LEASEHOLD = Path(sys.executable).with_name("leasehold")

READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 30.0
COMMAND_WITHIN_S = 50.0


class StackError(Exception):
    """A stack did not start or stop as it should; says what it printed last."""


class Stack:
    """`scripts/up.py` with a folder for its data and its log, which outlive it: started again, it finds them."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.log = folder / "up.log"
        api, temporal, ui = free_ports(3)
        self.url = f"http://127.0.0.1:{api}"
        self.temporal_address = f"127.0.0.1:{temporal}"
        self.settings = {
            "LEASEHOLD_DATA": str(self.data),
            "LEASEHOLD_API_PORT": str(api),
            "LEASEHOLD_TEMPORAL_PORT": str(temporal),
            "LEASEHOLD_TEMPORAL_UI_PORT": str(ui),
        }
        self._up: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a user of this stack would have exported, and nothing of any other stack."""
        return {**foreign_environment(), **self.settings}

    @property
    def token(self) -> str:
        """The admin's."""
        return (self.data / "admin-token").read_text().strip()

    @property
    def running(self) -> bool:
        """Whether `scripts/up.py` runs."""
        return self._up is not None and self._up.poll() is None

    @property
    def pid(self) -> int:
        """The process, and the process group, of `scripts/up.py`."""
        assert self._up is not None
        return self._up.pid

    def launch(self, **more: str) -> subprocess.Popen[bytes]:
        """Start `scripts/up.py` on this stack's settings, with `more` of them, in a process group of its own."""
        # MAKELEVEL, as `make up` sets it, has the stack stop when whoever started it is killed.
        environment = {**self.environment, "MAKELEVEL": "1", **more}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "scripts" / "up.py")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> Self:
        """Start everything and wait until it serves. Raises `StackError`."""
        self._up = self.launch()
        until = time.monotonic() + READY_WITHIN_S
        while not self.ready():
            if not self.running:
                raise StackError(f"the stack ended with status {self._up.returncode}:\n{self.last_words()}")
            if time.monotonic() > until:
                raise StackError(f"the stack is not ready after {READY_WITHIN_S:.0f} s:\n{self.last_words()}")
            time.sleep(0.1)
        return self

    def ready(self) -> bool:
        """Whether API, database, Temporal and worker answer."""
        with contextlib.suppress(httpx.HTTPError):
            # Without `verify=False` each look would read all of the machine's certificates first.
            return httpx.get(f"{self.url}/readyz", timeout=2, verify=False, trust_env=False).status_code == 200
        return False

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal to the stack's process group, as a terminal does on Ctrl-C, and return its exit status."""
        os.killpg(self.pid, number)
        return self.ended()

    def ended(self) -> int:
        """Wait until the stack has ended, and return its exit status. Raises `StackError`."""
        assert self._up is not None
        try:
            return self._up.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise StackError(f"the stack does not end:\n{self.last_words()}") from None

    def kill(self, needle: str = "") -> list[int]:
        """`kill -9` every process of the stack, or those whose command line has the words `needle`; return which."""
        killed = [pid for pid, command in self.processes().items() if f"{needle} " in f"{command} "]
        for pid in killed:
            kill(pid)
        return killed

    def close(self) -> None:
        """Stop the stack if it runs, and kill what there is of it. Raises `StackError` if stopping left anything."""
        problem = None
        if self.running:
            try:
                self.stop()
                if left := self.processes():
                    problem = StackError(f"these were left running: {left}")
            except StackError as error:
                problem = error
        until = time.monotonic() + STOPPED_WITHIN_S
        while self.kill() and time.monotonic() < until:
            time.sleep(0.05)
        if problem is not None:
            raise problem

    def processes(self) -> dict[int, str]:
        """Pid and command line of all that runs for this stack, except hooks, which `marked` finds."""
        own = f"LEASEHOLD_DATA={self.data}".encode()
        # The supervisor has an empty environment, and is told a folder inside the data folder.
        inside = f"{self.data}/"
        return {p.pid: p.command for p in all_processes() if own in p.environment or inside in p.command}

    def client(self, token: str | None = None) -> Client:
        """An HTTP client, the admin's if no token is given."""
        return Client(self.url, token or self.token)

    def leasehold(self, *arguments: str, folder: Path = ROOT) -> str:
        """Run the command line in a folder and return what it printed. Raises `StackError` if it fails."""
        return _output([str(LEASEHOLD), *arguments], self.environment, folder)

    def temporal(self, *arguments: str) -> str:
        """The same for Temporal's command line, with this stack's server."""
        command = [str(TEMPORAL), *arguments, "--address", self.temporal_address]
        return _output(command, foreign_environment(), ROOT)

    def last_words(self, lines: int = 40) -> str:
        """The end of the stack's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Running:
    """A process of this machine; zombies have neither command nor environment."""

    def __init__(self, pid: int, command: str, environment: frozenset[bytes]) -> None:
        self.pid = pid
        self.command = command
        self.environment = environment


def all_processes() -> Iterator[Running]:
    """All processes of this machine that this user may look into, except this one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = frozenset((entry / "environ").read_bytes().split(b"\0"))
                yield Running(int(entry.name), command, environment)


def marked(variable: str, value: str) -> list[int]:
    """The processes that have this in their environment: a lease's hooks, say, and all that they started."""
    mark = f"{variable}={value}".encode()
    return [p.pid for p in all_processes() if mark in p.environment]


def kill(pid: int) -> None:
    """`kill -9` one process, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def foreign_environment() -> dict[str, str]:
    """This process's environment without anything that would lead to another stack or another Temporal."""
    ours = ("LEASEHOLD_", "TEMPORAL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no outgoing connection is given while a stack is down.

    No other stack of this process is given them, which may not listen on its own yet, or just now.
    """
    found: list[int] = []
    while len(found) < count:
        # Below the range that Linux gives to outgoing connections, 32768 and up.
        port = random.randrange(15000, 32000)
        with _giving, socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                found.append(port)
    return found


_given: set[int] = set()
_giving = threading.Lock()


def _output(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
    )
    if done.returncode != 0:
        raise StackError(f"{command} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
