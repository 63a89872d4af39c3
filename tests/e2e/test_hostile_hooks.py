"""Hooks of the worst kind, all at once: each is contained, told as documented, and leaves nothing behind."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from leasehold.answers import Lease
from tests.e2e.lab import ENOUGH, Lab, until
from tests.stack import Stack, all_processes, kill, marked

GIGABYTE = 1_000_000_000
MOST_GROWTH_MIB = 64
"""How much the worker may grow while two hooks print a gigabyte each and others do their worst.

For each run it may keep a result of 64 KiB and what of 1 MiB of log the database has not taken yet.
"""
PAGE_CACHES_MIB = 64
"""Who reads logs fills SQLite's page caches, up to 32 MiB for each connection that is in use at once."""
MOST_LOG_MIB = 8

# Written down by each process, because one can hide from every other search: a changed environment, another group.
NOTE = 'echo $$ >> "$LEASEHOLD_POOL.pids"'


@dataclass(frozen=True, kw_only=True)
class Evil:
    """A hook, how its lease ends up, and what is told of it: in the error, or in the log."""

    stage: str = "provision"
    run: str
    timeout: str = "1m"
    attempts: int = 1
    state: str = "active"
    reason: str = ""
    logged: str = ""


HOOKS = {
    "hangs": Evil(run="sleep 1000", timeout="2s", state="ended", reason="provision: killed at its timeout of 2s"),
    "hangs, twice": Evil(
        run="sleep 1000", timeout="1s", attempts=2, state="ended", reason="provision: killed at its timeout of 1s"
    ),
    "ignores SIGTERM": Evil(
        run=f"""trap '' TERM INT HUP QUIT; sh -c '{NOTE}; while :; do sleep 1; done' &
            {NOTE}; while :; do sleep 1; done""",
        timeout="2s",
        state="ended",
        reason="provision: killed at its timeout of 2s",
    ),
    "takes its time to die": Evil(
        run="trap 'sleep 1; echo cleaned up >&2; exit 0' TERM; while :; do sleep 0.1; done",
        timeout="2s",
        state="ended",
        reason="provision: killed at its timeout of 2s",
        logged="stderr] cleaned up",
    ),
    "dies by a signal": Evil(
        run="kill -SEGV $$", state="ended", reason="provision: ended by signal 11 (Segmentation fault)"
    ),
    "kills its whole group": Evil(run="kill -KILL 0", state="ended", reason="provision: ended by signal 9 (Killed)"),
    "is no program": Evil(
        run="exec ./no-such-program", state="ended", reason="provision: exited with status 127", logged="not found"
    ),
    "prints a gigabyte": Evil(
        run=f"yes | head -c {GIGABYTE}; yes no | head -c 1000000 >&2",
        logged="service] the log of this run is longer than 1024 KiB; the rest was dropped",
    ),
    "delivers a gigabyte": Evil(
        stage="deliver",
        run=f"yes 1234567 | head -c {GIGABYTE}",
        logged="service] the hook's result was cut at 64 KiB",
    ),
    "prints a line without end": Evil(
        run="head -c 3000000 /dev/zero | tr '\\0' x",
        logged="service] the log of this run is longer than 1024 KiB; the rest was dropped",
    ),
    "prints no text": Evil(run=r"printf '\377\376\000\033]0;\n'; head -c 3000 /dev/urandom >&2", logged="stdout] �"),
    "delivers no text": Evil(stage="deliver", run=r"printf '\377\000\n'"),
    "says nothing": Evil(run=":"),
    "leaves a grandchild": Evil(
        run=f"""sh -c '(trap "" TERM; {NOTE}; exec sleep 1000) & {NOTE}; exec sleep 1000' &
            timeout 1000 sh -c '{NOTE}; exec env -i sleep 1000' &
            until [ "$(wc -l < "$LEASEHOLD_POOL.pids")" -ge 3 ]; do sleep 0.05; done"""
    ),
    "closes stdout and goes on": Evil(run="exec >&- 2>&-; sleep 2; touch went-on; exit 0"),
    "closes stdout, goes on and fails": Evil(
        run="exec >&- 2>&-; sleep 1; exit 7", state="ended", reason="provision: exited with status 7"
    ),
    "reads from nobody": Evil(run="cat; read line; echo got nothing >&2", logged="stderr] got nothing"),
}


class Peak:
    """How much memory a process had at most, in MiB, since this began."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self.before = self._rss()
        self.most = self.before

    def look(self) -> None:
        """Take note of how much it has now."""
        self.most = max(self.most, self._rss())

    def _rss(self) -> float:
        (found,) = re.findall(r"^VmRSS:\s+(\d+) kB", self._status.read_text(), re.MULTILINE)
        return int(found) / 1024


@contextmanager
def watched(stack: Stack) -> Iterator[dict[str, Peak]]:
    """Look at the memory of the worker, its supervisor and the API for as long as the block runs."""
    names = {"worker": "-m worker ", "supervisor": f" {stack.data}/locks ", "API": "-m api"}
    peaks = {}
    for name, words in names.items():
        (pid,) = [pid for pid, command in stack.processes().items() if words in command]
        peaks[name] = Peak(pid)
    over = Event()

    def watch() -> None:
        while not over.wait(0.02):
            for peak in peaks.values():
                peak.look()

    thread = Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def pids(lab: Lab, pool: str) -> list[int]:
    """The processes that a pool's hooks wrote down."""
    file = lab.folder / f"{pool}.pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def left(lab: Lab, pool: str) -> list[str]:
    """What still lives of a pool's hooks."""
    noted = set(pids(lab, pool)) | set(marked("LEASEHOLD_POOL", pool))
    return [process.command for process in all_processes() if process.pid in noted and process.command]


