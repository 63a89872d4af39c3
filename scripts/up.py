"""Runs the embedded stack: migrates the database, then the Procfile's processes until one ends or a signal comes.

Whatever ends it (Ctrl-C, SIGTERM, SIGHUP, a process that died, make that was killed), every process gets SIGTERM and
time to finish, then SIGKILL, with all that it left in its process group. Only the standard library is used.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
TICK = 0.2  # seconds between looks at the processes
STOP = 9.0  # seconds that the worker, the API and the runner have to finish
STOP_LAST = 3.0  # seconds for Temporal after them; both together stay below 15
PORTS_WAIT = 10.0  # seconds that an earlier stack, killed a moment ago, has to leave its ports
COLOURS = ("36", "33", "32", "35")


class UpError(Exception):
    """Why the stack cannot start, as a sentence for the person who tried."""


def _end_with_parent() -> Callable[[], None] | None:
    """A function for the child, after fork, that has the kernel send it SIGTERM when this process dies (Linux).

    Without it, `kill -9` of this process would leave the stack running. It is tied to the thread that forks: keep this
    program to one thread.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        return None
    parent = os.getpid()

    def in_child() -> None:
        prctl(1, int(signal.SIGTERM))  # 1 is PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return in_child


class Child:
    """A process in a session of its own, so that a Ctrl-C reaches only this program, which stops them in order."""

    def __init__(self, name: str, command: str) -> None:
        self.name = name
        self.rest = b""
        self.gone = False
        self.quiet = False
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
            preexec_fn=_end_with_parent(),
        )

    @property
    def out(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def leaves_something(self) -> bool:
        """Whether the process or anything else in its process group is alive."""
        self.process.poll()
        if not self.gone:
            try:
                os.killpg(self.process.pid, 0)
            except (ProcessLookupError, PermissionError):
                self.gone = True
        return not self.gone

    def kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Stack:
    """The running processes and their output, each line with the name of the process before it."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.children: list[Child] = []
        self.selector = selectors.DefaultSelector()
        self.reason: str | None = None
        # Killing make does not reach what it started: notice that it is gone.
        self.parent = os.getppid() if "MAKELEVEL" in os.environ else None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.reason = self.reason or signal.Signals(number).name

    def say(self, name: str, line: bytes) -> None:
        prefix = f"{name:<{self.width}} | ".encode()
        if sys.stdout.isatty():
            colour = COLOURS[sum(name.encode()) % len(COLOURS)]
            prefix = f"\033[{colour}m".encode() + prefix + b"\033[0m"
        try:
            sys.stdout.buffer.write(prefix + line + b"\n")
            sys.stdout.buffer.flush()
        except OSError:
            # Nobody reads any more (`make up | head`). Stop; write to nowhere until then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.reason = self.reason or "the output was closed"

    def start(self, name: str, command: str) -> Child:
        child = Child(name, command)
        self.children.append(child)
        self.selector.register(child.out, selectors.EVENT_READ, child)
        return child

    def pump(self, seconds: float) -> None:
        """Passes on what the processes print, for at most this long."""
        for key, _ in self.selector.select(seconds):
            child: Child = key.data
            data = os.read(key.fd, 65536)
            *lines, child.rest = (child.rest + data).split(b"\n")
            if child.rest and (not data or len(child.rest) > 65536):
                lines.append(child.rest)
                child.rest = b""
            for line in [] if child.quiet else lines:
                self.say(child.name, line)
            if not data:
                self.selector.unregister(child.out)

    def run_until(self, done: Callable[[], bool]) -> None:
        """Runs until this is true or there is a reason to stop."""
        while self.reason is None and not done():
            self.pump(TICK)
            if self.parent is not None and os.getppid() != self.parent:
                self.reason = "make is gone"

    def end(self, children: Iterable[Child], seconds: float) -> None:
        """SIGTERM to these processes, and SIGKILL to their groups where anything is left after this long."""
        left = [child for child in children if child.leaves_something()]
        for child in left:
            # A process alone, not its group: the worker stops its own hooks.
            child.process.terminate()
        until = time.monotonic() + seconds
        while left and time.monotonic() < until:
            self.pump(0.05)
            left = [child for child in left if child.leaves_something()]
        for child in left:
            self.say("up", f"{child.name}, or what it started, did not finish within {seconds:.0f} s: killed".encode())
            child.kill_group()
            child.process.wait()

    def close(self) -> None:
        first, rest = self.children[:1], self.children[1:]
        self.end(rest, STOP)
        for child in first:
            child.quiet = True  # while Temporal stops, its parts complain about each other
        self.end(first, STOP_LAST)
        self.pump(0)  # last words of what had ended before


def settings() -> None:
    """Fills in the process settings that are not set (docs: "Process settings"), for this process and all it starts."""
    env = os.environ
    env.setdefault("LEASEHOLD_DATA", str(ROOT / "data"))
    env.setdefault("LEASEHOLD_API_PORT", "8700")
    env.setdefault("LEASEHOLD_TEMPORAL_PORT", "7233")
    env.setdefault("LEASEHOLD_TEMPORAL_UI_PORT", "8233")
    env.setdefault("TEMPORAL_ADDRESS", f"127.0.0.1:{env['LEASEHOLD_TEMPORAL_PORT']}")
    env.setdefault("PYTHONUNBUFFERED", "1")
    env["PATH"] = f"{ROOT / '.tools'}:{Path(sys.executable).parent}:{env.get('PATH', os.defpath)}"


def lock(data: Path) -> None:
    """Takes the data folder for this process, made private if it is new. The lock ends with the process."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UpError(f"the data folder {data} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UpError(
            f"another stack runs on the data folder {data}. Stop it first, or start a second one beside it"
            " with LEASEHOLD_DATA, LEASEHOLD_API_PORT, LEASEHOLD_TEMPORAL_PORT and LEASEHOLD_TEMPORAL_UI_PORT."
        ) from None


def port_is_free(variable: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(os.environ[variable])))
            probe.listen()
        except (ValueError, OverflowError) as error:
            raise UpError(f"{variable} is {os.environ[variable]!r}, and should be a port number") from error
        except OSError:
            return False
    return True


