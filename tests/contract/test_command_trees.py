"""The driver `command`, thorough: nothing of a command lives on, not even what calls `setsid`; and accounts."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from activities.drivers.command import CommandDriver
from activities.drivers.processes import Mark, carries
from leasehold.errors import Unavailable
from leasehold.ports import Ending, HookCall, HookResult
from tests.contract.command_hooks import GRACE, PATIENCE, Log, call, kill, lives, names, pids, run_hook, until, written
from tests.contract.test_command_driver_crashes import ROOT

# In sessions of their own: a child, one whose parent has gone, one that forgets its environment, and one that is both.
AWAY = """
setsid sh -c 'echo $$ > child; exec sleep 1000' &
(setsid sh -c 'echo $$ > orphan; exec sleep 1000' &)
setsid env -i sh -c 'echo $$ > clean; exec sleep 1000' &
(setsid env -i sh -c 'echo $$ > lost; exec sleep 1000' &)
until [ -s child ] && [ -s orphan ] && [ -s clean ] && [ -s lost ]; do sleep 0.02; done
"""
PIDS = ("child", "orphan", "clean", "lost")
STUBBORN = f"trap '' TERM INT HUP\n{AWAY}"


def _may_mount() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs commands as others")

RUNNER = """
import asyncio, pathlib, sys
from activities.drivers.command import CommandDriver
from tests.contract.command_hooks import GRACE, Log
from tests.contract.test_command_trees import thorough

async def work(locks, folder, run):
    async with CommandDriver(pathlib.Path(locks), GRACE) as driver:
        await driver.run(thorough(run, pathlib.Path(folder)), Log())

