"""The driver `http`: how a hook ends, and that it keeps out of the way of every other hook of its resources."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from activities.drivers.command import CommandDriver
from activities.drivers.http import HttpDriver
from leasehold.errors import StaleEpoch, Unavailable
from leasehold.ports import Ending
from tests.contract.command_hooks import GRACE, PATIENCE, Log, call, kill, lives, names, run_hook, until, written
from tests.contract.http_hooks import Asked, Server, answer, answers, ask, http_call, never, one_after_another, serving
from tests.contract.test_command_driver_crashes import NAMES, ROOT, STUBBORN, WORKER

HOSTS = ("r640/host01", "r640/host02")

HTTP_WORKER = """
import asyncio, pathlib, sys
from activities.drivers.http import HttpDriver
from tests.contract.command_hooks import GRACE
from tests.contract.http_hooks import ask, http_call

async def work(locks, url, *held):
    await ask(HttpDriver(pathlib.Path(locks), GRACE), http_call({"url": url}, locks=held))

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with asyncio.timeout(2 * PATIENCE), serving() as server:
        yield server


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pools"
    folder.mkdir()
    return folder


@pytest.fixture
def driver(locks: Path) -> HttpDriver:
    return HttpDriver(locks, GRACE)


@pytest.fixture
async def command(locks: Path) -> AsyncIterator[CommandDriver]:
    async with CommandDriver(locks, GRACE) as command:
        yield command


