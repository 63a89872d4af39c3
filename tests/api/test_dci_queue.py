"""dci-queue's users on the service: what its own examples do, and each of its defects by its name."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.api.port import Port
from tests.api.queue_lab import QueueLab, Runner, gone, until, written
from tests.api.stack import Stack

HOLD = "until [ -e {} ]; do sleep 0.05; done"


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack, queue_port: Port, tmp_path: Path) -> AsyncIterator[QueueLab]:
    made = QueueLab(stack, queue_port, tmp_path)
    yield made
    await made.clear()


def held(folder: Path) -> tuple[Path, list[str]]:
    """A file, and a command that runs until it is there."""
    path = folder / uuid.uuid4().hex
    return path, ["--", "sh", "-c", f"echo @RESOURCE; {HOLD.format(path)}"]


class TestPoolsAndResources:
    async def test_a_pool_is_added_twice_and_removed(self, lab: QueueLab) -> None:
        pool = lab.name()
        for _ in range(2):
            assert (await lab.dci("add-pool", "-n", pool)).status == 0
        assert pool in (await lab.dci("list")).out.split()
        assert (await lab.dci("remove-pool", "-n", pool)).status == 0

        async def is_gone() -> bool:
            return pool not in (await lab.dci("list")).out.split()

        await until(is_gone)
        assert (await lab.dci("list", pool)).status == 1
        assert (await lab.dci("remove-pool", pool)).status == 0

    async def test_what_was_taken_over_goes_as_what_was_made_here(self, lab: QueueLab, tmp_path: Path) -> None:
        pool = lab.name()
        for resource in ("r1", "r2"):
            for kind in ("pool", "available"):
                (tmp_path / "old" / kind / pool).mkdir(parents=True, exist_ok=True)
                (tmp_path / "old" / kind / pool / resource).touch()
        for _ in range(2):
            said = await lab.run("import", "dci-queue", str(tmp_path / "old"), "--apply")
            assert said.status == 0, said
        assert await lab.available(pool) == ["r1", "r2"]
        assert (await lab.dci("remove-resource", "-f", pool, "r1", "sold")).status == 0
        assert await lab.available(pool) == ["r2"]
        assert (await lab.dci("remove-pool", pool)).status == 0

        async def is_gone() -> bool:
            return pool not in (await lab.dci("list")).out.split()

        await until(is_gone)

    async def test_a_resource_is_removed_with_a_reason_and_added_again(self, lab: QueueLab) -> None:
        pool = await lab.pool("cluster4")
        assert await lab.available(pool) == ["cluster4"]
        assert (await lab.dci("remove-resource", pool, "cluster4")).status == 2
        assert (await lab.dci("remove-resource", pool, "cluster4", "reserved to debug blabla (fred)")).status == 0
        assert await lab.available(pool) == []
        (line,) = await lab.lines(pool, "Removed resources")
        assert line.startswith("cluster4: reserved to debug blabla (fred) [")
        assert (await lab.dci("add-resource", pool, "cluster4")).status == 0
        assert await lab.available(pool) == ["cluster4"]
        assert await lab.lines(pool, "Removed resources") == []

    async def test_a_resource_is_forgotten_by_force(self, lab: QueueLab) -> None:
        pool = await lab.pool("cluster4")
        assert (await lab.dci("remove-resource", pool, "cluster4", "reserved")).status == 0
        for name in ("cluster4", "cluster_not_created"):
            assert (await lab.dci("remove-resource", "-f", pool, name, "not needed")).status == 0
        assert await lab.lines(pool, "Resources") == await lab.lines(pool, "Removed resources") == []

    async def test_an_unknown_resource_cannot_be_removed(self, lab: QueueLab) -> None:
        pool = await lab.pool()
        said = await lab.dci("remove-resource", pool, "cluster_not_created", "does not matter this")
        assert (said.status, said.err) == (1, "Trying to remove resource cluster_not_created that does not exist.\n")

    async def test_one_that_is_removed_is_not_available_while_a_job_still_holds_it(self, lab: QueueLab) -> None:
        pool = await lab.pool("r1")
        go, command = held(lab.folder)
        job = await lab.schedule(pool, *command)
        await lab.running(job)
        assert (await lab.dci("remove-resource", "-f", pool, "r1", "gone")).status == 0
        assert await lab.available(pool) == []
        go.touch()
        assert (await lab.command(job))["result"] == "exited"

        async def is_gone() -> bool:
            return await lab.lines(pool, "Resources") == []

        await until(is_gone)


class TestSchedule:
    async def test_it_is_run_with_what_it_was_given(self, lab: QueueLab) -> None:
        pool = await lab.pool("cluster4")
        job = await lab.schedule(
            pool, "--", "sh", "-c", "echo @RESOURCE $DCI_QUEUE $DCI_QUEUE_ID $DCI_QUEUE_JOBID; pwd"
        )
        assert (await lab.command(job))["exit_code"] == 0
        assert await lab.output(job) == f"cluster4 {pool} {job} {pool}.{job}\n{lab.folder}\n"
        assert (await lab.dci("log", pool, job)).out == await lab.output(job)
        assert (await lab.dci("log", "-n", "1", pool, job)).out == f"{lab.folder}\n"
        assert (await lab.dci("log", "-n", "+2", pool, job)).out == f"{lab.folder}\n"
        assert await lab.available(pool) == ["cluster4"]

    async def test_a_command_without_a_resource_is_none(self, lab: QueueLab) -> None:
        pool = await lab.pool("cluster4")
        said = await lab.dci("schedule", pool, "echo", "x")
        assert (said.status, said.err) == (1, "no @RESOURCE in command: echo x\n")

    async def test_a_duplicate_is_dropped_unless_by_force(self, lab: QueueLab) -> None:
        pool = await lab.pool()
        first = await lab.schedule("-p", "1", pool, "echo", "@RESOURCE")
        assert await lab.schedule(pool, "echo", "@RESOURCE") == first
        others = {await lab.schedule(pool, "ls", "@RESOURCE"), await lab.schedule("-f", pool, "echo", "@RESOURCE")}
        assert len(others | {first}) == 3
        elsewhere = lab.folder / "elsewhere"
        elsewhere.mkdir()
        said = await lab.dci("schedule", pool, "echo", "@RESOURCE", cwd=elsewhere)
        assert said.number not in {*others, first}

    async def test_the_highest_priority_goes_first_and_then_the_oldest(self, lab: QueueLab) -> None:
        pool = await lab.pool()
        log = lab.folder / "order"
        jobs = [
            await lab.schedule("-p", priority, pool, "--", "sh", "-c", f"echo {name} >> {log}; : @RESOURCE")
            for name, priority in (("last", "0"), ("first", "2"), ("second", "2"), ("never", "-1"))
        ]
        queued = [line.partition(" ")[0] for line in await lab.lines(pool, "Queued commands")]
        assert queued == [f"{jobs[1]}(p2)", f"{jobs[2]}(p2)", jobs[0], f"{jobs[3]}(p-1)"]
        assert (await lab.dci("add-resource", pool, "cluster4")).status == 0
        for job in jobs[:3]:
            assert (await lab.command(job))["exit_code"] == 0
        assert log.read_text().split() == ["first", "second", "last"]
        assert (await lab.lease(jobs[3]))["state"] == "queued"

    async def test_the_resource_is_taken_out_with_the_job(self, lab: QueueLab) -> None:
        pool = await lab.pool("cluster4")
        job = await lab.schedule("-r", pool, "echo", "@RESOURCE")
        await lab.command(job)
        assert await lab.lines(pool, "Resources") == await lab.available(pool) == []
        assert len(await lab.lines(pool, "Removed resources")) == 1

    async def test_blocking_it_returns_the_jobs_status_and_shows_its_output(self, lab: QueueLab) -> None:
        pool = await lab.pool("cluster4")
        said = await lab.dci("schedule", "-b", pool, "false", "@RESOURCE")
        assert (said.status, said.out) == (1, f"{said.number}\n")
        said = await lab.dci("schedule", "-b", "-C", pool, "--", "sh", "-c", "echo on @RESOURCE; echo bad >&2; exit 7")
        assert (said.status, said.out) == (7, f"{said.number}\non cluster4\n")
        assert said.err.splitlines()[-2:] == ["bad", f"lease {said.number}: it ran, and exited with status 7"]

    async def test_a_program_that_there_is_not_is_not_started_and_frees_the_resource(self, lab: QueueLab) -> None:
        pool = await lab.pool("cluster4")
        said = await lab.dci("schedule", "-b", pool, "no-such-command", "@RESOURCE")
        assert said.status == 126
        assert "it was not started" in said.err
        assert await lab.available(pool) == ["cluster4"]

    async def test_an_extra_pool_has_to_be_there(self, lab: QueueLab) -> None:
        hub, spoke = await lab.pool("hub1"), lab.name()
        assert (await lab.dci("schedule", "-e", spoke, hub, "echo", "@RESOURCE")).status == 1
        assert await lab.lines(hub, "Queued commands") == []

    async def test_an_extra_pool_gives_a_resource_as_well(self, lab: QueueLab) -> None:
        hub, spoke = await lab.pool("hub1"), await lab.pool("spoke1")
        told = "$DCI_QUEUE $DCI_QUEUE_RES $DCI_QUEUE1 $DCI_QUEUE_RES1 $DCI_QUEUE2 $DCI_QUEUE_RES2"
        job = await lab.schedule("-e", spoke, hub, "--", "sh", "-c", f"echo @RESOURCE {told}")
        assert (await lab.command(job))["exit_code"] == 0
        assert (await lab.output(job)).split() == ["hub1", hub, "hub1", hub, "hub1", spoke, "spoke1"]
        assert await lab.available(hub) == ["hub1"]
        assert await lab.available(spoke) == ["spoke1"]


class TestList:
    async def test_what_runs_is_listed_with_all_its_resources(self, lab: QueueLab) -> None:
        hub, spoke = await lab.pool("resA"), await lab.pool("resB")
        go, command = held(lab.folder)
        job = await lab.schedule("-p", "1", "-e", spoke, hub, *command)
        await lab.running(job)
        (line,) = await lab.lines(hub, "Executing commands")
        assert line.startswith(f"{job}(p1) [resA,resB]: sh -c echo resA; ")
        assert line.endswith(f" (wd: {lab.folder})")
        assert await lab.available(spoke) == []
        go.touch()
        await lab.command(job)

    async def test_by_command_and_by_directory(self, lab: QueueLab) -> None:
        pool = await lab.pool()
        job = await lab.schedule(pool, "echo", "@RESOURCE")
        assert (await lab.dci("search", pool, "echo", "@RESOURCE")).out == f"{job}\n"
        assert (await lab.dci("search", pool, "echo")).out == ""
        assert (await lab.dci("searchdir", pool, str(lab.folder))).out == f"{job}\n"
        assert (await lab.dci("searchdir", pool, "/no/such/place")).status == 1

    async def test_dci_jobs_are_found_in_a_log(self, lab: QueueLab) -> None:
        pool = await lab.pool("res")
        ident = str(uuid.uuid4())
        (lab.folder / "res").write_text(
            f"2024-02-28 12:34:58 - INFO - running jobdef: test-job with private_data_dir=/var/lib/{ident} env={{}}\n"
            f'changed: [jumphost] => {{"changed": true, "job": {{"name": "check", "id": "{ident}-2"}}}}\n'
        )
        job = await lab.schedule(pool, "cat", f"{lab.folder}/@RESOURCE")
        await lab.command(job)
        said = await lab.dci("dci-job", pool, job)
        assert (said.status, said.out) == (0, f"test-job:{ident}\ncheck:{ident}-2\n")
        await lab.command(other := await lab.schedule(pool, "echo", "@RESOURCE"))
        assert (await lab.dci("dci-job", pool, other)).status == 1


class TestDefects:
    async def test_the_id_is_not_printed(self, lab: QueueLab) -> None:
        said = await lab.dci("schedule", await lab.pool(), "echo", "@RESOURCE")
        assert said.out.strip().isdecimal()

    async def test_blocking_is_right_only_for_the_first_job(self, lab: QueueLab) -> None:
        pool = await lab.pool("r1", "r2")
        jobs = [lab.dci("schedule", "-b", pool, "--", "sh", "-c", f": @RESOURCE; exit {n}") for n in range(5)]
        assert [said.status for said in await asyncio.gather(*jobs)] == list(range(5))

    async def test_a_killed_job_reports_0(self, lab: QueueLab) -> None:
        said = await lab.dci("schedule", "-b", await lab.pool("r1"), "--", "sh", "-c", ": @RESOURCE; kill -9 $$")
        assert said.status == 128 + signal.SIGKILL
        assert "it ran, and was ended by signal 9 (SIGKILL)" in said.err

    async def test_two_runners_run_one_job_twice_and_lose_another(self, lab: QueueLab, stack: Stack) -> None:
        second = await Runner.with_token(stack, lab.port)
        await second.start()
        try:
            pool = await lab.pool("r1", "r2", "r3")
            log = lab.folder / "ran"
            # The first waits for the second, so that neither runner could have all of them.
            run = f"echo $1 >> {log}; until [ $(wc -l < {log}) -gt 1 ]; do sleep 0.05; done"
            jobs = await asyncio.gather(
                *(lab.schedule(pool, "--", "sh", "-c", run, "@RESOURCE", str(n)) for n in range(12))
            )
            ended = [await lab.command(job) for job in jobs]
            assert {command["exit_code"] for command in ended} == {0}
            assert len({command["on"] for command in ended}) > 1
            assert sorted(map(int, log.read_text().split())) == list(range(12))
        finally:
            await second.stop()

    async def test_a_killed_runner_leaks_its_resource(self, lab: QueueLab, stack: Stack) -> None:
        runner = await Runner.with_token(stack, lab.port)
        await runner.start()
        try:
            pool = lab.name()
            body = {"name": pool, "resources": [{"name": "r1"}], "commands": {"runner": runner.name, "allow": [{}]}}
            assert (await stack.http.put(f"/v1/pools/{pool}", json=body)).status_code == 200
            job = await lab.schedule(pool, "--", "sh", "-c", "echo $$; : @RESOURCE; sleep 300")
            await lab.running(job)
            runner.kill()
            await runner.start()
            command = await lab.command(job)
            assert (command["result"], command["started"]) == ("lost", True)
            assert await lab.available(pool) == ["r1"]
        finally:
            await runner.stop()

    async def test_unschedule_leaves_grandchildren_alive(self, lab: QueueLab) -> None:
        pool = await lab.pool("r1")
        pid = lab.folder / "pid"
        script = f": @RESOURCE; setsid sh -c 'echo $$ > {pid}; sleep 300' & wait"
        job = await lab.schedule(pool, "--", "sh", "-c", script)
        grandchild = int(await written(pid))
        assert (await lab.dci("unschedule", pool, job)).status == 0
        lease = await lab.lease(job)
        assert (lease["state"], lease["command"]["result"]) == ("ended", "cancelled")
        await gone(grandchild)
        assert await lab.available(pool) == ["r1"]

    async def test_a_job_waiting_for_an_extra_pool_blocks_all_behind_it(self, lab: QueueLab) -> None:
        hub, spoke = await lab.pool("hub1"), await lab.pool()
        waiting = await lab.schedule("-p", "9", "-e", spoke, hub, "echo", "@RESOURCE")
        assert (await lab.dci("schedule", "-b", hub, "true", "@RESOURCE")).status == 0
        assert (await lab.lease(waiting))["state"] == "queued"
        assert await lab.available(hub) == ["hub1"]

    async def test_blocking_returns_1_when_another_runner_takes_the_job(self, lab: QueueLab) -> None:
        pool = await lab.pool("r1")
        go, command = held(lab.folder)
        process = await lab.start("compat", "dci-queue", "schedule", "-b", pool, *command)

        async def runs() -> bool:
            return len(await lab.lines(pool, "Executing commands")) == 1

        await until(runs)
        assert (await lab.dci("run", pool)).status == 0
        go.touch()
        assert (await lab.finish(process)).status == 0

    async def test_twice_the_same_extra_pool_with_one_free_executes_for_ever(self, lab: QueueLab) -> None:
        hub, spoke = await lab.pool("hub1"), await lab.pool("s1")
        job = await lab.schedule("-e", spoke, "-e", spoke, hub, "--", "sh", "-c", "echo @RESOURCE $DCI_QUEUE_RES3")
        assert (await lab.lease(job))["state"] == "queued"
        assert await lab.lines(hub, "Executing commands") == []
        assert (await lab.dci("add-resource", spoke, "s2")).status == 0
        assert (await lab.command(job))["exit_code"] == 0
        assert (await lab.output(job)).split() in (["hub1", "s1"], ["hub1", "s2"])

    async def test_the_next_job_sees_the_last_ones_environment(self, lab: QueueLab) -> None:
        hub, spoke = await lab.pool("hub1"), await lab.pool("s1")
        print_it = ["--", "sh", "-c", "echo @RESOURCE ${DCI_QUEUE_RES2-none}"]
        await lab.command(await lab.schedule("-e", spoke, hub, *print_it))
        second = await lab.schedule("-f", hub, *print_it)
        await lab.command(second)
        assert await lab.output(second) == "hub1 none\n"

    async def test_a_held_resource_of_an_extra_pool_added_again_shows_as_available(self, lab: QueueLab) -> None:
        hub, spoke = await lab.pool("hub1"), await lab.pool("s1")
        go, command = held(lab.folder)
        job = await lab.schedule("-e", spoke, hub, *command)
        await lab.running(job)
        assert (await lab.dci("add-resource", spoke, "s1")).status == 0
        assert await lab.available(spoke) == []
        go.touch()
        await lab.command(job)

    async def test_a_killed_blocking_client_leaks_its_resource(self, lab: QueueLab) -> None:
        pool = await lab.pool("r1")
        go, command = held(lab.folder)
        process = await lab.start("compat", "dci-queue", "schedule", "-b", pool, *command)

        async def runs() -> bool:
            return len(await lab.lines(pool, "Executing commands")) == 1

        await until(runs)
        process.kill()
        await lab.finish(process)
        go.touch()

        async def is_free() -> bool:
            return await lab.available(pool) == ["r1"]

        await until(is_free)

    async def test_search_misses_running_jobs(self, lab: QueueLab) -> None:
        pool = await lab.pool("r1")
        go, command = held(lab.folder)
        job = await lab.schedule(pool, *command)
        await lab.running(job)
        assert (await lab.dci("search", pool, *command)).out == f"{job}\n"
        assert await lab.schedule(pool, *command) == job
        go.touch()
        await lab.command(job)


class TestKept:
    async def test_unschedule_of_an_unknown_id_is_no_error(self, lab: QueueLab) -> None:
        pool = await lab.pool("cluster4")
        for _ in range(2):
            assert (await lab.dci("unschedule", pool, "999999999")).status == 0

    async def test_what_waits_for_a_removed_pool_can_be_unscheduled(self, lab: QueueLab) -> None:
        pool = await lab.pool("r1")
        job = await lab.schedule("-p", "-1", pool, "echo", "@RESOURCE")
        assert (await lab.dci("remove-pool", pool)).status == 0

        async def is_gone() -> bool:
            return pool not in (await lab.dci("list")).out.split()

        await until(is_gone)
        assert (await lab.dci("unschedule", pool, job)).status == 0
        assert (await lab.command(job))["result"] == "cancelled"
        assert (await lab.dci("unschedule", pool, "999999999")).status == 1

    async def test_unschedule_touches_nothing_of_another_pool(self, lab: QueueLab) -> None:
        mine, other = await lab.pool(), await lab.pool()
        job = await lab.schedule(other, "echo", "@RESOURCE")
        assert (await lab.dci("unschedule", mine, job)).status == 0
        assert (await lab.lease(job))["state"] == "queued"

    async def test_a_duplicate_schedule_is_no_error(self, lab: QueueLab) -> None:
        pool = await lab.pool()
        assert {(await lab.dci("schedule", pool, "echo", "@RESOURCE")).status for _ in range(2)} == {0}

    @pytest.mark.parametrize("command", ["clean", "run", "install", "uninstall"])
    async def test_what_needs_nothing_to_be_done_is_done(self, lab: QueueLab, command: str) -> None:
        assert (await lab.dci(command, await lab.pool())).status == 0
