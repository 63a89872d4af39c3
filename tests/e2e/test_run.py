"""`leasehold run`: take, run, release, and exit as the command did."""

from __future__ import annotations

import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leasehold.answers import Lease
from tests.e2e.lab import PATIENCE_S, Lab, until
from tests.stack import LEASEHOLD, Stack, kill, marked


@contextmanager
def leasehold_run(stack: Stack, pool: str, script: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`leasehold run` with a line of shell, as a process that is gone at the end, with all that it started."""
    command = [str(LEASEHOLD), "run", "--pool", pool, *options, "--", "sh", "-c", script]
    mark = uuid.uuid4().hex
    pipe = subprocess.PIPE
    environment = {**stack.environment, "TEST_RUN": mark}
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            for left in marked("TEST_RUN", mark):
                kill(left)


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


def test_a_run_that_is_killed_loses_its_lease_to_who_waits(stack: Stack, lab: Lab) -> None:
    pool = lab.pool(release="true")

    with leasehold_run(stack, pool, "touch started; exec sleep 1000", lab.folder, "--heartbeat", "10s") as process:
        until((lab.folder / "started").exists, "the command runs")
        lease = only_lease(lab, pool)
        waiting = lab.take(pool, wait=None)
        # It is kept for longer than it could be without heartbeats.
        time.sleep(12)
        assert lab.look(lease)["state"] == "active"
        process.send_signal(signal.SIGKILL)

        assert lab.comes_to(lease, "ended")["outcome"] == "lost"
        served = lab.comes_to(waiting, "active")

    assert [resource["name"] for resource in served["resources"]] == ["r0"]
    assert lab.trace(pool) == ["release r0 1"]


def test_a_run_that_is_killed_while_it_waits_leaves_the_queue(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()
    lab.take(pool)

    with leasehold_run(stack, pool, "true", lab.folder, "--heartbeat", "10s") as process:
        until(lambda: len(list(lab.client.pool_queue(pool))) == 1, "it waits")
        process.send_signal(signal.SIGKILL)

        until(lambda: not list(lab.client.pool_queue(pool)), "it is lost")


def test_a_run_that_was_stopped_for_too_long_learns_that_its_lease_is_lost(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()
    script = "trap 'echo told; exit 9' TERM; touch started; while :; do sleep 0.1; done"

    with leasehold_run(stack, pool, script, lab.folder, "--heartbeat", "10s") as process:
        until((lab.folder / "started").exists, "the command runs")
        lease = only_lease(lab, pool)
        process.send_signal(signal.SIGSTOP)
        lab.comes_to(lease, "ended")
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out) == (9, "told\n"), err
    assert "is ended: lost: stopping the command" in err
    assert "Traceback" not in err


def test_a_run_outlives_a_restart_of_the_whole_service(stack: Stack, lab: Lab) -> None:
    pool = lab.pool()

    with leasehold_run(
        stack, pool, "touch started; until [ -e go ]; do sleep 0.1; done; echo done", lab.folder, "--heartbeat", "1m"
    ) as process:
        until((lab.folder / "started").exists, "the command runs")
        lease = only_lease(lab, pool)
        before = lease["heartbeat_by"]
        stack.stop()
        stack.start()
        until(lambda: lab.look(lease)["heartbeat_by"] != before, "it is heard again")
        (lab.folder / "go").touch()
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out) == (0, "done\n"), err
    assert lab.look(lease)["outcome"] == "released"


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