asyncio.run(work(*sys.argv[1:]))
"""


def thorough(run: str | tuple[str, ...], folder: Path, *, timeout: float = 60, account: str | None = None) -> HookCall:
    """A call of which nothing may live on."""
    return replace(call(run, folder=folder, timeout=timeout, lease_file=b""), thorough=True, account=account)


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
async def driver(locks: Path) -> AsyncIterator[CommandDriver]:
    async with asyncio.timeout(2 * PATIENCE), CommandDriver(locks, GRACE) as driver:
        yield driver


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("run", [AWAY, STUBBORN], ids=["polite", "stubborn"])
async def test_what_calls_setsid_dies_with_the_end_of_its_command(
    driver: CommandDriver, folder: Path, run: str
) -> None:
    result = await run_hook(driver, thorough(f"{run}\nexit 3", folder))
    assert (result.ending, result.code) == (Ending.EXITED, 3)
    assert not any(map(lives, pids(folder, *PIDS)))


@pytest.mark.parametrize("run", [AWAY, STUBBORN], ids=["polite", "stubborn"])
async def test_what_calls_setsid_dies_when_its_command_is_cancelled(
    driver: CommandDriver, folder: Path, run: str
) -> None:
    running = asyncio.create_task(run_hook(driver, thorough(f"{run}\nsleep 1000", folder)))
    tree = await written(folder, *PIDS)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(map(lives, tree))


@pytest.mark.parametrize("run", [AWAY, STUBBORN], ids=["polite", "stubborn"])
async def test_what_calls_setsid_dies_at_its_commands_timeout(driver: CommandDriver, folder: Path, run: str) -> None:
    result = await run_hook(driver, thorough(f"{run}\nsleep 1000", folder, timeout=2))
    assert result.ending is Ending.TIMED_OUT
    assert not any(map(lives, pids(folder, *PIDS)))


async def test_a_process_that_another_run_marked_is_left_alone(driver: CommandDriver, folder: Path) -> None:
    daemon = "setsid sh -c 'echo $$ > child; exec sleep 1000' & until [ -s child ]; do sleep 0.02; done"
    assert (await run_hook(driver, call(daemon, folder=folder))).ok
    (pid,) = pids(folder, "child")
    try:
        assert (await run_hook(driver, thorough("true", folder))).ok
        assert lives(pid)
    finally:
        kill(pid)


async def test_somebody_elses_group_with_a_marked_process_in_it_is_left_alone(
    driver: CommandDriver, folder: Path
) -> None:
    # Given a shell of somebody else's, in whose process group a process has the mark of our command.
    forge = "env LEASEHOLD_RUN=$(cat mark) sleep 1000 & echo $! >forged"
    script = f"until [ -s mark ]; do sleep 0.02; done; {forge}; wait; sleep 1000"
    theirs = await asyncio.create_subprocess_exec("sh", "-c", script, cwd=folder, start_new_session=True)
    try:
        # Its number is known before it has begun its program, and with that its mark.
        has_mark = "[ -s forged ] && grep -q LEASEHOLD_RUN /proc/$(cat forged)/environ"
        run = f"echo $LEASEHOLD_RUN >mark; until {has_mark}; do sleep 0.02; done"
        assert (await run_hook(driver, thorough(run, folder))).ok
        (forged,) = pids(folder, "forged")
        assert not lives(forged)
        assert theirs.returncode is None
        assert lives(theirs.pid)
    finally:
        kill(theirs.pid)
        await theirs.wait()


@pytest.mark.parametrize("session", ["there", "gone"])
async def test_what_a_killed_supervisor_left_is_killed_by_the_next(folder: Path, locks: Path, session: str) -> None:
    # Given a runner whose supervisor was killed, which takes the first process along and nothing else.
    ending = "echo $PPID > supervisor; sleep 1000 & echo $! > peer; echo $$ > leader; wait"
    run = f"trap '' TERM\n{AWAY}\n{ending}"
    runner = await asyncio.create_subprocess_exec(sys.executable, "-c", RUNNER, locks, folder, run, cwd=ROOT)
    supervisor, leader, peer, *tree = await written(folder, "supervisor", "leader", "peer", *PIDS)
    runner.send_signal(signal.SIGSTOP)
    kill(supervisor)
    runner.kill()
    await runner.wait()
    await until(lambda: not lives(leader))
    if session == "gone":
        kill(peer)
        await until(lambda: not lives(peer))
    assert all(map(lives, tree))
    # When the next one starts, then it ends what is in other sessions too, before it has swept.
    async with CommandDriver(locks, GRACE, alone=True) as driver:
        await driver.swept()
        assert not any(map(lives, [peer, *tree]))
        assert names(locks) == []
    kill(pids(folder, "clean")[0])


async def test_a_runner_waits_for_the_dying_supervisor_of_an_earlier_one(folder: Path, locks: Path) -> None:
    # Given a killed runner, whose supervisor gives the command its grace.
    run = f"{STUBBORN}\necho $$ > leader; while :; do sleep 0.1; done"
    runner = await asyncio.create_subprocess_exec(sys.executable, "-c", RUNNER, locks, folder, run, cwd=ROOT)
    tree = await written(folder, "leader", *PIDS)
    runner.kill()
    await runner.wait()
    async with CommandDriver(locks, GRACE, alone=True) as driver:
        await driver.swept()
        assert not any(map(lives, tree))


async def test_a_command_has_its_own_grace(driver: CommandDriver, folder: Path) -> None:
    run = "trap 'sleep 2; touch cleaned; exit 0' TERM; echo $$ > leader; while :; do sleep 0.1; done"
    patient = replace(thorough(run, folder, timeout=1), kill_grace=timedelta(seconds=20))
    assert (await run_hook(driver, patient)).ending is Ending.TIMED_OUT
    assert "cleaned" in names(folder)


async def test_without_a_lease_there_is_no_lease_file(driver: CommandDriver, folder: Path, locks: Path) -> None:
    result = await run_hook(driver, thorough(f"echo ${{LEASEHOLD_LEASE_FILE-none}}; ls {locks}/*.json", folder))
    assert result.stdout == b"none\n"


async def test_no_account_of_this_name(driver: CommandDriver, folder: Path) -> None:
    result = await run_hook(driver, thorough("true", folder, account="nobody-at-all"))
    assert result.ending is Ending.NOT_STARTED
    assert "there is no account nobody-at-all" in result.detail


async def test_ones_own_account_needs_no_rights(driver: CommandDriver, folder: Path) -> None:
    result = await run_hook(driver, thorough("id -un", folder, account=pwd.getpwuid(os.geteuid()).pw_name))
    assert result.ok


@needs_root
class TestAsRoot:
    """Where the runner may change to other accounts."""

    async def run(self, driver: CommandDriver, run: str | tuple[str, ...], account: str = "daemon") -> HookResult:
        return await run_hook(driver, thorough(run, Path("/"), account=account))

    async def test_a_command_runs_as_its_account_and_with_its_groups_alone(self, driver: CommandDriver) -> None:
        result = await self.run(driver, "id -un; id -gn; id -Gn; echo $HOME $USER $LOGNAME; pwd")
        home = pwd.getpwnam("daemon").pw_dir
        assert result.stdout.decode().split() == ["daemon", "daemon", "daemon", home, "daemon", "daemon", "/"]

    async def test_it_can_open_its_output_again(self, driver: CommandDriver) -> None:
        assert (await self.run(driver, "echo again > /dev/stdout", "nobody")).stdout == b"again\n"

    async def test_it_gets_no_rights_back(self, driver: CommandDriver) -> None:
        assert (await self.run(driver, "kill -0 1 2> /dev/null || echo refused", "nobody")).stdout == b"refused\n"

    async def test_a_variable_of_its_own_counts(self, driver: CommandDriver) -> None:
        given = replace(thorough("echo $HOME", Path("/"), account="daemon"), env={"HOME": "/elsewhere"})
        assert (await run_hook(driver, given)).stdout == b"/elsewhere\n"

    async def test_a_folder_that_it_may_not_enter(self, driver: CommandDriver, folder: Path) -> None:
        os.chmod(folder, 0o700)
        result = await run_hook(driver, thorough("true", folder, account="nobody"))
        assert result.ending is Ending.NOT_STARTED
        assert f"folder {folder}: Permission denied" in result.detail

    async def test_a_program_that_it_may_not_run(self, driver: CommandDriver) -> None:
        result = await self.run(driver, ("/etc/shadow",), "nobody")
        assert result.ending is Ending.NOT_STARTED

    async def test_its_processes_die_too(self, driver: CommandDriver, folder: Path) -> None:
        pwd_of = pwd.getpwnam("nobody")
        for place in (folder, *folder.parents):
            if place == Path("/tmp"):
                break
            place.chmod(0o755)
        os.chown(folder, pwd_of.pw_uid, pwd_of.pw_gid)
        running = asyncio.create_task(driver.run(thorough(f"{STUBBORN}\nsleep 1000", folder, account="nobody"), Log()))
        tree = await written(folder, *PIDS)
        assert {os.stat(f"/proc/{pid}").st_uid for pid in tree} == {pwd_of.pw_uid}
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not any(map(lives, tree))

    def test_its_processes_are_known_whatever_they_hide(self) -> None:
        mark, other = Mark.of("a run"), Mark.of("another run")
        theirs = subprocess.Popen(["env", "-i", "sleep", "1000"], user="nobody", preexec_fn=mark.put)
        try:
            assert (carries(theirs.pid, mark), carries(theirs.pid, other)) == (True, False)
            # A runner that is not root may look at less.
            os.seteuid(pwd.getpwnam("daemon").pw_uid)
            assert (carries(theirs.pid, mark), carries(theirs.pid, other)) == (True, False)
        finally:
            os.seteuid(0)
            theirs.kill()
            theirs.wait()

    @pytest.mark.skipif(not _may_mount(), reason="nothing can be mounted here")
    def test_where_others_processes_are_hidden_it_finds_its_own(self) -> None:
        script = f"""
