"""Servers that tests start: each ends with the test run, whatever ends that, and leaves nothing behind."""

from __future__ import annotations

import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STOP_S = 30

# Standard input is a pipe that nobody writes to: its end is the end of the test run, even of one that was killed.
# Then the server is stopped and its folder removed; the folder of a server that ended by itself stays to be read.
_GUARD = """
signal=$1 folder=$2; shift 2
exec 3<&0
"$@" 3<&- </dev/null >"$folder/server.log" 2>&1 &
server=$!
(read -r _ <&3; : >"$folder/stopped"; kill -s "$signal" "$server") &
watch=$!
exec 3<&- </dev/null
wait "$server"
status=$?
if [ -e "$folder/stopped" ]; then rm -rf "$folder"; else kill "$watch"; fi
exit "$status"
"""


class ServerFailed(Exception):
    """A server did not start; the message has the end of its log."""


class Server:
    """A running server, with its folder, in which its log is."""

    def __init__(self, guard: subprocess.Popen[bytes], folder: Path) -> None:
        self.folder = folder
        self._guard = guard

    def check(self) -> None:
        """Raise `ServerFailed` if it has ended."""
        log = self.folder / "server.log"
        if self._guard.poll() is not None:
            raise ServerFailed(log.read_text(errors="replace")[-2000:] if log.exists() else "it left no log")


@contextmanager
def running(command: Sequence[str], *, folder: Path, stop: str, user: str | None = None) -> Iterator[Server]:
    """Run a server until the block ends; `stop` names the signal that ends it. Removes `folder`."""
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "sh", stop, str(folder), *command],
        stdin=subprocess.PIPE,
        # The shell's own words about a killed server.
        stderr=subprocess.DEVNULL,
        **_as(user),
        # A Ctrl-C is for the test run, which stops its servers in the end.
        start_new_session=True,
    )
    assert guard.stdin is not None
    try:
        yield Server(guard, folder)
    finally:
        guard.stdin.close()
        guard.wait(STOP_S)
        # A folder that the server's user could empty, but not remove.
        shutil.rmtree(folder, ignore_errors=True)


def finish(command: Sequence[str], *, user: str | None = None) -> None:
    """Run a program to its end; raise `ServerFailed` with what it said unless it succeeded."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, **_as(user)
    )
    if done.returncode != 0:
        raise ServerFailed(f"{command[0]} failed: {done.stdout.decode(errors='replace')[-2000:]}")


def _as(user: str | None) -> dict[str, Any]:
    """The arguments of subprocess that run something as this user, in a folder that everybody may enter."""
    return (
        {"cwd": "/"}
        if user is None
        else {"cwd": "/", "user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    )


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
