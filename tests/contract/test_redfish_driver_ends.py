"""The driver `redfish`: how a hook ends, what the BMC does then, and that it can be run twice."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from activities.drivers.answer import client
from activities.drivers.carrier import Carrier
from activities.drivers.command import CommandDriver
from activities.drivers.redfish import RedfishDriver
from leasehold.errors import StaleEpoch
from leasehold.ports import Ending
from tests.bmcs import PASSWORD, ROOT, USER, Bmcs, emulated, machine_id
from tests.contract.command_hooks import GRACE, Log, call, names, run_hook, until
from tests.contract.http_hooks import Asked, ask, never, remote_call, serving
from tests.contract.test_redfish_driver import LOOK, Scripted
from tests.servers import free_port

RESET = "POST ComputerSystem.Reset"
SLOW_S = 3
"""In seconds; so long at most does a change of power take here: long enough to come between."""

HOST = "host1"

WORKER = """
import asyncio, json, pathlib, sys
from activities.drivers.redfish import RedfishDriver
from tests.contract.command_hooks import GRACE
from tests.contract.http_hooks import ask, remote_call

async def work(locks, hook):
    await ask(RedfishDriver(pathlib.Path(locks), GRACE), remote_call({"redfish": json.loads(hook)}))

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[Bmcs]:
    """A BMC for one test alone, which may do to it what it likes. Its machine is on."""
    with emulated(tmp_path / "bmc", [HOST], on=[HOST], delay=SLOW_S) as bmc:
        yield bmc


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def driver(locks: Path) -> RedfishDriver:
    return RedfishDriver(locks, GRACE, every=LOOK)


@pytest.fixture
async def command(locks: Path) -> AsyncIterator[CommandDriver]:
    async with CommandDriver(locks, GRACE) as command:
        yield command


@pytest.fixture
def hook(bmc: Bmcs, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "password").write_text(PASSWORD)
    password = {"file": str(tmp_path / "password")}
    return {"address": bmc.url, "user": USER, "password": password, "system": machine_id(HOST)}


