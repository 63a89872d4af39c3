"""What commands print: it reaches the service whole and soon, whatever becomes of service, disk or runner."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from leasehold.commands import CommandEnding, Frame, Stream, frames
from leasehold.errors import CommandOver, Invalid, LeaseholdError, LeaseUnknown
from tests.contract.command_desk import AWAY, Desk, command, serving
from tests.contract.command_hooks import exists, names, until, written
from tests.contract.runner_lab import Runner, runner
from tests.contract.test_command_driver_crashes import ROOT

LEASE = "lease-1"
MIB = 1024 * 1024

# A runner in a process of its own, before a service over HTTP.
RUNNER = """
import asyncio, pathlib, sys
from leasehold.runner_client import RunnerClient
from tests.contract.command_desk import Desk, command
from tests.contract.runner_lab import runner

async def work(data, url, lease, run, folder):
    async with runner(pathlib.Path(data), RunnerClient(url, "token")) as lab:
        order = command(lease, run, folder=folder or None)
        if run:
            lab.desk.with_command = lambda begun: None
            await lab.run(order)
        else:
            await asyncio.sleep(1000)

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def lab(tmp_path: Path, desk: Desk) -> AsyncIterator[Runner]:
    async with runner(tmp_path / "data", desk) as lab:
        yield lab


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def said(desk: Desk) -> str:
    """What Leasehold itself said in the output."""
    return desk.text(Stream.SERVICE).decode()


