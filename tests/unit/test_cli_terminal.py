"""Commands on a terminal: who gets the keys, and what is shown live."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.cli_runner import ROOT, environment, kill_leftovers, start
from tests.unit.fake_api import ACTIVE, QUEUED, Answer, FakeApi, lease, leased

_TAKE_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api
        kill_leftovers()


def on_terminal(api: FakeApi, *argv: str) -> tuple[subprocess.Popen[str], int]:
    """Start a command as the foreground job of a terminal of its own, and return the terminal's other end."""
    master, slave = pty.openpty()
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    process = start(api, *argv, wrapper=_TAKE_TERMINAL, start_new_session=True, **streams)
    os.close(slave)
    return process, master


def read_until(master: int, text: bytes) -> bytes:
    """Read the terminal until `text` comes."""
    seen, end = b"", time.monotonic() + 10
    while text not in seen and time.monotonic() < end:
        with contextlib.suppress(OSError):  # EIO: the other end is closed.
            seen += os.read(master, 4096)
    assert text in seen, seen
    return seen


def test_on_a_terminal_the_command_can_read_keys_and_gets_ctrl_c_once(api: FakeApi) -> None:
    script = "trap 'echo interrupted' INT; echo ready; read line; read line; echo \"read $line\""
    process, master = on_terminal(api, "run", "--pool", "lab", "--", "bash", "-c", script)
    try:
        read_until(master, b"ready")
        os.write(master, b"\x03")
        read_until(master, b"interrupted")
        os.write(master, b"first\nsecond\n")
        seen = read_until(master, b"read second")
        assert b"interrupted" not in seen
        assert process.wait(timeout=20) == 0
    finally:
        os.close(master)
    assert [one["outcome"] for one in api.leases.values()] == ["released"]


def test_on_a_terminal_waiting_is_shown_live(api: FakeApi) -> None:
    preparing = {"state": "preparing", "resources": [leased("r1", "preparing", "provision", 1), leased("r2")]}
    api.way = [QUEUED, preparing]
    process, master = on_terminal(api, "take", "lab")
    try:
        read_until(master, b"provision, attempt 1")
        os.write(master, b"\x03")
        read_until(master, b"lease 1 ended: cancelled")
        assert process.wait(timeout=20) == 130
    finally:
        os.close(master)


def test_ctrl_z_gives_the_shell_back_and_fg_goes_on(api: FakeApi) -> None:
    master, slave = pty.openpty()
    shell = f"{_TAKE_TERMINAL}import os; os.execvp('bash', ['bash', '--norc', '--noprofile', '-i'])"
    process = subprocess.Popen(
        [sys.executable, "-c", shell],
        env={**environment(api), "PS1": "$ ", "TERM": "dumb"},
        cwd=ROOT,
        start_new_session=True,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    try:
        echo = "sh -c 'echo ready; while read line; do echo got-$line; done'"
        os.write(master, f"{sys.executable} -m leasehold.cli run --pool lab -- {echo}\n".encode())
        read_until(master, b"\nready")
        os.write(master, b"\x1a")
        read_until(master, b"Stopped")
        os.write(master, b"echo shell-$((1 + 1))\n")
        read_until(master, b"shell-2")
        os.write(master, b"fg\n")
        os.write(master, b"one\n")
        read_until(master, b"got-one")
        os.write(master, b"\x04")
        read_until(master, b"ended: released")
        os.write(master, b"exit\n")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        os.close(master)
        process.wait()


def test_lists_are_tables(api: FakeApi) -> None:
    api.add(lease(1, **{**ACTIVE, "description": "[red]a\x1b[2Jb"}))
    process, master = on_terminal(api, "ls")
    try:
        seen = read_until(master, b"[red]a")
        assert b"LEASE" in seen
        assert b"\x1b[2J" not in seen
        assert process.wait(timeout=20) == 0
    finally:
        os.close(master)


def test_on_a_terminal_a_password_is_asked_for_twice_and_not_shown(api: FakeApi) -> None:
    made = {"name": "joe", "role": "user", "disabled_at": None}
    api.answers["POST /v1/users"] = [Answer(201, made)]
    process, master = on_terminal(api, "user", "add", "joe")
    try:
        seen = b""
        for prompt in (b"Password:", b"confirmation:"):
            seen += read_until(master, prompt)
            # Whoever asks has yet to hide what is typed.
            while process.poll() is None and termios.tcgetattr(master)[3] & termios.ECHO:
                time.sleep(0.01)
            os.write(master, b"correct horse battery\n")
        seen += read_until(master, b"joe (user) can log in")
        assert process.wait(timeout=20) == 0
    finally:
        os.close(master)
    assert b"horse" not in seen
    assert api.requests[0].json == {"name": "joe", "password": "correct horse battery"}
