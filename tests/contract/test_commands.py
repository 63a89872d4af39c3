"""Commands of leases on a runner: how they end, as whom they run, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.testing import ActivityEnvironment

from leasehold.commands import CommandEnding, Stream
from leasehold.errors import CommandBegun, Refused
from leasehold.messages import CommandReport, RunCommand
from leasehold.runner_policy import RunnerPolicy
from tests.contract.command_desk import AWAY, Desk, command
from tests.contract.command_hooks import exists, kill, lives, names, until, written
from tests.contract.runner_lab import Runner, runner
from tests.contract.test_command_trees import PIDS, STUBBORN, needs_root

LEASE = "lease-1"


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def lab(tmp_path: Path, desk: Desk) -> AsyncIterator[Runner]:
    async with runner(tmp_path / "data", desk) as lab:
        yield lab


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def result_of(report: CommandReport) -> tuple[str, int | None, bool]:
    return report.ending, report.code, report.started


async def test_a_command_runs_with_what_it_was_given(lab: Runner, desk: Desk, folder: Path) -> None:
    env = {"LEASEHOLD_RESOURCE": "host01", "GREETING": "hello"}
    run = command(
        LEASE, "echo $GREETING $LEASEHOLD_RESOURCE; pwd; env | cut -d= -f1 | sort", env=env, folder=str(folder)
    )
    report = await lab.run(run)
    assert result_of(report) == (CommandEnding.EXITED, 0, True)
    said, where, *variables = desk.text().decode().splitlines()
    assert (said, where) == ("hello host01", str(folder))
    # Nothing of the runner's own.
    assert set(variables) <= {*env, "HOME", "LANG", "LEASEHOLD_RUN", "PATH", "PWD", "SHLVL", "_", "OLDPWD"}
    assert desk.begun == [(LEASE, "this-one", 1)]


async def test_a_list_of_words_meets_no_shell(lab: Runner, desk: Desk) -> None:
    await lab.run(command(LEASE, "printf", "%s|", "$HOME", "a b", ";"))
    assert desk.text() == b"$HOME|a b|;|"


async def test_how_it_ends_is_told_apart(lab: Runner) -> None:
    endings = {
        "exit 7": (CommandEnding.EXITED, 7, True),
        "kill -TERM $$": (CommandEnding.SIGNALLED, 15, True),
    }
    for number, (run, expected) in enumerate(endings.items()):
        assert result_of(await lab.run(command(f"lease-{number}", run))) == expected
    late = await lab.run(command("lease-late", "sleep 1000", timeout_s=0.5))
    assert result_of(late) == (CommandEnding.TIMED_OUT, None, True)
    none = await lab.run(command("lease-none", "no-such-program", "--help"))
    assert result_of(none) == (CommandEnding.NOT_STARTED, None, False)
    assert "no-such-program: No such file" in none.detail
    away = await lab.run(command("lease-away", "true", folder="/no/such/folder"))
    assert result_of(away) == (CommandEnding.NOT_STARTED, None, False)
    assert "folder /no/such/folder" in away.detail
    nobody = await lab.run(command("lease-nobody", "true", account="nobody-at-all"))
    assert result_of(nobody) == (CommandEnding.NOT_STARTED, None, False)
    assert "no account nobody-at-all" in nobody.detail


async def test_it_tells_how_much_it_printed(lab: Runner) -> None:
    report = await lab.run(command(LEASE, "printf 12345; printf 678 >&2", output_limit=6))
    assert (report.output_bytes, report.dropped) == (8, 2)


async def test_without_a_folder_it_gets_a_fresh_one_that_is_removed(lab: Runner, desk: Desk) -> None:
    report = await lab.run(command(LEASE, "pwd; ls -A; mkdir -p a/b; touch a/b/c; ln -s /etc link; chmod 500 a"))
    assert report.code == 0
    (where,) = desk.text().decode().split()
    assert where.startswith(f"{tempfile.gettempdir()}/leasehold-")
    assert not exists(where)
    assert exists("/etc/passwd")


@needs_root
async def test_a_fresh_folder_is_its_accounts_alone(lab: Runner, desk: Desk) -> None:
    report = await lab.run(command(LEASE, "touch mine; stat -c '%U %a' .; id -un", account="nobody"))
    assert report.code == 0
    assert desk.text().decode().split() == ["nobody", "700", "nobody"]


@needs_root
async def test_a_link_in_the_place_of_a_fresh_folder_leads_nowhere(lab: Runner, folder: Path) -> None:
    # In a folder like /tmp its owner may put something else in its place.
    (folder / "precious").touch()
    run = f"w=$(pwd); cd /; rmdir $w; ln -s {folder} $w; echo $w"
    assert (await lab.run(command(LEASE, run, account="nobody"))).code == 0
    assert names(folder) == ["precious"]


async def test_a_lease_that_ends_kills_its_command_and_that_is_no_error(lab: Runner, desk: Desk, folder: Path) -> None:
    running = lab.start(command(LEASE, f"{STUBBORN}\necho begun; sleep 1000", folder=str(folder)))
    tree = await written(folder, *PIDS)
    lab.environment.cancel()
    report = await running
    assert result_of(report) == (CommandEnding.CANCELLED, None, True)
    assert not any(map(lives, tree))
    assert desk.text() == b"begun\n"
    assert desk.has_all()


@pytest.mark.parametrize("why", ["worker_shutdown", "paused", "timed_out"])
async def test_whatever_else_ends_its_activity_the_command_is_lost(lab: Runner, folder: Path, why: str) -> None:
    running = lab.start(command(LEASE, "echo $$ > leader; exec sleep 1000", folder=str(folder)))
    (leader,) = await written(folder, "leader")
    lab.environment.cancel(ActivityCancellationDetails(**{why: True}))
    report = await running
    assert result_of(report) == (CommandEnding.LOST, None, True)
    if why == "worker_shutdown":
        assert report.detail == "its runner was stopped"
    assert not lives(leader)


async def test_a_runner_that_stops_kills_its_commands_within_less_grace(lab: Runner, folder: Path) -> None:
    run = "trap '' TERM; echo $$ > leader; while :; do sleep 0.1; done"
    running = lab.start(command(LEASE, run, folder=str(folder), grace_s=1000.0))
    (leader,) = await written(folder, "leader")
    # Also of what is being killed already.
    lab.environment.cancel()
    await asyncio.sleep(0.3)
    assert lab.commands.close(timedelta(seconds=0.2)) == 1
    assert (await running).ending == CommandEnding.CANCELLED
    assert not lives(leader)
    lab.environment = ActivityEnvironment()
    after = await lab.run(command("lease-2", "true"))
    assert result_of(after) == (CommandEnding.LOST, None, False)


async def test_fenced_off_a_runner_ends_all_its_commands(lab: Runner, folder: Path) -> None:
    running = lab.start(command(LEASE, "echo $$ > leader; exec sleep 1000", folder=str(folder)))
    await written(folder, "leader")
    assert lab.commands.lose("nobody hears of it", timedelta(seconds=1)) == 1
    report = await running
    assert (*result_of(report), report.detail) == (CommandEnding.LOST, None, True, "nobody hears of it")
    # It goes on with others.
    assert (await lab.run(command("lease-2", "true"))).ending == CommandEnding.EXITED


async def test_one_that_stood_still_starts_nothing_it_was_let_begin_before(
    lab: Runner, desk: Desk, folder: Path
) -> None:
    lab.commands.is_fenced = lambda: bool(desk.begun)
    report = await lab.run(command(LEASE, "touch started", folder=str(folder)))
    assert (*result_of(report), report.detail) == (
        CommandEnding.LOST,
        None,
        False,
        "its runner stood still for too long",
    )
    assert names(folder) == []


async def test_a_command_whose_supervisor_dies_is_lost(lab: Runner, folder: Path) -> None:
    run = "echo $PPID > supervisor; echo $$ > leader; exec sleep 1000"
    running = lab.start(command(LEASE, run, folder=str(folder)))
    supervisor, leader = await written(folder, "supervisor", "leader")
    kill(supervisor)
    assert result_of(await running) == (CommandEnding.LOST, None, True)
    assert not lives(leader)
    assert (await lab.run(command("lease-2", "true"))).code == 0


async def test_what_is_over_is_not_started(lab: Runner) -> None:
    order = RunCommand(lease="lease-over", attempt=1, runner="build01")
    report = await lab.environment.run(lab.commands.run_command, order)
    assert (*result_of(report), report.detail) == (
        CommandEnding.NOT_STARTED,
        None,
        False,
        "the command of lease lease-over has ended",
    )


async def test_the_same_attempt_never_runs_twice(lab: Runner, desk: Desk, folder: Path) -> None:
    desk.pause_s = 1000.0
    lab.desk.with_command(command(LEASE, "echo once >> runs; sleep 1000", folder=str(folder)))
    order = RunCommand(lease=LEASE, attempt=1, runner="build01")
    first = asyncio.create_task(lab.environment.run(lab.commands.run_command, order))
    await until((folder / "runs").exists)
    second = asyncio.create_task(lab.environment.run(lab.commands.run_command, order))
    await asyncio.sleep(0.3)
    # Before that it is not known that nothing of it lives.
    assert not second.done()
    lab.environment.cancel()
    await first
    assert (await second).ending == CommandEnding.LOST
    assert (folder / "runs").read_text() == "once\n"


async def test_one_that_ended_never_runs_again_either(lab: Runner, desk: Desk, folder: Path) -> None:
    run = command(LEASE, "echo once >> runs", folder=str(folder))
    assert (await lab.run(run)).code == 0
    await until(lambda: desk.has_all() and not names(lab.spool))
    again = await lab.run(run)
    assert (*result_of(again), again.detail) == (
        CommandEnding.LOST,
        None,
        True,
        "attempt 1 was begun on this runner before",
    )
    assert (folder / "runs").read_text() == "once\n"


async def test_one_that_another_process_has_begun_is_lost_once_that_has_ended_it(
    lab: Runner, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.commands.SILENCE", timedelta(seconds=1))
    desk.trouble = CommandBegun("another process of this runner has taken it up")
    running = lab.start(command(LEASE, "true"))
    await asyncio.sleep(0.5)
    assert not running.done()
    report = await running
    assert (*result_of(report), report.detail) == (CommandEnding.LOST, None, True, desk.trouble.detail)


async def test_for_a_service_that_is_away_for_very_long_it_does_not_wait(
    lab: Runner, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.commands.AWAY_FOR", timedelta(seconds=0.5))
    desk.trouble = AWAY
    report = await lab.run(command(LEASE, "true"))
    # Whether it has begun it the service knows, whose answer may be what was lost.
    assert result_of(report) == (CommandEnding.LOST, None, False)
    assert report.detail == f"its runner did not reach the service to begin it: {AWAY.detail}"


async def test_while_the_service_is_away_a_command_waits_to_begin(lab: Runner, desk: Desk) -> None:
    desk.trouble = AWAY
    running = lab.start(command(LEASE, "echo begun"))
    await asyncio.sleep(0.5)
    desk.trouble = None
    assert (await running).code == 0
    assert desk.text() == b"begun\n"


async def test_a_lease_that_ends_before_its_command_began_starts_nothing(lab: Runner, desk: Desk, folder: Path) -> None:
    desk.trouble = AWAY
    running = lab.start(command(LEASE, "touch started", folder=str(folder)))
    await asyncio.sleep(0.2)
    lab.environment.cancel()
    assert result_of(await running) == (CommandEnding.CANCELLED, None, False)
    assert names(folder) == []


async def test_a_service_that_refuses_the_runner_has_it_start_nothing(
    lab: Runner, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An answer that may be a proxy's has to last a minute.
    monkeypatch.setattr("activities.commands.REFUSED_FOR", timedelta(seconds=2))
    desk.trouble = Refused("this token is not build01's")
    report = await lab.run(command(LEASE, "true"))
    assert (*result_of(report), report.detail) == (
        CommandEnding.NOT_STARTED,
        None,
        False,
        "this token is not build01's",
    )


async def test_the_runners_own_policy_has_the_last_word(tmp_path: Path, desk: Desk, folder: Path) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    policy = RunnerPolicy(accounts=(own,), run=("touch *",))
    async with runner(tmp_path / "data", desk, policy) as lab:
        refused = await lab.run(command("lease-1", "rm", "-rf", "x", folder=str(folder)))
        allowed = await lab.run(command("lease-2", "touch", "x", folder=str(folder)))
        other = await lab.run(command("lease-3", "touch", "y", folder=str(folder), account="daemon"))
    assert (*result_of(refused), refused.detail) == (
        CommandEnding.NOT_STARTED,
        None,
        False,
        "this runner does not run such commands",
    )
    assert allowed.code == 0
    assert other.detail == "this runner runs no commands as daemon"
    assert names(folder) == ["x"]


async def test_two_attempts_of_one_lease_never_overlap(lab: Runner, folder: Path) -> None:
    run = command(LEASE, "mkdir busy || exit 1; sleep 0.3; rmdir busy", folder=str(folder))
    reports = await asyncio.gather(lab.run(run, 1), lab.run(run, 2))
    assert [report.code for report in reports] == [0, 0]


async def test_a_command_has_no_more_to_say_once_it_has_ended(lab: Runner, desk: Desk) -> None:
    await lab.run(command(LEASE, "echo out; echo err >&2"))
    assert desk.has_all()
    assert (desk.text(), desk.text(Stream.STDERR)) == (b"out\n", b"err\n")


async def test_an_ended_command_does_not_wait_for_ever_for_the_service(
    lab: Runner, desk: Desk, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.drivers.workplace.HAND_OVER_WITHIN", timedelta(seconds=0.5))
    running = lab.start(command(LEASE, "until [ -e go ]; do sleep 0.05; done; echo late", folder=str(folder)))
    await until(lambda: bool(desk.begun))
    desk.trouble = AWAY
    (folder / "go").touch()
    assert (await running).code == 0
    desk.trouble = None
    await until(desk.has_all)
    assert desk.text() == b"late\n"


async def test_many_commands_at_once(lab: Runner, desk: Desk) -> None:
    commands = [command(f"lease-{n}", f"echo {n}; sleep 0.2; echo {n}") for n in range(20)]
    reports = await asyncio.gather(*map(lab.run, commands))
    assert {report.code for report in reports} == {0}
    assert [desk.text(lease=f"lease-{n}").split() for n in range(20)] == [[b"%d" % n] * 2 for n in range(20)]
