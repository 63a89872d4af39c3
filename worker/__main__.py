"""`python -m worker`: one process that runs leases, recyclings and their hooks.

With `--site NAME` it runs only the hooks of the pools of that site.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.channels.sender import ChannelSender
from activities.drivers.command import CommandDriver
from activities.drivers.http import HttpDriver
from activities.drivers.place import place_of
from activities.drivers.redfish import RedfishDriver
from leasehold import config, process
from leasehold.errors import LeaseholdError
from leasehold.healing import SweepOrder
from leasehold.links import Links
from leasehold.ports import Driver
from leasehold.settings import Settings
from leasehold.store.inventory import file_digest
from leasehold.store.logs import SqlLogStore
from leasehold.store.migrate import checked
from leasehold.store.store import SqlStore
from leasehold.temporal import TASK_QUEUE, connect
from worker import schedule
from worker.relay import Relay
from worker.wiring import build_notice_worker, build_site_worker, build_worker

log = logging.getLogger("worker")

KILL_GRACE = timedelta(seconds=5)
STOPPED_WITHIN = timedelta(seconds=15)
"""Longer than a hook may take to die, and shorter than service managers wait."""
_RECONNECT_S = 0.5


async def run(settings: Settings, site: str | None = None) -> None:
    """Work until SIGTERM or SIGINT; then stop the hooks, whose activities run again elsewhere or later."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    store, logs = SqlStore(settings.main_url), SqlLogStore(settings.log_url)
    try:
        client = await _connect(settings, store, stopped)
        if client is None:
            return
        if site is None:
            await _apply_start_file(settings, store)
        locks = settings.folder / "locks"
        place = place_of(locks)
        async with CommandDriver(lock_folder=locks, kill_grace=KILL_GRACE) as command:
            drivers: dict[str, Driver] = {
                "command": command,
                "http": HttpDriver(locks, KILL_GRACE),
                "redfish": RedfishDriver(locks, KILL_GRACE),
            }
            if site is not None:
                worker = build_site_worker(client, store, logs, drivers, site, place=place)
                await _work([worker], stopped, f"working for site {site}")
                return
            order = SweepOrder(grace_s=settings.sweep_grace.total_seconds())
            beside = [
                asyncio.create_task(Relay(store, client, TASK_QUEUE).run()),
                asyncio.create_task(schedule.keep(client, TASK_QUEUE, settings.sweep_every, order)),
            ]
            worker = build_worker(client, store, logs, drivers, place=place, build=settings.build)
            links = Links(api=settings.people_url, ui=settings.temporal_ui, namespace=client.namespace)
            post = build_notice_worker(client, store, ChannelSender(links))
            await _work([worker, post], stopped, "working")
            for task in beside:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    finally:
        store.close()
        logs.close()


async def _work(workers: Sequence[Worker], stopped: asyncio.Event, doing: str) -> None:
    """Work until stopped, and then until what was begun is done, or for as long as a service manager waits.

    Ends the process where a step cannot be written down: others will do it, and hooks die with their worker.
    """
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(worker.run())
        log.info(doing)
        await stopped.wait()
        log.info("stopping")
        try:
            async with asyncio.timeout(STOPPED_WITHIN.total_seconds()):
                await asyncio.gather(*(worker.shutdown() for worker in workers))
        except TimeoutError:
            log.warning("stopping with steps that could not be written down: they are done by another worker, or later")
            process.leave(0)


async def _connect(settings: Settings, store: SqlStore, stopped: asyncio.Event) -> Client | None:
    """A client once Temporal answers and is known to belong to the database; None if this process is to stop first."""
    while not stopped.is_set():
        try:
            client = await connect(settings, "worker", lazy=False)
            # Before anything can be granted.
            await schedule.check_database(client, store, TASK_QUEUE)
            return client
        except (RuntimeError, RPCError) as error:
            log.info("waiting for Temporal: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _RECONNECT_S)
    return None


async def _apply_start_file(settings: Settings, store: SqlStore) -> None:
    """Apply the pools file that the settings name, where it is new; keep the last good one where it is bad."""
    if settings.pools is None:
        return
    path = settings.pools.absolute()
    try:
        file = config.load_yaml(path.read_bytes(), str(path.parent))
        if await store.applied_digest(file.name) != file_digest(file):
            changes = await store.apply(file, "start file")
            log.info("applied %s: %d changes", path, len(changes))
    except (OSError, LeaseholdError) as error:
        log.error("%s was not applied, the inventory stays as it is: %s", path, error)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Run leases, recyclings and their hooks.")
    parser.add_argument("--site", help="run only the hooks of the pools of this site")
    return parser.parse_args()


if __name__ == "__main__":
    site = _arguments().site
    process.run(lambda: run(checked(Settings()), site))
