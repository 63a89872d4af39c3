"""A real MUNGE for tests: a `munged` with a key, a socket and all its files in a folder of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests import servers

_START_S = 30
_ELSEWHERE = "/usr/sbin:/sbin"
"""Where `munged` is, and PATH of people often does not go."""


class Missing(Exception):
    """There is no MUNGE here; the message says what was looked for."""


class Munged:
    """A running `munged`, and what is done with it by hand."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "socket"
        self._pid = folder / "pid"

    def credential(self, payload: str, *options: str) -> str:
        """A credential of the account that runs the tests; `options` are those of `munge`."""
        command = ["munge", f"--socket={self.socket}", *options]
        done = subprocess.run(command, input=payload.encode(), capture_output=True, timeout=30, check=True)
        return done.stdout.decode().strip()

    def decoded(self, credential: str) -> str:
        """What `unmunge` prints of a credential, good or not."""
        command = ["unmunge", f"--socket={self.socket}"]
        return subprocess.run(command, input=credential.encode(), capture_output=True, timeout=30).stdout.decode()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Have it answer nobody until the block ends."""
        pid = int(self._pid.read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def answers(self) -> bool:
        """Whether it makes credentials."""
        try:
            return bool(self.credential("ready"))
        except subprocess.CalledProcessError:
            return False


@contextmanager
def running() -> Iterator[Munged]:
    """A `munged` until the block ends; raise `Missing` where it is not installed."""
    program = shutil.which("munged", path=f"{os.environ.get('PATH', os.defpath)}:{_ELSEWHERE}")
    if program is None or shutil.which("munge") is None:
        raise Missing("neither munge nor munged is found")
    folder = Path(tempfile.mkdtemp(prefix="leasehold-munge-"))
    # It insists on a socket that everybody gets at, and on a key that nobody does.
    folder.chmod(0o755)
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={folder / file}" for name, file in files.items()]
    command = [program, "--foreground", f"--key-file={key}", *options]
    with servers.running(command, folder=folder, stop="TERM") as server:
        munged = Munged(folder)
        give_up = time.monotonic() + _START_S
        while not (munged.socket.exists() and munged.answers()):
            server.check()
            assert time.monotonic() < give_up, "munged does not answer"
            time.sleep(0.02)
        yield munged


def complain(error: Missing) -> NoReturn:
    """Fail or skip the test that asked for MUNGE."""
    if os.environ.get("LEASEHOLD_REQUIRE_MUNGE") == "1":
        pytest.fail(f"MUNGE is required (LEASEHOLD_REQUIRE_MUNGE=1): {error}", pytrace=False)
    pytest.skip(f"no MUNGE: {error}")
