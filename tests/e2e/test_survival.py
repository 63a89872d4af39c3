"""The embedded stack goes and comes back, in whatever way it went, and every lease is where it was."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from leasehold.answers import Lease
from tests.e2e.lab import Gate, Lab, until
from tests.stack import Stack, kill, marked


def ctrl_c(stack: Stack) -> None:
    """By somebody impatient, who presses it twice."""
    os.killpg(stack.pid, signal.SIGINT)
    assert stack.stop(signal.SIGINT) == 0
    assert stack.processes() == {}


def sigterm(stack: Stack) -> None:
    assert stack.stop(signal.SIGTERM) == 0
    assert stack.processes() == {}


def kill_9(stack: Stack) -> None:
    """All that has the stack's settings. The supervisor, which has none, must then end its hooks and itself."""
    for pid in marked("LEASEHOLD_DATA", str(stack.data)):
        kill(pid)
    stack.ended()
    until(lambda: not stack.processes(), "nothing of the stack runs")


def kill_9_and_the_supervisor(stack: Stack) -> None:
    """Nobody is left who could end a hook's children: that is for the next start to do."""
    stack.kill()
    stack.ended()
    until(lambda: not stack.processes(), "nothing of the stack runs")


def standing(lease: Lease) -> dict[str, Any]:
    """A lease without what it could have instead: that is another, once the one that expires has given back."""
    place = lease["queue"]
    return {**lease, "queue": place and {**place, "alternatives": None}}


WAYS = [ctrl_c, sigterm, kill_9, kill_9_and_the_supervisor]


@pytest.mark.parametrize("die", WAYS, ids=lambda way: way.__name__.replace("_", "-"))
def test_every_lease_is_where_it_was(stack: Stack, lab: Lab, die: Callable[[Stack], None]) -> None:
    gate = Gate(lab)
    held, half, short = (
        lab.pool(deliver="echo key of $LEASEHOLD_EPOCH"),
        lab.pool(wipe="true", provision=gate.hook),
        lab.pool(),
    )
    active, queued = lab.take(held), lab.take(held, wait=None)
    preparing = lab.take(half, wait=None)
    until(lambda: gate.runs == 1, "the stage runs")
    expiring = lab.take(short, duration="10s")
    before = [standing(lab.look(lease)) for lease in (active, queued, preparing)]
    secret, token = lab.client.delivery(active["id"]), stack.token

    die(stack)
    down = datetime.now(UTC)
    if die in (ctrl_c, sigterm):
        assert marked("LEASEHOLD_POOL", half) == []
    elif die is kill_9:
        until(lambda: not marked("LEASEHOLD_POOL", half), "no hook runs")
    sleep_until(expiring["expires_at"])
    stack.start()

    assert stack.token == token
    assert [standing(lab.look(lease)) for lease in (active, queued, preparing)] == before
    with stack.client(active["token"]) as holder:
        assert holder.delivery(active["id"]) == secret
    expired = lab.comes_to(expiring, "ended")
    assert expired["outcome"] == "expired"
    assert expired["ended_at"] is not None
    assert datetime.fromisoformat(expired["ended_at"]) > down, "it was to expire while the stack was down"
    # What was stopped in good order is known to be gone, so that no other host has to wait for its deadline.
    stopped = [event["kind"] for event in lab.client.events(preparing["id"])].count("stage_stopped")
    assert stopped == (1 if die in (ctrl_c, sigterm) else 0)
    the_stage_runs_again(lab, gate, half, preparing)
    lab.client.release(active["id"])
    lab.comes_to(queued, "active")


def the_stage_runs_again(lab: Lab, gate: Gate, pool: str, lease: Lease) -> None:
    """The stage that was interrupted runs again as the same attempt, and no other one does."""
    until(lambda: gate.runs == 2, "the stage runs again")
    gate.open()
    lab.comes_to(lease, "active")
    assert lab.trace(pool) == ["wipe r0 1", "provision r0 1", "provision r0 1"]
    gate.check_one_at_a_time()


def sleep_until(moment: str | None) -> None:
    assert moment is not None
    time.sleep(max(0.0, (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()))