async def trickle(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer, a byte at a time, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def interim(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Say that it is being worked on, for ever."""
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("handler", [never, trickle, interim])
async def test_at_its_timeout_a_request_is_given_up_and_the_connection_closed(
    driver: HttpDriver, server: Server, locks: Path, handler: Any
) -> None:
    server.handler = handler
    result = await ask(driver, http_call({"url": f"{server.url}/slow?x=hunter2"}, timeout="1s"))
    assert (result.ending, result.code, result.ok) == (Ending.TIMED_OUT, None, False)
    assert result.detail == f"given up at its timeout of 1s: GET {server.url}/slow: no answer yet"
    assert names(locks) == []
    if handler is not never:  # which does not notice
        await until(lambda: server.connections == 0)


async def test_a_wait_that_is_never_over_ends_at_the_timeout_and_says_what_was_missing(
    driver: HttpDriver, server: Server
) -> None:
    server.handler = answers(200, b'{"state": "busy"}')
    log = Log()
    hook = {"url": server.url, "json": 1, "until": {"every": "1s", "holds": "json.state == 'done'"}}
    result = await ask(driver, http_call(hook, timeout="2s"), log)
    detail = f"given up at its timeout of 2s: GET {server.url}: 200, and until.holds is not true yet"
    assert (result.ending, result.detail) == (Ending.TIMED_OUT, detail)
    assert log.text("stdout") == b'{"state": "busy"}'


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelling_closes_the_connection_at_once_and_frees_the_locks(
    driver: HttpDriver, server: Server, locks: Path, times: int
) -> None:
    server.handler = trickle
    running = asyncio.create_task(ask(driver, http_call({"url": server.url}, locks=HOSTS)))
    await until(lambda: bool(server.asked))
    assert len(names(locks)) == 2
    for _ in range(times):
        running.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert names(locks) == []
    await until(lambda: server.connections == 0)


async def test_cancelling_ends_a_wait_between_two_polls(driver: HttpDriver, server: Server, locks: Path) -> None:
    log = Log()
    hook = {"url": server.url, "until": {"every": "1h", "holds": "false"}}
    running = asyncio.create_task(ask(driver, http_call(hook), log))
    await until(lambda: b"not true yet" in log.text("service"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (names(locks), len(server.asked)) == ([], 1)


async def test_nothing_is_sent_that_is_not_wanted_any_more(driver: HttpDriver, server: Server, locks: Path) -> None:
    async def no() -> bool:
        held.append(len(names(locks)))
        return False

    held: list[int] = []
    log = Log()
    assert await driver.run(http_call({"url": server.url}, locks=HOSTS, begin=no), log) is None
    assert (held, names(locks), server.asked, log.pieces) == ([2], [], [], [])


async def test_nothing_is_sent_when_the_resource_has_gone_to_somebody_else(
    driver: HttpDriver, server: Server, locks: Path
) -> None:
    async def stale() -> bool:
        raise StaleEpoch("epoch 3 is over")

    with pytest.raises(StaleEpoch):
        await driver.run(http_call({"url": server.url}, begin=stale), Log())
    assert (names(locks), server.asked) == ([], [])


async def test_cancelled_while_it_asks_nothing_is_sent_and_nobody_else_is_let_in_before_the_answer(
    driver: HttpDriver, server: Server, locks: Path
) -> None:
    async def slow() -> bool:
        running.cancel()
        await asyncio.sleep(0.3)
        held.append(len(names(locks)))
        return True

    held: list[int] = []
    running = asyncio.create_task(driver.run(http_call({"url": server.url}, begin=slow), Log()))
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (held, names(locks), server.asked) == ([1], [], [])


class Told:
    """Hears that a hook was stopped."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        await asyncio.sleep(0.05)
        self.times += 1


@pytest.mark.parametrize("until_what", [None, {"every": "1h", "holds": "false"}], ids=["in a request", "between polls"])
async def test_that_it_was_stopped_is_told_once_its_connection_is_closed(
    driver: HttpDriver, server: Server, until_what: object
) -> None:
    server.handler = answers(200) if until_what else trickle
    told = Told()
    hook = {"url": server.url, **({"until": until_what} if until_what else {})}
    running = asyncio.create_task(ask(driver, http_call(hook, stopped=told)))
    await until(lambda: bool(server.asked))
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert told.times == 1


async def test_that_it_was_stopped_while_it_asked_or_waited_is_told_too(driver: HttpDriver, server: Server) -> None:
    async def slow() -> bool:
        asking.cancel()
        await asyncio.sleep(0.3)
        return True

    server.handler = never
    told, log = Told(), Log()
    asking = asyncio.create_task(ask(driver, http_call({"url": server.url}, begin=slow, stopped=told)))
    waiting = asyncio.create_task(ask(driver, http_call({"url": server.url}, stopped=told), log))
    await until(lambda: b"waiting" in log.text("service"))
    waiting.cancel()
    for one in (asking, waiting):
        with pytest.raises(asyncio.CancelledError):
            await one
    assert (told.times, server.asked) == (2, [])


async def test_a_hook_that_ends_by_itself_was_not_stopped(driver: HttpDriver, server: Server) -> None:
    told = Told()
    server.handler = one_after_another(answers(200), answers(500), never)
    for _ in range(3):
        await ask(driver, http_call({"url": server.url}, timeout="1s", stopped=told))
    await ask(driver, http_call({"url": "http://h/{{ lease.nothing }}"}, stopped=told))
    assert told.times == 0


async def test_no_place_for_locks_is_not_the_hooks_fault(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="locks"):
        await ask(HttpDriver(tmp_path / "file" / "locks", GRACE), http_call({"url": server.url}))
    assert server.asked == []


async def test_two_hundred_hooks_run_at_once(driver: HttpDriver, server: Server) -> None:
    async def all_there(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await until(lambda: len(server.asked) == 200)
        writer.write(answer(200, asked.target.encode()))

    server.handler = all_there
    calls = [http_call({"url": f"{server.url}/{n}"}, locks=(f"r640/host{n}",)) for n in range(200)]
    results = await asyncio.gather(*(ask(driver, each) for each in calls))
    assert [result.stdout for result in results] == [b"/%d" % n for n in range(200)]


async def test_two_hooks_that_share_a_resource_never_overlap(driver: HttpDriver, server: Server, locks: Path) -> None:
    busy: set[str] = set()
    overlaps = 0

    async def alone(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal overlaps
        mine = set(asked.target.strip("/").split("+"))
        overlaps += bool(mine & busy)
        busy.update(mine)
        await asyncio.sleep(0.03)
        busy.difference_update(mine)
        writer.write(answer(200))

    server.handler = alone
    another = HttpDriver(locks, GRACE)
    sets = [("a",), ("b", "a"), ("a", "b", "c"), ("c", "b"), ("c",), ("c", "a")] * 4
    results = await asyncio.gather(
        *(
            ask((driver, another)[number % 2], http_call({"url": f"{server.url}/{'+'.join(mine)}"}, locks=mine))
            for number, mine in enumerate(sets)
        )
    )
    assert all(result.ok for result in results)
    assert overlaps == 0
    assert names(locks) == []


async def test_a_command_waits_for_a_request_on_its_resource(
    driver: HttpDriver, command: CommandDriver, server: Server, folder: Path
) -> None:
    async def busy(asked: Asked, writer: asyncio.StreamWriter) -> None:
        (folder / "busy").touch()
        await asyncio.sleep(0.5)
        (folder / "busy").unlink()
        writer.write(answer(200))

    server.handler = busy
    request = asyncio.create_task(ask(driver, http_call({"url": server.url}, locks=HOSTS)))
    await until((folder / "busy").exists)
    log = Log()
    assert (await run_hook(command, call("! [ -e busy ]", folder=folder, locks=HOSTS[1:]), log)).ok
    assert log.text("service") == b"waiting until an earlier run on this machine is gone\n"
    assert (await request).ok


async def test_a_request_waits_for_the_whole_tree_of_a_command_on_its_resource(
    driver: HttpDriver, command: CommandDriver, server: Server, folder: Path
) -> None:
    async def asked() -> bool:
        found.append(names(folder))
        return True

    found: list[list[str]] = []
    # The first process has gone; a child that ignores SIGTERM still works for a moment.
    hook = call("trap '' TERM; (touch busy; sleep 0.3; rm busy) & sleep 0.2", folder=folder, locks=HOSTS)
    running = asyncio.create_task(run_hook(command, hook))
    await until((folder / "busy").exists)
    log = Log()
    assert (await ask(driver, http_call({"url": server.url}, locks=HOSTS[:1], begin=asked), log)).ok
    assert found == [[]]
    assert log.text("service").startswith(b"waiting until an earlier run on this machine is gone\n")
    assert (await running).ok


async def test_a_request_that_waits_for_its_second_lock_gives_the_first_back_when_cancelled(
    driver: HttpDriver, server: Server, locks: Path
) -> None:
    server.handler = one_after_another(never, answers(200))
    holder = asyncio.create_task(ask(driver, http_call({"url": server.url}, locks=HOSTS[1:])))
    await until(lambda: bool(server.asked))
    log = Log()
    waiting = asyncio.create_task(ask(driver, http_call({"url": server.url}, locks=HOSTS), log))
    await until(lambda: b"waiting" in log.text("service"))
    assert len(names(locks)) == 2
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(names(locks)) == 1
    assert (await ask(driver, http_call({"url": server.url}, locks=HOSTS[:1]))).ok
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder


async def test_the_time_spent_waiting_is_not_the_hooks(driver: HttpDriver, server: Server) -> None:
    async def slow(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.8)
        writer.write(answer(200))

    server.handler = slow
    results = await asyncio.gather(*(ask(driver, http_call({"url": server.url}, timeout="2s")) for _ in range(4)))
    assert [result.ending for result in results] == [Ending.EXITED] * 4


@pytest.mark.parametrize("host", HOSTS)
async def test_a_worker_that_is_killed_lets_go_of_all_it_held(
    command: CommandDriver, server: Server, locks: Path, host: str
) -> None:
    server.handler = never
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HTTP_WORKER, str(locks), server.url, *HOSTS, cwd=ROOT
    )
    try:
        await until(lambda: bool(server.asked))
        log = Log()
        waiting = asyncio.create_task(run_hook(command, call("true", locks=(host,)), log))
        await until(lambda: b"waiting" in log.text("service"))
        assert not waiting.done()
        worker.kill()
        assert (await waiting).ok
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.wait()
    async with CommandDriver(locks, GRACE):
        await until(lambda: names(locks) == [])


async def test_a_request_ends_the_command_that_a_dead_worker_left_on_its_resource(
    driver: HttpDriver, server: Server, folder: Path, locks: Path
) -> None:
    async def begin() -> bool:
        alive.append([lives(pid) for pid in tree])
        return True

    alive: list[list[bool]] = []
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, locks, folder, STUBBORN, *HOSTS, cwd=ROOT
    )
    try:
        supervisor, *tree = await written(folder, *NAMES)
        # Held still, the worker cannot clear up itself.
        worker.send_signal(signal.SIGSTOP)
        kill(supervisor)
        log = Log()
        assert (await ask(driver, http_call({"url": server.url}, locks=HOSTS[1:], begin=begin), log)).ok
        assert alive == [[False, False]]
        assert b"stopping what an earlier run left behind on this machine\n" in log.text("service")
    finally:
        worker.kill()
        await worker.wait()


async def test_cancelled_while_it_ends_such_a_command_the_next_one_still_does(
    driver: HttpDriver, server: Server, folder: Path, locks: Path
) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, locks, folder, STUBBORN, HOSTS[0], cwd=ROOT
    )
    try:
        supervisor, *tree = await written(folder, *NAMES)
        worker.send_signal(signal.SIGSTOP)
        kill(supervisor)
        log = Log()
        first = asyncio.create_task(ask(driver, http_call({"url": server.url}, locks=HOSTS), log))
        await until(lambda: b"stopping" in log.text("service"))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert server.asked == []
        assert (await ask(driver, http_call({"url": server.url}, locks=HOSTS[:1]))).ok
        assert not any(map(lives, tree))
    finally:
        worker.kill()
        await worker.wait()