def test_the_worst_hooks_are_contained_all_at_once(stack: Stack, lab: Lab) -> None:
    logs_before = size_of_logs(stack)
    pools = {}
    for name, evil in HOOKS.items():
        hook = {"run": evil.run, "timeout": evil.timeout, "attempts": evil.attempts}
        stages: dict[str, Any] = {evil.stage: hook}
        pools[name] = lab.pool(**stages)
    bystander = lab.pool(provision="true")

    with watched(stack) as peaks:
        leases = {name: lab.take(pool, wait=None) for name, pool in pools.items()}
        # While they do their worst, others are served.
        lab.client.release(lab.take(bystander)["id"])
        ended = {name: lab.client.wait_for(lease["id"], HOOKS[name].state, ENOUGH) for name, lease in leases.items()}
        logs = {name: b"".join(lab.client.log(lease["id"])).decode() for name, lease in leases.items()}

    for name, peak in peaks.items():
        most = MOST_GROWTH_MIB + (PAGE_CACHES_MIB if name == "API" else 0)
        assert peak.most - peak.before < most, (name, peak.before, peak.most)
    assert size_of_logs(stack) - logs_before < MOST_LOG_MIB
    for name, evil in HOOKS.items():
        check_outcome(lab, pools[name], evil, ended[name])
        assert evil.logged in logs[name], name
        assert left(lab, pools[name]) == [], name
    check_deliveries(lab, leases)
    assert len(pids(lab, pools["leaves a grandchild"])) == 3
    assert (lab.folder / "went-on").exists()
    assert lab.trace(pools["hangs, twice"]) == ["provision r0 1", "provision r0 2"]
    # The stack is as it was: another lease is served, and nobody has to clean up.
    lab.client.release(lab.take(bystander)["id"])


def check_outcome(lab: Lab, pool: str, evil: Evil, lease: Lease) -> None:
    """The lease, its events and its resource tell the same."""
    assert lease["state"] == evil.state, lease
    ends = [e for e in lab.client.events(lease["id"]) if e["kind"] == "stage_ended"]
    (resource,) = lab.client.resources(pool=pool)
    assert len(ends) == evil.attempts
    if evil.state == "active":
        assert [end["data"]["ok"] for end in ends] == [True]
        assert resource["state"] == "leased"
        return
    assert lease["outcome"] == "failed"
    detail = f"{pool}/r0: {evil.reason}; there is no other resource to take its place"
    assert lease["error"] == {"code": "stage_failed", "detail": detail}
    assert {end["reason"] for end in ends} == {evil.reason.partition(": ")[2]}
    assert resource["state"] == "broken"
    assert resource["broken"] is not None
    assert resource["broken"]["reason"] == evil.reason


def check_deliveries(lab: Lab, leases: dict[str, Lease]) -> None:
    """What hooks delivered is there, whole lines of it, and byte for byte."""
    (much,) = lab.client.delivery(leases["delivers a gigabyte"]["id"])["resources"]
    assert much["data"] == "1234567\n" * (64 * 1024 // 8)
    (binary,) = lab.client.delivery(leases["delivers no text"]["id"])["resources"]
    assert (binary["data"], base64.b64decode(binary["data_base64"])) == (None, b"\xff\x00\n")


def size_of_logs(stack: Stack) -> float:
    """Of the database with what hooks printed, in MiB."""
    return sum(file.stat().st_size for file in stack.data.glob("logs.db*")) / 1024**2


@pytest.mark.parametrize("stubborn", [False, True], ids=["hangs", "ignores SIGTERM"])
def test_a_cancel_waits_until_the_worst_is_over(lab: Lab, stubborn: bool) -> None:
    trap = "trap '' TERM INT HUP" if stubborn else ":"
    pool = lab.pool(provision=f"{trap}; {NOTE}; sh -c '{NOTE}; while :; do sleep 1; done' & while :; do sleep 1; done")
    lease = lab.take(pool, wait=None)
    until(lambda: len(pids(lab, pool)) == 2, "the hook and its child run")

    lab.client.cancel(lease["id"])

    assert lab.comes_to(lease, "ended")["outcome"] == "cancelled"
    assert left(lab, pool) == []
    stopped = [event for event in lab.client.events(lease["id"]) if event["kind"] == "stage_stopped"]
    assert len(stopped) == 1


def test_a_daemon_that_means_to_live_on_does(lab: Lab) -> None:
    """A test of the tests: what they look for can be found."""
    pool = lab.pool(
        provision=f"setsid sh -c '{NOTE}; exec sleep 1000' & until [ -s \"$LEASEHOLD_POOL.pids\" ]; do sleep 0.05; done"
    )
    lab.take(pool)
    assert left(lab, pool) == ["sleep 1000 "]
    for pid in pids(lab, pool):
        kill(pid)