class Sums(Desk):
    """A service that keeps no more than a checksum of stdout."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(pause_s=pause_s)
        self.offset = 0
        self.stdout, self.stderr, self.ended = hashlib.sha256(), b"", False

    def take(self, lease: str, attempt: int, offset: int, packed: bytes) -> int:
        assert offset == self.offset
        self.offset += len(packed)
        for frame in frames(packed):
            if frame.stream == Stream.STDOUT:
                self.stdout.update(frame.data)
            elif frame.stream == Stream.STDERR:
                self.stderr += frame.data
            else:
                self.ended = frame.stream == Stream.END
        return self.offset


async def test_output_comes_whole_in_its_order_and_nothing_is_left(
    lab: Runner, desk: Desk, spool: Path, tmp_path: Path
) -> None:
    # Each line waits until the one before it, on the other stream, has arrived, so that their order is known.
    wait = "until [ -e $seen ]; do sleep 0.01; done; rm $seen"
    run = f"for n in $(seq 40); do echo $n; seen=out; {wait}; echo $n >&2; seen=err; {wait}; done"
    running = lab.start(command(LEASE, run, folder=str(tmp_path)))
    for n in range(1, 41):
        for stream, name in ((Stream.STDOUT, "out"), (Stream.STDERR, "err")):
            await until(lambda stream=stream, n=n: len(desk.text(stream).split()) == n)  # type: ignore[misc]
            (tmp_path / name).touch()
    assert (await running).code == 0
    numbers = [frame.data for frame in desk.frames() if frame.stream == Stream.STDOUT]
    assert b"".join(numbers).split() == [b"%d" % n for n in range(1, 41)]
    assert desk.text(Stream.STDERR) == desk.text(Stream.STDOUT)
    streams = [frame.stream for frame in desk.frames()][:-1]
    assert streams == [Stream.STDOUT, Stream.STDERR] * 40
    assert desk.has_all()
    await until(lambda: names(spool) == [])


async def test_a_first_word_is_there_before_anything_follows(lab: Runner, desk: Desk) -> None:
    running = lab.start(command(LEASE, "echo first; sleep 1000"))
    await until(lambda: desk.text() == b"first\n")
    lab.environment.cancel()
    await running


async def test_small_pieces_travel_together(lab: Runner, desk: Desk) -> None:
    run = command(LEASE, sys.executable, "-Suc", "for n in range(2000): print(n)")
    assert (await lab.run(run)).code == 0
    assert desk.text().split() == [b"%d" % n for n in range(2000)]
    assert len(desk.frames()) < 100


async def test_beyond_its_bound_output_is_counted_and_dropped_and_that_is_said_then(lab: Runner, desk: Desk) -> None:
    run = "head -c 200000 /dev/zero; sleep 0.3; echo more; sleep 0.3; echo more >&2"
    report = await lab.run(command(LEASE, run, output_limit=100 * 1024))
    assert (report.output_bytes, report.dropped) == (200010, 200010 - 100 * 1024)
    assert desk.text() == bytes(100 * 1024)
    assert said(desk) == "output bound of 100 KiB reached: the rest is dropped\n"
    *_, note, end = desk.frames()
    assert (note.stream, end.stream) == (Stream.SERVICE, Stream.END)
    assert end.at_us - note.at_us > 500_000


async def test_what_comes_in_too_many_pieces_is_cut_too_and_that_is_what_is_said(
    lab: Runner, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activities.drivers.spool.PIECES", 4)
    program = "for n in 1 2 3 4 5; do echo $n; sleep 0.1; echo $n >&2; sleep 0.1; done"
    report = await lab.run(command(LEASE, program, output_limit=2 * 64))
    assert (report.output_bytes, report.dropped) == (20, 8)
    assert desk.text() == desk.text(Stream.STDERR) == b"1\n2\n3\n"
    assert said(desk) == "output bound of 6 pieces reached: the rest is dropped\n"


async def test_a_command_exactly_as_long_as_its_bound_is_whole(lab: Runner, desk: Desk) -> None:
    report = await lab.run(command(LEASE, "head -c 1024 /dev/zero", output_limit=1024))
    assert (report.output_bytes, report.dropped, said(desk)) == (1024, 0, "")


async def test_much_output_before_a_slow_service_is_whole_and_needs_no_memory(tmp_path: Path) -> None:
    # Given a service that takes a tenth of what is printed, and does not keep it.
    sums = Sums(pause_s=0.05)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = 0.0

    async def watch() -> None:
        nonlocal most
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            most = max(most, time.monotonic() - begun)

    watching = asyncio.create_task(watch())
    run = f"head -c {100 * MIB} /dev/urandom | tee >(sha256sum | cut -c1-64 > sum)"
    async with runner(tmp_path / "data", sums) as lab:
        report = await lab.run(command(LEASE, "bash", "-c", f"{run}; sleep 0.2; cat sum >&2", output_limit=200 * MIB))
        assert (report.output_bytes, report.dropped) == (100 * MIB + 65, 0)
        await until(lambda: sums.ended)
    watching.cancel()
    assert sums.stdout.hexdigest() == sums.stderr.decode().strip()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 50 * MIB
    # Nothing else that the runner does had to wait.
    assert most < 3


async def test_while_the_service_is_away_a_command_goes_on(
    lab: Runner, desk: Desk, tmp_path: Path, spool: Path
) -> None:
    run = "echo first; until [ -e go ]; do sleep 0.02; done; head -c 3000000 /dev/zero; touch done; sleep 1000"
    running = lab.start(command(LEASE, run, folder=str(tmp_path)))
    await until(lambda: desk.text() == b"first\n")
    desk.trouble = AWAY
    (tmp_path / "go").touch()
    await until((tmp_path / "done").exists)
    assert desk.text() == b"first\n"
    desk.trouble = None
    await until(lambda: desk.text() == b"first\n" + bytes(3000000))
    lab.environment.cancel()
    await running
    await until(lambda: names(spool) == [])


async def test_what_a_service_forgot_it_is_sent_again(lab: Runner, desk: Desk, tmp_path: Path) -> None:
    run = "echo first; until [ -e go ]; do sleep 0.02; done; echo second"
    running = lab.start(command(LEASE, run, folder=str(tmp_path)))
    await until(lambda: desk.text() == b"first\n")
    # As a backup that was put back does.
    desk.packed.clear()
    (tmp_path / "go").touch()
    assert (await running).code == 0
    assert desk.text() == b"first\nsecond\n"
    assert desk.has_all()


@pytest.mark.parametrize("refusal", [CommandOver("it is another's"), Invalid("no")])
async def test_output_that_nobody_wants_is_thrown_away(
    lab: Runner, desk: Desk, spool: Path, tmp_path: Path, refusal: LeaseholdError
) -> None:
    run = "until [ -e go ]; do sleep 0.02; done; echo lost"
    running = lab.start(command(LEASE, run, folder=str(tmp_path)))
    await until(lambda: bool(desk.begun))
    desk.trouble = refusal
    (tmp_path / "go").touch()
    assert (await running).code == 0
    assert names(spool) == []


@pytest.mark.parametrize("it_is", ["put right", "never put right"])
async def test_a_service_whose_records_are_older_than_the_command_is_waited_for(
    lab: Runner, desk: Desk, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, it_is: str
) -> None:
    monkeypatch.setattr("activities.drivers.workplace.HAND_OVER_WITHIN", timedelta(seconds=0.5))
    run = "until [ -e go ]; do sleep 0.02; done; echo kept"
    running = lab.start(command(LEASE, run, folder=str(tmp_path)))
    await until(lambda: bool(desk.begun))
    desk.trouble = LeaseUnknown("nothing is known of it yet")
    (tmp_path / "go").touch()
    assert (await running).code == 0
    assert names(spool) != []
    if it_is == "put right":
        desk.trouble = None
        await until(desk.has_all)
        assert desk.text() == b"kept\n"
    else:
        monkeypatch.setattr("activities.drivers.upload.UNKNOWN_FOR", timedelta(seconds=1))
    await until(lambda: names(spool) == [])


class FullDisk:
    """Takes the place of `os.pwrite`: while it is full, it takes half of what it is given, and then nothing."""

    def __init__(self) -> None:
        self.full = False
        self._write = os.pwrite

    def __call__(self, fd: int, data: memoryview, at: int) -> int:
        if not self.full:
            return self._write(fd, data, at)
        if len(data) > 100:
            return self._write(fd, data[: len(data) // 2], at)
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("at", ["writing", "opening"])
async def test_a_disk_that_stands_still_keeps_nothing_that_was_told_to_end(
    lab: Runner, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    stuck, moves = threading.Event(), threading.Event()
    usual: Callable[..., int] = os.pwrite if at == "writing" else os.open

    def stand_still(*args: Any, **more: Any) -> int:
        if threading.current_thread().name.startswith("spool") and not moves.is_set():
            stuck.set()
            moves.wait(60)
        return usual(*args, **more)

    monkeypatch.setattr(f"activities.drivers.spool.os.{usual.__name__}", stand_still)
    running = lab.start(command(LEASE, "echo begun; exec sleep 1000"))
    try:
        await until(stuck.is_set)
        lab.environment.cancel()
        began = time.monotonic()
        report = await running
        assert time.monotonic() - began < 10
    finally:
        moves.set()
    assert (report.ending, report.started) == (CommandEnding.CANCELLED, at == "writing")
    # What it has left is put in order all the same.
    await until(desk.has_all)
    await until(lambda: not names(lab.spool))
    assert desk.text() == (b"begun\n" if at == "writing" else b"")


@pytest.mark.parametrize("again", [True, False], ids=["room again", "full to the end"])
async def test_a_full_disk_drops_output_and_says_so_and_the_command_goes_on(
    lab: Runner, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    disk = FullDisk()
    monkeypatch.setattr("activities.drivers.spool.os.pwrite", disk)
    run = """
    echo before; until [ -e full ]; do sleep 0.02; done
    head -c 10000 /dev/zero; touch filled; until [ -e on ]; do sleep 0.02; done; echo after
    """
    running = lab.start(command(LEASE, run, folder=str(tmp_path)))
    await until(lambda: desk.text() == b"before\n")
    disk.full = True
    (tmp_path / "full").touch()
    await until((tmp_path / "filled").exists)
    await asyncio.sleep(0.3)
    disk.full = not again
    (tmp_path / "on").touch()
    report = await running
    assert (report.ending, report.code) == (CommandEnding.EXITED, 0)
    lost = 10000 if again else 10006
    assert (report.output_bytes, report.dropped) == (10013, lost)
    assert desk.text() == (b"before\nafter\n" if again else b"before\n")
    assert said(desk) == f"{lost} bytes were dropped here: the runner's disk: No space left on device\n"
    assert desk.has_all()


async def test_without_a_spool_a_command_runs_all_the_same(
    lab: Runner, desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("activities.drivers.spool._private", full)
    report = await lab.run(command(LEASE, "echo hello", folder=str(tmp_path)))
    assert (report.code, report.output_bytes, report.dropped) == (0, 6, 6)
    assert "6 bytes were dropped here" in said(desk)
    assert desk.has_all()


async def test_the_runner_is_killed_and_what_was_printed_comes_all_the_same(
    tmp_path: Path, desk: Desk, spool: Path
) -> None:
    # Given a command in a fresh folder, whose service is away, and whose runner is killed.
    desk.with_command(command(LEASE, "unused"))
    work = tmp_path / "work"
    work.mkdir()
    run = f"head -c 3000000 /dev/zero; pwd > {work}/fresh; echo $$ > {work}/leader; touch {work}/done; sleep 1000"
    desk.commands[LEASE] = command(LEASE, run)
    with serving(desk) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUNNER, tmp_path / "data", url, LEASE, run, "", cwd=ROOT
        )
        await until(lambda: bool(desk.begun))
        desk.trouble = AWAY
        await written(work, "leader")
        await until((work / "done").exists)
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        before = len(desk.text())
        desk.trouble = None
        fresh = (work / "fresh").read_text().strip()
        assert exists(fresh)
        assert len(names(spool)) == 2
        # A process that was killed while it wrote leaves half a frame.
        with (spool / f"{LEASE}.1.frames").open("ab") as file:
            file.write(Frame(at_us=1, stream=1, data=b"half").packed()[:-2])
        # When the next one starts, then all comes, with an end, and nothing is left.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUNNER, tmp_path / "data", url, LEASE, "", "", cwd=ROOT
        )
        await until(desk.has_all)
        assert desk.text() == bytes(3000000)
        assert before < 3000000
        assert "the runner was ended" in said(desk)
        assert not exists(fresh)
        await until(lambda: names(spool) == [])
        process.kill()
        await process.wait()


async def test_a_bad_file_is_in_no_others_way(tmp_path: Path, desk: Desk, spool: Path) -> None:
    desk.with_command(command(LEASE, "true"))
    (spool / "a.1.json").write_text("{")
    (spool / "a.1.frames").write_bytes(b"x" * 100)
    (spool / "b.1.frames").write_bytes(b"whose is this?")
    about = '{"lease": "lease-1", "attempt": 1, "runner": "build01", "folder": null}'
    (spool / "lease-1.1.json").write_text(about)
    good = Frame(at_us=5, stream=Stream.STDOUT, data=b"good\n").packed()
    (spool / "lease-1.1.frames").write_bytes(good + b"\xff" * 40)
    (spool / "lease-9.1.json").write_text(about.replace("lease-1", "lease-9"))
    async with runner(tmp_path / "data", desk):
        await until(desk.has_all)
        assert desk.text() == b"good\n"
        await until(lambda: names(spool) == [])


async def test_a_service_that_has_more_than_the_disk_kept_hears_the_end(
    tmp_path: Path, desk: Desk, spool: Path
) -> None:
    # As after the machine has lost its power.
    desk.with_command(command(LEASE, "true"))
    first, second = (Frame(at_us=5, stream=Stream.STDOUT, data=data).packed() for data in (b"first\n", b"second\n" * 9))
    desk.packed[LEASE, 1] = bytearray(first + second)
    about = '{"lease": "lease-1", "attempt": 1, "runner": "build01", "folder": null}'
    (spool / "lease-1.1.json").write_text(about)
    (spool / "lease-1.1.frames").write_bytes(first)
    async with runner(tmp_path / "data", desk):
        await until(desk.has_all)
        await until(lambda: names(spool) == [])