def wait_for_ports(stack: Stack) -> None:
    """Waits for what is left of a stack that was killed; a port that somebody else uses is an error."""
    until = time.monotonic() + PORTS_WAIT
    ports = ["LEASEHOLD_TEMPORAL_PORT", "LEASEHOLD_TEMPORAL_UI_PORT", "LEASEHOLD_API_PORT"]
    if "LEASEHOLD_RESALLOC_PORT" in os.environ:
        ports.append("LEASEHOLD_RESALLOC_PORT")
    for variable in ports:
        if not port_is_free(variable):
            stack.say("up", f"port {os.environ[variable]} is in use: waiting for it".encode())
        while not port_is_free(variable) and stack.reason is None:
            if time.monotonic() > until:
                raise UpError(f"port {os.environ[variable]} is in use; set {variable} to another one")
            stack.pump(TICK)


def procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text().splitlines()
    return {match[1]: match[2] for line in lines if (match := re.match(r"([\w-]+):\s*(.+)", line))}


def run(stack: Stack) -> int:
    """Runs everything until there is a reason to stop, and returns the exit status."""
    wait_for_ports(stack)
    migration = stack.start("migrate", "exec python -m leasehold.store upgrade")
    stack.run_until(lambda: migration.process.poll() is not None)
    if stack.reason is not None:
        return 0
    if migration.process.returncode != 0:
        raise UpError(f"the database could not be brought up to date in {os.environ['LEASEHOLD_DATA']}")
    stack.children.remove(migration)
    running = [stack.start(name, command) for name, command in procfile().items()]
    env = os.environ
    stack.say("up", f"API      http://127.0.0.1:{env['LEASEHOLD_API_PORT']}".encode())
    stack.say("up", f"Temporal http://127.0.0.1:{env['LEASEHOLD_TEMPORAL_UI_PORT']}".encode())
    if "LEASEHOLD_RESALLOC_PORT" in env:
        stack.say("up", f"resalloc http://127.0.0.1:{env['LEASEHOLD_RESALLOC_PORT']}".encode())
    stack.run_until(lambda: any(child.process.poll() is not None for child in running))
    for child in running:
        if child.process.poll() is not None:
            stack.say("up", f"{child.name} ended (status {child.process.returncode}): stopping the others".encode())
            return 1
    stack.say("up", f"{stack.reason}: stopping".encode())
    return 0


def main() -> int:
    os.chdir(ROOT)
    settings()
    try:
        lock(Path(os.environ["LEASEHOLD_DATA"]))
        stack = Stack(width=max(map(len, procfile())))
        try:
            return run(stack)
        finally:
            stack.close()
    except UpError as error:
        print(f"make up: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