class Told:
    """Hears that a hook was stopped."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        await asyncio.sleep(0.05)
        self.times += 1


async def reaches(bmc: Bmcs, power: str, name: str = HOST) -> None:
    async with asyncio.timeout(30):
        while await asyncio.to_thread(bmc.power, name) != power:
            await asyncio.sleep(0.1)


async def test_a_wait_that_is_never_over_ends_at_the_timeout_and_says_what_was_missing(
    driver: RedfishDriver, hook: dict[str, Any], locks: Path
) -> None:
    log = Log()
    result = await ask(driver, remote_call({"redfish": {**hook, "do": {"wait": "off"}}}, timeout="1s"), log)
    detail = "given up at its timeout of 1s: wait: off: power is On, to be Off"
    assert (result.ending, result.detail, names(locks)) == (Ending.TIMED_OUT, detail, [])
    # Looked at many times, told once.
    assert log.text("service").decode() == (
        "wait: off: power is On, to be Off\nstopped here: wait: off: power is On, to be Off\n"
    )


async def test_a_silent_bmc_is_given_up_at_the_timeout(
    driver: RedfishDriver, bmc: Bmcs, hook: dict[str, Any], locks: Path
) -> None:
    bmc.send(signal.SIGSTOP)
    log = Log()
    result = await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "off"}}}, timeout="1s"), log)
    asking = f"asking {bmc.host} for its system {machine_id(HOST)}"
    assert (result.ending, result.detail) == (Ending.TIMED_OUT, f"given up at its timeout of 1s: {asking}")
    assert names(locks) == []
    assert log.text("service").decode() == f"stopped here: {asking}\n"
    bmc.send(signal.SIGCONT)
    await reaches(bmc, "On")
    assert bmc.asked(HOST) == []


async def test_a_reset_that_was_sent_and_never_answered_is_told_of_and_the_next_run_sees_what_became_of_it(
    driver: RedfishDriver, hook: dict[str, Any]
) -> None:
    async with serving() as server:
        server.handler = scripted = Scripted(refusal=never)
        own = {**hook, "address": server.url, "system": "1", "do": {"power": "off"}}
        log = Log()
        result = await ask(driver, remote_call({"redfish": own}, timeout="1s"), log)
        detail = "given up at its timeout of 1s: power: off: asking for ForceOff"
        assert (result.ending, result.detail) == (Ending.TIMED_OUT, detail)
        assert log.text("service").endswith(b"stopped here: power: off: asking for ForceOff\n")
        scripted.power = "Off"
        assert (await ask(driver, remote_call({"redfish": own}))).ok
        assert [asked.method for asked in server.asked].count("POST") == 1


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelled_in_the_middle_of_a_power_cycle_the_machine_is_left_off_and_the_log_says_so(
    driver: RedfishDriver, bmc: Bmcs, hook: dict[str, Any], locks: Path, times: int
) -> None:
    told, log = Told(), Log()
    cycle = {"redfish": {**hook, "do": {"power": "cycle"}}}
    running = asyncio.create_task(ask(driver, remote_call(cycle, stopped=told), log))
    await until(lambda: b"power is On, to be Off" in log.text("service"))
    for _ in range(times):
        running.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (told.times, names(locks)) == (1, [])
    assert log.text("service").endswith(b"stopped here: power: cycle: power is On, to be Off\n")
    await reaches(bmc, "Off")
    assert bmc.asked(HOST) == [RESET]

    # The next run does the rest.
    assert (await ask(driver, remote_call(cycle))).ok
    assert (bmc.power(HOST), bmc.asked(HOST)) == ("On", [RESET, RESET])


async def test_cancelling_does_not_wait_for_a_bmc_that_is_silent(
    driver: RedfishDriver, bmc: Bmcs, hook: dict[str, Any], locks: Path
) -> None:
    told, log = Told(), Log()
    running = asyncio.create_task(
        ask(driver, remote_call({"redfish": {**hook, "do": {"wait": "off"}}}, stopped=told), log)
    )
    await until(lambda: b"power is On" in log.text("service"))
    bmc.send(signal.SIGSTOP)
    await asyncio.sleep(5 * LOOK.total_seconds())
    running.cancel()
    async with asyncio.timeout(10):  # an answer would be waited for a minute
        with pytest.raises(asyncio.CancelledError):
            await running
    assert (told.times, names(locks)) == (1, [])


async def test_a_bmc_that_restarts_in_the_middle_is_waited_for(
    driver: RedfishDriver, hook: dict[str, Any], tmp_path: Path
) -> None:
    port, log = free_port(), Log()
    hook |= {"address": f"http://127.0.0.1:{port}", "do": {"power": "cycle"}}
    with emulated(tmp_path / "other", [HOST], on=[HOST], delay=SLOW_S, port=port) as before:
        running = asyncio.create_task(ask(driver, remote_call({"redfish": hook}), log))
        await until(lambda: b"power is On, to be Off" in log.text("service"))
        before.send(signal.SIGKILL)
        await until(lambda: b"no connection: Connection refused, while power is to be Off" in log.text("service"))
    # It remembers its machines, and what they were at.
    with emulated(tmp_path / "other", [HOST], on=[HOST], delay=1, port=port) as after:
        assert (await running).ok
        assert after.power(HOST) == "On"


async def test_a_bmc_that_goes_away_for_good_ends_the_hook_at_its_timeout(
    driver: RedfishDriver, bmc: Bmcs, hook: dict[str, Any]
) -> None:
    log = Log()
    running = asyncio.create_task(
        ask(driver, remote_call({"redfish": {**hook, "do": {"power": "cycle"}}}, timeout="3s"), log)
    )
    await until(lambda: b"power is On, to be Off" in log.text("service"))
    bmc.send(signal.SIGKILL)
    result = await running
    why = "power: cycle: no connection: Connection refused, while power is to be Off"
    assert (result.ending, result.detail) == (Ending.TIMED_OUT, f"given up at its timeout of 3s: {why}")
    again = await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "cycle"}}}))
    assert (again.ending, "Connection refused" in again.detail) == (Ending.FAILED, True)


async def test_what_a_killed_worker_began_is_done_by_the_next_one(
    driver: RedfishDriver, bmc: Bmcs, hook: dict[str, Any], locks: Path
) -> None:
    hook |= {"do": [{"boot": "pxe"}, {"power": "cycle"}]}
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, locks, json.dumps(hook), cwd=ROOT)
    try:
        await until(lambda: RESET in bmc.asked(HOST))
        log = Log()
        waiting = asyncio.create_task(ask(driver, remote_call({"redfish": hook}), log))
        await until(lambda: b"waiting until an earlier run" in log.text("service"))
        worker.kill()
        assert (await waiting).ok
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.wait()
    assert (bmc.power(HOST), bmc.boots_from(HOST)) == ("On", "Pxe")


async def test_nothing_is_asked_that_is_not_wanted_any_more(
    driver: RedfishDriver, bmc: Bmcs, hook: dict[str, Any], locks: Path
) -> None:
    async def no() -> bool:
        held.append(len(names(locks)))
        return False

    held: list[int] = []
    hook |= {"do": {"power": "off"}}
    assert await driver.run(remote_call({"redfish": hook}, begin=no), Log()) is None
    assert (held, names(locks), machine_id(HOST) in bmc.log) == ([1], [], False)


async def test_nothing_is_asked_when_the_resource_has_gone_to_somebody_else(
    driver: RedfishDriver, bmc: Bmcs, hook: dict[str, Any]
) -> None:
    async def stale() -> bool:
        raise StaleEpoch("epoch 3 is over")

    with pytest.raises(StaleEpoch):
        await driver.run(remote_call({"redfish": {**hook, "do": {"power": "off"}}}, begin=stale), Log())
    assert machine_id(HOST) not in bmc.log


async def test_a_command_waits_for_the_bmc_on_its_resource(
    driver: RedfishDriver, command: CommandDriver, bmc: Bmcs, hook: dict[str, Any]
) -> None:
    redfish_log, log = Log(), Log()
    running = asyncio.create_task(ask(driver, remote_call({"redfish": {**hook, "do": {"power": "off"}}}), redfish_log))
    await until(lambda: b"to be Off" in redfish_log.text("service"))
    assert (await run_hook(command, call("true"), log)).ok
    assert log.text("service") == b"waiting until an earlier run on this machine is gone\n"
    assert running.done() or bmc.power(HOST) == "Off"
    assert (await running).ok


async def test_a_hundred_bmcs_are_asked_at_once(driver: RedfishDriver, hook: dict[str, Any]) -> None:
    async def all_there(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.target == "/redfish/v1/":
            await until(lambda: [one.target for one in server.asked].count("/redfish/v1/") == 100)
        await scripted(asked, writer)

    async with serving() as server:
        scripted = Scripted()
        server.handler = all_there
        own = {**hook, "address": server.url, "system": "1", "do": {"power": "on"}}
        calls = [remote_call({"redfish": own}, locks=(f"r640/host{number}",)) for number in range(100)]
        results = await asyncio.gather(*(ask(driver, each) for each in calls))
    assert [result.detail for result in results] == ["power: on: done"] * 100


async def test_what_a_library_would_still_send_after_a_cancel_is_not_sent() -> None:
    """The cancel comes between two requests of the library's, of which nobody else knows that there are two."""
    sent, go_on = threading.Event(), threading.Event()
    async with serving() as server, client(None) as http:
        with ThreadPoolExecutor(1) as threads, requests.Session() as session:
            carrier = Carrier(http, server.url, threads, timedelta(seconds=30))
            session.mount("http://", carrier)

            def library() -> None:
                assert session.post(f"{server.url}/first").status_code == 200
                sent.set()
                assert go_on.wait(30)
                session.post(f"{server.url}/second")

            running = asyncio.create_task(carrier.run(library))
            assert await asyncio.to_thread(sent.wait, 30)
            running.cancel()
            assert not (await asyncio.wait({running}, timeout=0.1))[0], "its thread has not come back yet"
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert [asked.target for asked in server.asked] == ["/first"]