import os, pwd, subprocess, sys, time
sys.path.insert(0, {str(ROOT)!r})
from activities.drivers import processes
subprocess.run(["mount", "-t", "proc", "-o", "hidepid=1", "proc", "/proc"], check=True)
other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
mine = subprocess.Popen(["sleep", "1000"], start_new_session=True)
until = time.monotonic() + 30
while mine.pid not in (found := {{process.pid for process in processes._processes()}}):
    # Until it has begun its program it is hidden like the one that had the rights.
    assert time.monotonic() < until, found
assert other.pid not in found, found
trees = [processes.Tree(mine.pid, "run"), processes.Tree(other.pid, "run")]
# Of what is hidden nobody can say that it is dead.
assert set(processes.living(trees)) == set(trees)
mine.kill()
mine.wait()
assert processes.living(trees[:1]) == {{}}
"""
        subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-c", script],
            check=True,
            timeout=60,
        )

    async def test_it_dies_with_its_supervisor(self, driver: CommandDriver, folder: Path) -> None:
        os.chmod(folder, 0o777)
        for place in folder.parents:
            if place == Path("/tmp"):
                break
            place.chmod(0o755)
        run = "echo $PPID > supervisor; echo $$ > leader; exec sleep 1000"
        running = asyncio.create_task(driver.run(thorough(run, folder, account="nobody"), Log()))
        supervisor, leader = await written(folder, "supervisor", "leader")
        kill(supervisor)
        with pytest.raises(Unavailable):
            await running
        assert not lives(leader)
