"""`leasehold run`: take, run, release, and exit as the command did."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leasehold.answers import Lease
from tests.e2e.lab import PATIENCE_S, Lab, until
from tests.stack import LEASEHOLD, Stack


@contextmanager
def leasehold_run(stack: Stack, pool: str, script: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`leasehold run` with a line of shell, as a process that is gone at the end."""
    command = [str(LEASEHOLD), "run", "--pool", pool, "--", "sh", "-c", script]
    pipe = subprocess.PIPE
    environment = stack.environment
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def only_lease(lab: Lab, pool: str) -> Lease:
    """The one lease that was made of a pool."""
    (lease,) = lab.client.leases(pool=pool)
    return lease


@pytest.mark.parametrize("status", [0, 7])
def test_the_lease_is_given_back_and_the_commands_status_is_the_exit_status(
    stack: Stack, lab: Lab, status: int
) -> None:
    pool = lab.pool(wipe="true", deliver="echo key=42", release="true")
    script = f'echo "$LEASEHOLD_RESOURCE: $(echo $LEASEHOLD_RESOURCE_DATA | base64 -d)"; exit {status}'

    with leasehold_run(stack, pool, script, lab.folder) as process:
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out) == (status, "r0: key=42\n"), err
    lease = only_lease(lab, pool)
    assert (lease["state"], lease["outcome"]) == ("ended", "released")
    lab.all_free(pool)
    assert lab.trace(pool) == ["wipe r0 1", "deliver r0 1", "release r0 1"]


def test_sigterm_reaches_the_command_which_decides_what_comes_of_it(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(release="true")
    script = "trap 'echo told; exit 42' TERM; touch started; while :; do sleep 0.1; done"

    with leasehold_run(stack, pool, script, lab.folder) as process:
        until((lab.folder / "started").exists, "the command runs")
        assert only_lease(lab, pool)["state"] == "active"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out) == (42, "told\n"), err
    assert only_lease(lab, pool)["outcome"] == "released"


def test_a_command_that_a_signal_ends_gives_128_and_its_number(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()

    with leasehold_run(stack, pool, "kill -9 $$", lab.folder) as process:
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 128 + signal.SIGKILL
    assert only_lease(lab, pool)["outcome"] == "released"


def test_a_command_is_stopped_when_its_lease_is_over(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()
    script = "trap 'echo told; exit 9' TERM; touch started; while :; do sleep 0.1; done"

    with leasehold_run(stack, pool, script, lab.folder) as process:
        until((lab.folder / "started").exists, "the command runs")
        lab.client.cancel(only_lease(lab, pool)["id"])
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out) == (9, "told\n"), err
    assert "ended: cancelled: stopping the command" in err


def test_a_stop_while_it_waits_leaves_no_lease_behind(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()
    holder = lab.take(pool)

    with leasehold_run(stack, pool, "touch started", lab.folder) as process:
        until(lambda: len(list(lab.client.pool_queue(pool))) == 1, "it waits")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 128 + signal.SIGTERM
    assert not (lab.folder / "started").exists()
    assert list(lab.client.pool_queue(pool)) == []
    assert lab.look(holder)["state"] == "active"
