"""One process of the stack goes, and what people wait for still comes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e.lab import PATIENCE_S, Gate, Lab, until
from tests.e2e.processes import Api
from tests.stack import LEASEHOLD, Stack, marked


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    api = Api(stack)
    api.start()
    yield api
    api.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_who_waits_for_a_lease_does_not_notice_a_restart_of_the_api(
    stack: Stack, lab: Lab, api: Api, number: signal.Signals
) -> None:
    pool = lab.pool()
    holder, waiter = lab.take(pool), lab.take(pool, wait=None)
    command = [str(LEASEHOLD), "wait", waiter["id"]]
    environment = {**os.environ, "LEASEHOLD_URL": api.url, "LEASEHOLD_TOKEN": stack.token}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as waiting:
        assert waiting.stderr is not None
        assert "queued, position 1" in waiting.stderr.readline()

        api.stop(number)
        lab.client.release(holder["id"])
        lab.comes_to(waiter, "active")
        time.sleep(1)
        assert waiting.poll() is None
        api.start()

        out, _ = waiting.communicate(timeout=PATIENCE_S)
    assert (waiting.returncode, out) == (0, f"{pool}/r0\n")


def test_a_worker_killed_in_a_stage_costs_no_attempt(stack: Stack, lab: Lab) -> None:
    gate = Gate(lab)
    pool = lab.pool(wipe="true", provision={"run": gate.hook, "attempts": 1})
    lease = lab.take(pool, wait=None)
    until(lambda: gate.runs == 1, "the stage runs")

    assert len(stack.kill("-m worker")) == 1

    # A stack without a worker would only look alive: it stops, and says why.
    assert stack.ended() == 1
    assert "worker ended (status -9): stopping the others" in stack.last_words()
    until(lambda: not marked("LEASEHOLD_POOL", pool), "no hook runs")
    until(lambda: not stack.processes(), "nothing of the stack runs")
    stack.start()
    until(lambda: gate.runs == 2, "the stage runs again")
    gate.open()
    assert lab.comes_to(lease, "active")["error"] is None
    assert lab.trace(pool) == ["wipe r0 1", "provision r0 1", "provision r0 1"]
    gate.check_one_at_a_time()
