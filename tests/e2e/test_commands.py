"""Commands on leased resources, on several runners, and what becomes of them when processes die."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from leasehold.answers import Lease
from leasehold.client import Client
from tests.e2e.lab import ENOUGH, Lab, until
from tests.runners import RunnerProcess, commands_of
from tests.stack import Stack, kill

COMMANDS, RESOURCES, RUNNERS = 200, 4, 3


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One of its own: it is killed."""
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


class Pool:
    """A pool whose leases run commands."""

    def __init__(self, lab: Lab, resources: int = 1, *, release: str | None = None, **commands: Any) -> None:
        self.lab = lab
        pool: dict[str, Any] = {
            "resources": [{"name": f"r{number}"} for number in range(resources)],
            "commands": {"allow": [{"role": "user"}], **commands},
        }
        if release is not None:
            pool["release"] = {"run": release}
        self.name = f"commands-{time.monotonic_ns()}"
        lab.client.apply({"name": self.name, "pools": [{"name": self.name, **pool}]}, folder=str(lab.folder))

    def run(self, *argv: str, shell: str | None = None, **command: Any) -> Lease:
        """Submit a command, and do not wait for it."""
        about = {"run": shell if shell is not None else list(argv), **command}
        return self.lab.client.submit([{"pool": self.name}], command=about)

    def ended(self, lease: Lease) -> dict[str, Any]:
        """How a command ended, once it has."""
        found = self.lab.client.wait_for(lease["id"], "ended", ENOUGH)
        assert found["state"] == "ended", found
        command = found["command"]
        assert command is not None
        return {**command, "outcome": found["outcome"]}

    def running(self, lease: Lease) -> None:
        """Wait until a command has printed something: it runs."""
        until(lambda: b"".join(self.lab.client.output(lease["id"])), "the command runs")


def test_two_hundred_commands_on_three_runners_each_run_once_and_never_two_on_one_resource(
    stack: Stack, lab: Lab, tmp_path: Path
) -> None:
    # A lock that somebody has is somebody else on the same resource.
    witness = 'exec 9>"$1.lock"; flock -n 9 || echo "$2" >>doubles; echo "$2" >>"ran"; sleep 0.05; test ! -s doubles'
    pool = Pool(lab, RESOURCES, labels=["build"])
    with ExitStack() as runners:
        for number in range(RUNNERS):
            runners.enter_context(RunnerProcess(stack, tmp_path, f"build{number}", labels="build,x86_64"))
        # In a row, so that their order is known.
        leases = [
            pool.run("sh", "-c", witness, "sh", "@RESOURCE", str(n), folder=str(tmp_path)) for n in range(COMMANDS)
        ]
        ended = [pool.ended(lease) for lease in leases]
    assert [(one["result"], one["exit_code"], one["attempt"]) for one in ended] == [("exited", 0, 1)] * COMMANDS
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(COMMANDS))
    assert not (tmp_path / "doubles").exists() or (tmp_path / "doubles").read_text() == ""
    assert {one["on"] for one in ended} == {f"build{n}" for n in range(RUNNERS)}
    granted = [str(lab.client.lease(lease["id"])["active_at"]) for lease in leases]
    assert granted == sorted(granted), "they were served in the order in which they came"


LINGER = """
trap '' TERM
setsid sh -c 'echo $$ >grandchild; exec sleep 1000' &
sleep 1000 &
echo started
wait
"""
"""A command that has to be killed, with a child in its session, and one that has left it."""


def kill_the_runner(runner: RunnerProcess, stack: Stack, lease: str) -> None:
    runner.kill()


def kill_the_runner_and_its_supervisor(runner: RunnerProcess, stack: Stack, lease: str) -> None:
    runner.kill_all()


@pytest.mark.parametrize(
    "die", [kill_the_runner, kill_the_runner_and_its_supervisor], ids=lambda way: way.__name__.replace("_", "-")
)
def test_a_command_whose_runner_is_killed_is_lost_and_nothing_of_it_lives(
    stack: Stack, lab: Lab, tmp_path: Path, die: Callable[[RunnerProcess, Stack, str], None]
) -> None:
    pool = Pool(lab, runner="doomed", grace="1s", release="echo released >>releases")
    with RunnerProcess(stack, tmp_path, "doomed") as runner:
        lease = pool.run(shell=LINGER, folder=str(tmp_path))
        pool.running(lease)
        assert len(commands_of(lease["id"])) >= 3

        die(runner, stack, lease["id"])
        runner.start()

        ended = pool.ended(lease)
        assert (ended["result"], ended["started"], ended["outcome"]) == ("lost", True, "lost"), ended
        assert commands_of(lease["id"]) == [], "what it left is dead before anybody else can have the resource"
        lab.all_free(pool.name)
        assert (tmp_path / "releases").read_text() == "released\n"
        assert b"".join(lab.client.output(lease["id"])) == b"started\n"
        # And the runner works.
        assert pool.ended(pool.run("true"))["exit_code"] == 0


