"""The service under virtual time: its own workflows, activities, store and relay, on Temporal's own server.

The store's clock is the virtual one, and hooks do nothing but let it go on. It does so when nothing in the service
moves any more, from one thing that is due to the next: what the service does in between takes no time. Temporal's clock
is the real one; nothing here waits for it. (The server whose clock skips is of no use: it would skip past the ten
seconds in which an activity has to send a heartbeat.)
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from temporalio.client import Client, WorkflowHandle

from leasehold.messages import Steer, SubmitLease
from leasehold.model import OVER, Event, Inventory, Item, Lease, LeaseState, ResourceState, Run
from leasehold.ports import Ending, HookCall, HookResult, LogSink, ResourceFilter, RunFilter
from leasehold.store import migrate
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from tests.simulation.agenda import BEGIN, Agenda
from tests.simulation.plan import LIMITER, POOL, Plan
from worker.relay import Relay
from worker.wiring import build_worker
from workflows.lease import LeaseWorkflow

_LOOK_AGAIN_S = 0.01
_MANY = 100_000


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """One request, as the service's own records tell it."""

    lease: Lease
    runs: tuple[Run, ...]
    events: tuple[Event, ...]

    @property
    def after(self) -> timedelta:
        """How long after the request everything was delivered."""
        assert self.lease.active_at is not None
        return self.lease.active_at - BEGIN


class Hosts:
    """Plays the hosts: each hook takes the time that the plan says, and ends as it says."""

    def __init__(self, plan: Plan, agenda: Agenda) -> None:
        self._plan = plan
        self._agenda = agenda
        self._tries: Counter[tuple[str, str]] = Counter()

    async def run(self, call: HookCall, log: LogSink) -> HookResult | None:
        """Play one hook."""
        if not await call.begin():
            return None
        host, work = call.env["LEASEHOLD_RESOURCE"], str(call.hook.run)
        self._tries[host, work] += 1
        mine = self._tries[host, work]
        # Who came first is done first, where both take as long.
        await self._agenda.sleep(self._plan.duration(host, work), (int(call.env["LEASEHOLD_NUMBER"]), host))
        code = int(mine <= self._plan.failures(host, work))
        return HookResult(ending=Ending.EXITED, code=code, detail=f"exit status {code}", stdout=b"", cut=False)


class Simulation:
    """One run: requests that come all at once, and what becomes of them."""

    def __init__(self, name: str, plan: Plan, client: Client, store: SqlStore, agenda: Agenda) -> None:
        """`name` is that of its task queue, and begins the ids of its leases."""
        self._name = name
        self._plan = plan
        self._client = client
        self._store = store
        self._agenda = agenda
        self._leases: list[WorkflowHandle[LeaseWorkflow, str]] = []
        self._repaired: set[str] = set()

    async def play(self) -> list[Delivered]:
        """Let time pass until every request is delivered. Raises `LookupError` if one never will be."""
        await self._store.apply(
            Inventory(name=POOL, limits={LIMITER: self._plan.slots}, pools=((self._plan.pool, self._plan.resources),)),
            "operator",
        )
        for number in range(1, self._plan.requests + 1):
            await self._request(number)
            await self._settle()
        while not await self._all_delivered():
            await self._agenda.go_on()
            await self._settle()
            await self._call_operator()
        return [await self._told(handle.id) for handle in self._leases]

    async def _request(self, number: int) -> None:
        request = SubmitLease(
            lease=f"{self._name}-{number}",
            principal=f"owner{number}",
            owner=f"owner{number}",
            digest="",
            items=(Item(pool=POOL, count=self._plan.each),),
        )
        handle = await self._client.start_workflow(LeaseWorkflow.run, request, id=request.lease, task_queue=self._name)
        self._leases.append(handle)

    async def _settle(self) -> None:
        """Wait until nothing moves: twice in a row nothing was to be done but to wait for the agenda."""
        before = None
        while (now := await self._standstill()) is None or now != before:
            if now is None:
                await asyncio.sleep(_LOOK_AGAIN_S)
            before = now

    async def _standstill(self) -> int | None:
        """How much has happened so far, if nothing is about to."""
        found = [one.raw_description for one in await asyncio.gather(*(one.describe() for one in self._leases))]
        moving = any(one.HasField("pending_workflow_task") for one in found)
        if moving or sum(len(one.pending_activities) for one in found) != self._agenda.asleep:
            return None
        if await self._store.outbox_due(1):
            return None
        return sum(one.workflow_execution_info.history_length for one in found)

    async def _all_delivered(self) -> bool:
        states = [await self._store.state(handle.id) for handle in self._leases]
        if any(state in OVER for state in states):
            raise AssertionError(f"a lease has ended: {states}")
        return all(state is LeaseState.ACTIVE for state in states)

    async def _call_operator(self) -> None:
        """Have whatever came into quarantine repaired after a while."""
        for host in await self._store.resources(ResourceFilter(pool=POOL, state=ResourceState.BROKEN, limit=_MANY)):
            if host.name not in self._repaired:
                self._repaired.add(host.name)
                self._agenda.at(
                    self._plan.repair, (0, host.name), partial(self._store.repair, POOL, host.name, "operator")
                )

    async def _told(self, lease: str) -> Delivered:
        return Delivered(
            lease=await self._store.lease(lease),
            runs=tuple(await self._store.runs(RunFilter(lease=lease, limit=_MANY))),
            events=tuple(await self._store.events(lease=lease, limit=_MANY)),
        )

    async def close(self) -> None:
        """End what runs."""
        for handle in self._leases:
            await handle.execute_update(LeaseWorkflow.cancel, Steer(actor="simulation"))


@asynccontextmanager
async def _service(plan: Plan, address: str, folder: Path) -> AsyncIterator[Simulation]:
    main, logs_url = f"sqlite:///{folder}/main.db", f"sqlite:///{folder}/logs.db"
    migrate.upgrade(main, "main")
    migrate.upgrade(logs_url, "logs")
    name, agenda = f"simulation-{uuid.uuid4().hex}", Agenda()
    store, logs, client = SqlStore(main, agenda), SqlLogStore(logs_url), await Client.connect(address)
    worker = build_worker(client, store, logs, {"command": Hosts(plan, agenda)}, task_queue=name)
    relay = asyncio.create_task(Relay(store, client, name).run())
    try:
        async with worker:
            simulation = Simulation(name, plan, client, store, agenda)
            try:
                yield simulation
            finally:
                await simulation.close()
    finally:
        relay.cancel()
        with suppress(asyncio.CancelledError):
            await relay
        store.close()
        logs.close()


async def simulate(plan: Plan, address: str, folder: Path) -> list[Delivered]:
    """Play a plan on the Temporal server at `address`, with databases in an empty `folder`; return what was delivered.

    The same plan gives the same times. Raises `LookupError` where a request would never be delivered.
    """
    async with _service(plan, address, folder) as simulation:
        return await simulation.play()
