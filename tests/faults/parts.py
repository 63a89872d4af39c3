"""A stack whose processes can be killed one by one, and are started again as a service manager would."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from tests.faults.nursery import Nursery, Process
from tests.stack import READY_WITHIN_S, ROOT, STOPPED_WITHIN_S, Running, Stack, StackError, all_processes

NAMES = ("temporal", "worker", "api")
"""In the order of their start."""

RUNNER = "runner"
"""The Procfile's process that has no database; it is no part of a stack of programs, which are killed one by one."""

MIGRATION = "migration"
"""What runs before all others."""

_SHORTEST_LIFE_S = 1.0
"""A process that ended sooner is started again only after this long."""


class Part:
    """One process of a stack, started again whenever it ends, until it is stopped."""

    def __init__(self, stack: Parts, name: str, command: Sequence[str]) -> None:
        self.starts = 0
        self._stack = stack
        self._name = name
        self._command = command
        self._process: Process | None = None
        self._wanted = threading.Event()
        self._over = threading.Event()
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        """Start it, and keep it running."""
        self._wanted.set()
        self._over.clear()
        self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _start(self) -> None:
        stack = self._stack
        self._process = stack.nursery.start(self._command, stack.process_environment, stack.log_of(self._name))
        (stack.data / f"{self._name}.pid").write_text(str(self._process.pid))
        self.starts += 1

    def _keep(self) -> None:
        while True:
            begun = time.monotonic()
            assert self._process is not None
            self._process.wait()
            if time.monotonic() - begun < _SHORTEST_LIFE_S:
                self._over.wait(_SHORTEST_LIFE_S)
            if not self._wanted.is_set():
                return
            self._start()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it with a signal, for good, and wait until it has ended. Raises `StackError`."""
        self._wanted.clear()
        self._over.set()
        if self._keeper is None or self._process is None:
            return
        self._process.signal(number)
        ended = self._process.wait(STOPPED_WITHIN_S)
        self._process.signal(signal.SIGKILL)
        self._keeper.join()
        self._keeper = None
        if not ended:
            raise StackError(f"{self._name} does not end:\n{self._stack.last_words()}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; if that ends it, it is started again."""
        if self._process is not None:
            self._process.signal(number)

    def kill(self) -> None:
        """`kill -9`; it is started again."""
        self.signal(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last."""
        assert self._process is not None
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.lives


class Kind(StrEnum):
    """What the processes of a stack are: forked ready loaded, or programs."""

    PROGRAMS = "programs"
    SERVICE = "service"
    BUILD = "build"


class Parts(Stack):
    """Processes of the Procfile, each a `Part`; all but programs have a runner among them."""

    def __init__(
        self,
        folder: Path,
        nursery: Nursery,
        *,
        kind: Kind = Kind.PROGRAMS,
        workers: int = 1,
        data: Path | None = None,
        **more: str,
    ) -> None:
        """More than one of `workers` are `worker`, `worker2`, and so on.

        `data` is another data folder than the one in `folder`; `more` is added to the environment of all.
        """
        super().__init__(folder)
        self.data = data or self.data
        self.settings["LEASEHOLD_DATA"] = str(self.data)
        self.nursery = nursery
        self._folder = folder
        self._kind = kind
        self._more = more
        commands = self._commands()
        commands |= {f"worker{n}": commands["worker"] for n in range(2, workers + 1)}
        self._parts = {name: Part(self, name, command) for name, command in commands.items()}

    def __getitem__(self, name: str) -> Part:
        """`temporal`, `worker`, `api`, or one more worker, or the `runner`."""
        return self._parts[name]

    def _commands(self) -> dict[str, list[str]]:
        lines = (ROOT / "Procfile").read_text().splitlines()
        shell = {m[1]: m[2] for line in lines if (m := re.match(r"([\w-]+):\s*(.+)", line))}
        assert tuple(shell) == (*NAMES, RUNNER), "the Procfile has other processes now: the test stack must follow"
        del shell[RUNNER]
        if self._kind is Kind.BUILD:
            from tests.faults.build import WORKFLOW_TASK_TIMEOUT_S

            noticed = json.dumps(f"{WORKFLOW_TASK_TIMEOUT_S}s")
            shell["temporal"] += f" --dynamic-config-value 'history.defaultWorkflowTaskTimeout={noticed}'"
        commands = {name: ["/bin/sh", "-c", f"cd {ROOT} && {line}"] for name, line in shell.items()}
        if self._kind is not Kind.PROGRAMS:
            commands |= {name: [self._kind, name] for name in ("worker", "api", RUNNER)}
        return commands

    @property
    def process_environment(self) -> dict[str, str]:
        """What `scripts/up.py` gives its processes."""
        path = f"{ROOT / '.tools'}:{Path(sys.executable).parent}:{self.environment['PATH']}"
        more = {"TEMPORAL_ADDRESS": self.temporal_address, "PYTHONUNBUFFERED": "1", "PATH": path}
        return {**self.environment, **more, **self._more}

    def log_of(self, name: str) -> Path:
        """Where a process's output goes."""
        return self._folder / f"{name}.log"

    @property
    def running(self) -> bool:
        """Whether anything runs that was not stopped."""
        return any(part.lives for part in self._parts.values())

    def start(self, *names: str) -> Parts:
        """Start these processes, all by default, and wait until everything serves if all of them do."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._migrate()
        for name in names or self._parts:
            self._parts[name].start()
        if all(part.lives for part in self._parts.values()):
            self.serves()
        return self

    def _migrate(self) -> None:
        forked = self._kind is not Kind.PROGRAMS
        command = [self._kind, MIGRATION] if forked else [sys.executable, "-m", "leasehold.store", "upgrade"]
        self.nursery.start(command, {**self.process_environment, "PYTHONPATH": str(ROOT)}, self.log_of("up")).wait()

    def serves(self) -> None:
        """Wait until API, database, Temporal and worker answer. Raises `StackError`."""
        until = time.monotonic() + READY_WITHIN_S
        while not self.ready():
            if time.monotonic() > until:
                raise StackError(f"the stack is not ready after {READY_WITHIN_S:.0f} s:\n{self.last_words()}")
            time.sleep(0.05)

    def close(self) -> None:
        """Stop everything, Temporal last, as `scripts/up.py` does. Raises `StackError` if that leaves anything."""
        problem = None
        for part in reversed(self._parts.values()):
            try:
                part.stop()
            except StackError as error:
                problem = error
        until = time.monotonic() + STOPPED_WITHIN_S
        while self._left() and time.monotonic() < until:
            time.sleep(0.02)
        if left := self._left():
            raise StackError(f"these were left running: {[process.command for process in left]}")
        if problem is not None:
            raise problem

    def _left(self) -> list[Running]:
        """The supervisors that run, of hooks and commands: they have no environment, and are told our folder."""
        return [p for p in all_processes() if f"{self.data}/" in p.command]

    def processes(self) -> dict[int, str]:
        """Pid and command line of all that runs for this stack, except hooks."""
        own = {part.pid: f"test build of {name}" for name, part in self._parts.items() if part.lives}
        return {**own, **super().processes()}

    def last_words(self, lines: int = 30) -> str:
        """The ends of the logs of all processes."""
        words = []
        for name in ("up", *self._parts):
            with contextlib.suppress(FileNotFoundError):
                log = self.log_of(name).read_text(errors="replace").splitlines()[-lines:]
                words += [f"{name} | {line}" for line in log]
        return "\n".join(words)