def test_a_command_that_may_run_twice_is_run_again_when_its_runner_is_killed(
    stack: Stack, lab: Lab, tmp_path: Path
) -> None:
    pool = Pool(lab, runner="again", grace="1s")
    script = "echo attempt $LEASEHOLD_ATTEMPT; test $LEASEHOLD_ATTEMPT = 2 || sleep 1000"
    with RunnerProcess(stack, tmp_path, "again") as runner:
        lease = pool.run(shell=script, retry=1)
        pool.running(lease)
        runner.kill()
        runner.start()
        ended = pool.ended(lease)
    assert (ended["result"], ended["exit_code"], ended["attempt"]) == ("exited", 0, 2)
    assert b"".join(lab.client.output(lease["id"])) == b"attempt 1\nattempt 2\n"


def test_a_runner_that_never_comes_back_loses_its_command_all_the_same(stack: Stack, lab: Lab, tmp_path: Path) -> None:
    pool = Pool(lab, runner="gone")
    with RunnerProcess(stack, tmp_path, "gone") as runner:
        lease = pool.run(shell="echo here; sleep 1000")
        pool.running(lease)
        runner.kill()
        found = lab.client.wait_for(lease["id"], "ended", ENOUGH * 2)
    assert found["command"] is not None
    assert found["command"]["result"] == "lost"
    assert "nothing was heard of runner gone" in (found["command"]["detail"] or "")
    assert commands_of(lease["id"]) == []


def test_a_runner_that_stands_still_has_its_command_ended_before_anybody_else_gets_the_resource(
    stack: Stack, lab: Lab, tmp_path: Path
) -> None:
    pool = Pool(lab, runner="stuck")
    with RunnerProcess(stack, tmp_path, "stuck") as runner:
        lease = pool.run(shell="echo here; sleep 1000")
        pool.running(lease)
        os.kill(runner.pid, signal.SIGSTOP)
        try:
            until(lambda: not commands_of(lease["id"]), "the command is ended")
            assert lab.client.lease(lease["id"])["state"] == "active", "it is ended before it is taken for lost"
        finally:
            os.kill(runner.pid, signal.SIGCONT)
        assert pool.ended(lease)["result"] == "lost"


def test_a_command_whose_child_is_killed_says_by_which_signal(stack: Stack, lab: Lab) -> None:
    pool = Pool(lab)
    lease = pool.run("sh", "-c", "echo $$; exec sleep 1000")
    pool.running(lease)
    kill(int(b"".join(lab.client.output(lease["id"]))))
    ended = pool.ended(lease)
    assert (ended["result"], ended["signal"], ended["exit_code"], ended["outcome"]) == (
        "signalled",
        9,
        None,
        "released",
    )


def test_a_command_outlives_the_worker(stack: Stack, lab: Lab, tmp_path: Path) -> None:
    pool = Pool(lab, runner="apart")
    with RunnerProcess(stack, tmp_path, "apart"):
        lease = pool.run(shell=f"echo here; until test -e {tmp_path}/go; do sleep 0.1; done; echo done; exit 3")
        pool.running(lease)
        stack.kill("-m worker")
        stack.ended()
        (tmp_path / "go").touch()
        # What is printed while nobody takes it is kept.
        time.sleep(1)
        stack.start()
        ended = pool.ended(lease)
    assert (ended["result"], ended["exit_code"], ended["attempt"]) == ("exited", 3, 1)
    assert b"".join(lab.client.output(lease["id"])) == b"here\ndone\n"


def test_with_the_whole_stack_killed_its_own_runners_command_is_lost_and_nothing_of_it_lives(
    stack: Stack, lab: Lab, tmp_path: Path
) -> None:
    pool = Pool(lab, grace="1s")
    lease = pool.run(shell=LINGER, folder=str(tmp_path))
    pool.running(lease)
    queued = pool.run("echo", "after")

    stack.kill()
    stack.ended()
    stack.start()

    ended = pool.ended(lease)
    assert (ended["result"], ended["started"]) == ("lost", True)
    assert commands_of(lease["id"]) == []
    # The queue is in no process's memory.
    assert pool.ended(queued)["exit_code"] == 0
    lab.all_free(pool.name)


def test_a_runner_that_is_asked_to_stop_kills_its_commands_and_says_so_at_once(
    stack: Stack, lab: Lab, tmp_path: Path
) -> None:
    pool = Pool(lab, runner="polite")
    with RunnerProcess(stack, tmp_path, "polite") as runner:
        lease = pool.run(shell="echo here; sleep 1000")
        pool.running(lease)
        assert runner.stop() == 0
        ended = pool.ended(lease)
        assert (ended["result"], ended["detail"]) == ("lost", "its runner was stopped")
        assert commands_of(lease["id"]) == []
        assert "polite" not in {one["name"] for one in lab.client.runners() if one["up"]}


