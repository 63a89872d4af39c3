"""`python -m worker.runner --name NAME`: a process on a build host that runs the commands of leases.

It has no database: Temporal gives it commands, the API tells it what they are, and takes what they print.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import re
import signal
import time
import uuid
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import httpx
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from activities.commands import Commands, unless
from activities.drivers.accounts import own
from activities.drivers.command import CommandDriver, minimal_environment
from activities.drivers.place import place_of
from activities.drivers.workplace import Workplaces
from activities.heartbeat import HEARTBEAT
from leasehold import process
from leasehold.access import LOCAL_RUNNER
from leasehold.commands import FENCE_AFTER as FENCE_AFTER
from leasehold.commands import REGISTER_EVERY as REGISTER_EVERY
from leasehold.commands import RunnerHost
from leasehold.errors import Invalid, LeaseholdError
from leasehold.model import NAME_PATTERN
from leasehold.ports import CommandDesk
from leasehold.runner_client import RunnerClient
from leasehold.runner_file import load_policy
from leasehold.runner_policy import ROOT, RunnerPolicy
from leasehold.secretfile import secret_file
from leasehold.settings import RunnerSettings
from leasehold.temporal import LIVELY, connect, runner_queue

T = TypeVar("T")

PING_EVERY = timedelta(seconds=2)
FENCE_GRACE = timedelta(seconds=3)
STOP_GRACE = timedelta(seconds=5)
"""From SIGTERM to SIGKILL, where a pool gives more: shorter than service managers wait."""

STOPPED_WITHIN = timedelta(seconds=15)
LAST_WORDS = timedelta(seconds=1)
"""How long the service may take, when this process stops, to hear the last of it."""

SLOTS = 4
_RECONNECT = timedelta(seconds=0.5)
_LABEL = r"[A-Za-z0-9][A-Za-z0-9._+:/=-]{0,127}"

log = logging.getLogger("runner")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says; `slots` are 0 where it says nothing of them."""

    name: str
    labels: tuple[str, ...] = ()
    slots: int = 0
    policy: Path | None = None
    local: bool = False