def test_cancel_ends_the_whole_process_tree_before_the_next_one_gets_the_resource(
    stack: Stack, lab: Lab, tmp_path: Path
) -> None:
    pool = Pool(lab, grace="1s")
    lease = pool.run(shell=LINGER, folder=str(tmp_path))
    pool.running(lease)
    alive = f"test -e /proc/$(cat {tmp_path}/grandchild)/exe && echo alive || echo dead"
    following = pool.run(shell=alive)

    lab.client.cancel(lease["id"])

    ended = pool.ended(lease)
    assert (ended["result"], ended["started"], ended["outcome"]) == ("cancelled", True, "cancelled")
    assert commands_of(lease["id"]) == []
    pool.ended(following)
    assert b"".join(lab.client.output(following["id"])) == b"dead\n"


@pytest.mark.parametrize(
    ("to", "then"), [("FirstWorkflowTask", "is cancelled"), ("LastWorkflowTask", "waits")], ids=["first", "last"]
)
def test_a_workflow_that_was_reset_runs_its_command_no_second_time(
    stack: Stack, lab: Lab, tmp_path: Path, to: str, then: str
) -> None:
    pool = Pool(lab, grace="1s")
    lease = pool.run(shell=f"echo run >> {tmp_path}/runs\n{LINGER}", folder=str(tmp_path))
    pool.running(lease)
    alive = f"test -e /proc/$(cat {tmp_path}/grandchild)/exe && echo alive || echo dead"
    following = pool.run(shell=alive)
    # So that its last task comes after the command began.
    stack.temporal("workflow", "signal", "--workflow-id", lease["id"], "--name", "granted")
    time.sleep(1)

    stack.temporal("workflow", "reset", "--workflow-id", lease["id"], "--type", to, "--reason", "by a test")
    if then == "is cancelled":
        lab.client.cancel(lease["id"])

    ended = pool.ended(lease)
    assert (ended["result"], ended["started"]) == ("lost", True)
    assert ended["outcome"] == ("lost" if then == "waits" else "cancelled")
    assert (tmp_path / "runs").read_text() == "run\n"
    pool.ended(following)
    assert b"".join(lab.client.output(following["id"])) == b"dead\n"


MEGABYTES = 100


def test_a_hundred_megabytes_at_full_speed_reach_three_readers_whole(stack: Stack, lab: Lab, tmp_path: Path) -> None:
    pool = Pool(lab, output="128MiB")
    lease = pool.run(shell=f"yes 0123456789abcdef | head -c {MEGABYTES}000000")
    before = _memory(stack)
    peak = [0.0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            peak[0] = max(peak[0], _memory(stack))

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(3) as readers:
        sizes = list(readers.map(lambda _: _read(stack.client(), lease), range(3)))
    over.set()
    watching.join()
    ended = pool.ended(lease)
    assert (ended["result"], ended["exit_code"]) == ("exited", 0), ended
    assert ended["output"] == {"limit": 128 * 1024**2, "bytes": MEGABYTES * 10**6, "dropped": 0}
    assert sizes == [MEGABYTES * 10**6] * 3
    assert peak[0] - before < 300, f"from {before:.0f} to {peak[0]:.0f} MiB"


def test_output_beyond_the_bound_is_dropped_and_both_are_said(stack: Stack, lab: Lab) -> None:
    pool = Pool(lab, output="1MiB")
    lease = pool.run(shell="yes 0123456789abcdef | head -c 3000000; echo; echo last")
    ended = pool.ended(lease)
    assert ended["exit_code"] == 0
    assert ended["output"]["limit"] == 1024**2
    assert ended["output"]["dropped"] == ended["output"]["bytes"] - 1024**2 > 0
    assert sum(map(len, lab.client.output(lease["id"]))) == 1024**2
    assert b"output bound of 1 MiB reached" in b"".join(lab.client.log(lease["id"]))


def test_output_reaches_a_reader_while_the_command_runs(stack: Stack, lab: Lab, tmp_path: Path) -> None:
    pool = Pool(lab)
    lease = pool.run(shell=f"echo first; until test -e {tmp_path}/go; do sleep 0.05; done; echo second >&2")
    output = lab.client.output(lease["id"], follow=True)
    assert next(output) == b"first\n"
    (tmp_path / "go").touch()
    assert b"".join(output) == b"second\n"


def _read(client: Client, lease: Lease) -> int:
    with client:
        return sum(map(len, client.output(lease["id"], follow=True)))


def _memory(stack: Stack) -> float:
    """What all of the stack's own processes but Temporal have in memory, in MiB."""
    total = 0.0
    for pid, command in stack.processes().items():
        if "-m api" in command or "worker" in command:
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{pid}/status").read_text()
                total += int(text.split("VmRSS:")[1].split()[0]) / 1024
    return total