async def run(options: Options, settings: RunnerSettings, desk: CommandDesk, policy: RunnerPolicy) -> None:
    """Run commands until SIGTERM or SIGINT, which end them."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    folder = settings.folder / f"runner-{options.name}"
    with _claimed(folder):
        instance = uuid.uuid4().hex
        (folder / "instance").write_text(f"{instance}\n")
        locks = folder / "locks"
        host = _host(options, instance, locks)
        # With the name of the account, which hooks of workers do not get.
        environment = minimal_environment() | {"USER": own(), "LOGNAME": own()}
        async with CommandDriver(locks, STOP_GRACE, environment, alone=True) as driver:
            workplaces = Workplaces(folder / "spool", desk)
            if await _unless(stopped, _cleared(driver, workplaces)) is None:
                return
            commands = Commands(desk, driver, workplaces, policy, instance=instance, own=own())
            await _serve(options, settings, desk, host, commands, driver, stopped)
            await workplaces.drain(LAST_WORDS)


async def _cleared(driver: CommandDriver, workplaces: Workplaces) -> bool:
    """Wait until nothing lives of what an earlier runner left here, and take over what it did not hand over."""
    while True:
        try:
            await driver.swept()
            break
        except LeaseholdError as error:
            log.error("what an earlier runner left cannot be ended: %s", error)
            await asyncio.sleep(_RECONNECT.total_seconds())
    await workplaces.recover()
    return True


async def _serve(
    options: Options,
    settings: RunnerSettings,
    desk: CommandDesk,
    host: RunnerHost,
    commands: Commands,
    driver: CommandDriver,
    stopped: asyncio.Event,
) -> None:
    """Take commands until stopped, once Temporal and the API are there."""
    client = await _unless(stopped, _connect(settings, options.name))
    if client is None:
        return
    known = asyncio.Event()
    registering = asyncio.create_task(keep_registered(desk, options.name, host, known, stopped))
    try:
        if await _unless(stopped, known.wait()):
            async with _fencing(client, commands, driver):
                await _work(client, options, commands, stopped)
    finally:
        stopped.set()
        with suppress(TimeoutError, LeaseholdError):
            async with asyncio.timeout(2 * LAST_WORDS.total_seconds()):
                # First: it could come after the other call otherwise.
                await registering
                await desk.leave(options.name, host.instance)


async def _connect(settings: RunnerSettings, name: str) -> Client:
    """A client once Temporal answers."""
    told = False
    while True:
        try:
            return await connect(settings, f"runner-{name}", lazy=False, alive=LIVELY)
        except (RuntimeError, RPCError) as error:
            if not told:
                log.info("waiting for Temporal: %s", error)
            told = True
            await asyncio.sleep(_RECONNECT.total_seconds())


async def keep_registered(
    desk: CommandDesk, name: str, host: RunnerHost, known: asyncio.Event, stopped: asyncio.Event
) -> None:
    """Tell the service again and again that this process takes commands; `known` is set once it has heard so."""
    trouble = ""
    while not stopped.is_set():
        pause = REGISTER_EVERY
        try:
            await desk.register(name, host)
        except Exception as error:
            if str(error) != trouble:
                log.warning("the service does not take this runner: %s", error)
            trouble = str(error)
            pause = REGISTER_EVERY if known.is_set() else _RECONNECT
        else:
            if trouble:
                log.info("the service takes this runner again")
            trouble = ""
            known.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), pause.total_seconds())


async def _work(client: Client, options: Options, commands: Commands, stopped: asyncio.Event) -> None:
    """Take commands until stopped, and again where the worker of the SDK gives up."""
    while not stopped.is_set():
        worker = _worker(client, options, commands)
        working = asyncio.create_task(worker.run())
        log.info("runner %s takes commands, %d at once", options.name, options.slots)
        await _unless(stopped, asyncio.wait({working}))
        if not stopped.is_set():
            log.error("the worker ended, and is started again: %s", working.exception())
            await asyncio.sleep(_RECONNECT.total_seconds())
            continue
        ended = commands.close(STOP_GRACE)
        log.info("stopping, with %d commands", ended)
        try:
            async with asyncio.timeout(STOPPED_WITHIN.total_seconds()):
                await worker.shutdown()
                await asyncio.wait({working})
        except TimeoutError:
            log.warning("stopping with commands whose ends could not be told: they are lost")


def _worker(client: Client, options: Options, commands: Commands) -> Worker:
    return Worker(
        client,
        task_queue=runner_queue(options.name),
        activities=[commands.run_command],
        max_concurrent_activities=options.slots,
        max_concurrent_activity_task_polls=1,
        max_heartbeat_throttle_interval=HEARTBEAT,
        default_heartbeat_throttle_interval=HEARTBEAT,
        graceful_shutdown_timeout=STOP_GRACE + LAST_WORDS,
    )


@contextlib.asynccontextmanager
async def _fencing(client: Client, commands: Commands, driver: CommandDriver) -> Any:
    """End all commands where Temporal is silent for so long that it will take this runner to be dead.

    Where this process itself stands still its supervisor does that.
    """

    heard = _now()
    commands.is_fenced = lambda: _now() - heard >= FENCE_AFTER.total_seconds()

    async def watch() -> None:
        nonlocal heard
        said = False
        while True:
            asked = _now()
            answered = await _ping(client, commands.lease)
            # Also where it answers again after a time in which this process, or the machine, stood still.
            if (asked if answered else _now()) - heard >= FENCE_AFTER.total_seconds():
                ended = commands.lose("its runner did not reach Temporal any more", FENCE_GRACE)
                if not said:
                    log.error("Temporal could not be reached: %d commands are ended", ended)
                said = True
            if answered:
                heard, said = asked, False
                driver.heard(FENCE_AFTER)
            await asyncio.sleep(max(0.0, asked + PING_EVERY.total_seconds() - _now()))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _now() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def _ping(client: Client, lease: str | None) -> bool:
    """Whether Temporal answers, with what it knows of a workflow where there is one: that takes all of it."""
    try:
        async with asyncio.timeout(2 * PING_EVERY.total_seconds()):
            if lease is None:
                await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=PING_EVERY)
            else:
                await client.get_workflow_handle(lease).describe(rpc_timeout=PING_EVERY)
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    except (RuntimeError, TimeoutError):
        return False
    return True


async def _unless(stopped: asyncio.Event, work: Awaitable[T]) -> T | None:
    """What comes of some work; None if this process is to stop before."""
    waiting = asyncio.create_task(stopped.wait())
    try:
        return await unless(waiting, work)
    finally:
        waiting.cancel()


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Have the folder of a runner for this process alone, which whatever ends it ends too. Raises `Invalid`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Invalid(f"another runner of this name runs on {folder}") from None
        yield
    finally:
        os.close(fd)


def _host(options: Options, instance: str, locks: Path) -> RunnerHost:
    place = place_of(locks)
    return RunnerHost(
        instance=instance,
        labels=options.labels,
        slots=options.slots,
        host=place.host,
        locks=place.locks,
        boot=place.boot,
        processes=place.processes,
    )


def _policy(options: Options) -> RunnerPolicy:
    """The policy of its file, if it has one. Raises `Invalid` with the place and the reason."""
    if options.policy is None:
        return RunnerPolicy()
    try:
        return load_policy(options.policy.read_bytes())
    except OSError as error:
        raise Invalid(f"{options.policy} cannot be read: {error.strerror}") from error
    except LeaseholdError as error:
        raise Invalid(f"{options.policy}: {error.detail}") from error


def _desk(options: Options, settings: RunnerSettings) -> RunnerClient:
    if options.local:
        return RunnerClient(_local_url(settings), secret_file(settings.folder / "runner-token"))
    if settings.url is None:
        raise Invalid("a runner needs LEASEHOLD_URL, the address of the API")
    return RunnerClient(settings.url, settings.secret())


def _local_url(settings: RunnerSettings) -> str:
    """Where the API of this machine is; one that listens on all addresses is on the first."""
    host = settings.api_host
    with suppress(ValueError):
        address = ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return str(httpx.URL(scheme="http", host=host, port=settings.api_port))


def _start(options: Options) -> Awaitable[None]:
    settings = RunnerSettings()
    policy = _policy(options)
    if own() == ROOT and policy.accounts is None and not options.local:
        log.warning("this runner is root: what pools map to no account runs as root; its policy can name accounts")
    usual = settings.local_slots if options.local else SLOTS
    return run(replace(options, slots=options.slots or usual), settings, _desk(options, settings), policy)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m worker.runner", description="Run the commands of leases.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--name", type=_matching(NAME_PATTERN, "name"), help="what pools and people call it")
    who.add_argument("--local", action="store_true", help="be the runner of the embedded stack on this machine")
    parser.add_argument("--labels", default="", help="what it has, like x86_64,fast")
    many = f"how many commands it runs at once ({SLOTS}; the embedded one LEASEHOLD_LOCAL_SLOTS)"
    parser.add_argument("--slots", type=_slots, default=0, help=many)
    parser.add_argument("--policy", type=Path, help="a file that says what it runs at all")
    found = parser.parse_args()
    label = _matching(_LABEL, "label")
    return Options(
        name=found.name or LOCAL_RUNNER,
        labels=tuple(label(text.strip()) for text in found.labels.split(",") if text.strip()),
        slots=found.slots,
        policy=found.policy,
        local=found.local,
    )


def _matching(pattern: str, what: str) -> Any:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
        return text

    return check


def _slots(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


if __name__ == "__main__":
    process.run(partial(_start, _options()))
