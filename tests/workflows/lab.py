"""A lab for workflow tests: the real store on SQLite, the real activities, scripted hooks, Temporal's clock."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    Worker,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities.channels.sender import ChannelSender
from leasehold.channels import Channel
from leasehold.commands import CommandPolicy
from leasehold.links import Links
from leasehold.messages import Steer, SubmitLease, recycle_id
from leasehold.model import (
    ADMIT,
    Cadence,
    Hook,
    Inventory,
    Item,
    Lease,
    LeaseState,
    Policy,
    PoolSpec,
    ResourceSpec,
    Size,
    StageName,
)
from leasehold.ports import Ending, HookCall, HookResult, LogSink, ResourceFilter
from leasehold.store import migrate
from leasehold.store import tables as t
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from leasehold.temporal import submitted
from worker.relay import Relay
from worker.wiring import build_notice_worker, build_site_worker, build_worker
from workflows.lease import LeaseWorkflow
from workflows.notice import NoticeWorkflow

_TEST_SERVER = Path(__file__).parents[2] / ".tools" / "temporal-test-server"
_FINISH_S = 10
SHORT_HISTORIES = {"limit__historyCount__suggestContinueAsNew": "40"}
"""Settings of a server with which a workflow goes on in a new run after so many events."""
SECRET = b"password=correct-horse\n"
LINKS = Links(api="https://leasehold.lab", ui="https://temporal.lab", namespace="default")

Script = Callable[[HookCall], int | None]
"""What a hook does: its exit status, or None to hang until it is stopped."""


class ScriptedDriver:
    """Plays hooks instead of running them, and keeps what was asked of it."""

    def __init__(self) -> None:
        self.script: Script = lambda call: 0
        self.consent = b""
        self.started: list[tuple[str, str]] = []
        self.stopped: list[tuple[str, str]] = []
        self.pause_s: Callable[[HookCall], float] = lambda call: 0.0
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.hanging: dict[tuple[str, str], asyncio.Future[int]] = {}
        self._news = asyncio.Condition()

    async def run(self, call: HookCall, log: LogSink) -> HookResult | None:
        """Play one hook."""
        if not await call.begin():
            return None
        step = (call.env["LEASEHOLD_STAGE"], call.env["LEASEHOLD_RESOURCE"])
        await log("stderr", f"{step[0]} of {step[1]}\n".encode())
        async with self._news:
            self.started.append(step)
            self._news.notify_all()
        await asyncio.sleep(self.pause_s(call))
        code = self.script(call)
        if code is None:
            try:
                code = await self.hanging.setdefault(step, asyncio.get_running_loop().create_future())
            finally:
                await self.may_stop.wait()
                if code is None:
                    self.stopped.append(step)
        printed = self.consent if step[0] == ADMIT else SECRET
        return HookResult(ending=Ending.EXITED, code=code, detail=f"exit status {code}", stdout=printed, cut=False)

    async def until_started(self, stage: str, resource: str = "r0") -> None:
        """Wait until this hook runs."""
        async with self._news:
            await self._news.wait_for(lambda: (stage, resource) in self.started)


class _ServersClock(Interceptor):
    """Sets the store's clock to the server's before each activity: their time is the same, also where it skips."""

    def __init__(self, env: WorkflowEnvironment) -> None:
        self._env = env
        self.now: datetime | None = None

    def __call__(self) -> datetime:
        return self.now or datetime.now(UTC)

    async def sync(self) -> None:
        """Read the server's time, where it is not everybody's."""
        if self._env.supports_time_skipping:
            self.now = await self._env.get_current_time()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        clock = self

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                await clock.sync()
                return await super().execute_activity(input)

        return Inbound(next)


@dataclass
class Lab:
    """One test's stack."""

    env: WorkflowEnvironment
    store: SqlStore
    logs: SqlLogStore
    driver: ScriptedDriver
    clock: _ServersClock
    worker: Worker
    task_queue: str
    handles: list[WorkflowHandle[LeaseWorkflow, str]] = field(default_factory=list)

    @property
    async def recyclings(self) -> list[str]:
        """The workflow ids of the recyclings that were started."""
        found = await self.store.events(limit=1000)
        return [
            recycle_id(e.pool, e.resource, e.data["epoch"])
            for e in found
            if e.kind == "resource_recycling" and e.pool and e.resource
        ]

    async def started(self, kind: str) -> list[str]:
        """The ids of the workflows that were posted to be started, of a kind of message."""
        query = select(t.outbox.c.message).where(t.outbox.c.kind == kind).order_by(t.outbox.c.id)
        messages = await self.store.database.read(lambda c: c.execute(query).scalars().all())
        if kind in {"create", "delete"}:
            claims = [message["claim"] for message in messages]
            return [f"{kind}:{claim['pool']}:{claim['resource']}:{claim['epoch']}" for claim in claims]
        return [message["id"] for message in messages]

    @property
    async def told(self) -> list[str]:
        """The workflow ids of the notices that were posted."""
        query = select(t.outbox.c.message).where(t.outbox.c.kind == "notice").order_by(t.outbox.c.id)
        return [m["id"] for m in await self.store.database.read(lambda c: c.execute(query).scalars().all())]

    async def notices(self, kind: str) -> list[WorkflowHandle[NoticeWorkflow, list[str]]]:
        """The workflows of the notices of a kind, once there is one."""
        query = select(t.outbox.c.message).where(t.outbox.c.kind == "notice", t.outbox.c.delivered_at.is_not(None))
        while True:
            messages = await self.store.database.read(
                lambda c: c.execute(query.order_by(t.outbox.c.id)).scalars().all()
            )
            found = [message["id"] for message in messages if message["kind"] == kind]
            if found:
                return [self.env.client.get_workflow_handle_for(NoticeWorkflow.run, notice) for notice in found]
            await asyncio.sleep(0.02)

    async def pool(
        self,
        n: int = 1,
        name: str = "p",
        policy: Policy | None = None,
        stages: Mapping[str, int] | None = None,
        *,
        hooks: Mapping[str, Sequence[Hook]] | None = None,
        notices: Mapping[str, Channel] | None = None,
        limits: Mapping[str, int] | None = None,
        site: str | None = None,
        admit: Sequence[Hook] = (),
        commands: CommandPolicy | None = None,
        **more: int,
    ) -> None:
        """Make a pool of `n` resources r0, r1, …; each stage is given by its number of attempts, or its hooks."""
        await self.clock.sync()
        made: dict[StageName, tuple[Hook, ...]] = {
            StageName(stage): (Hook(run="true", attempts=most),) for stage, most in {**(stages or {}), **more}.items()
        }
        made |= {StageName(stage): tuple(given) for stage, given in (hooks or {}).items()}
        spec = PoolSpec(
            name=name,
            stages=made,
            policy=policy or Policy(),
            site=site,
            admit=tuple(admit),
            notices=notices or {},
            commands=commands,
        )
        resources = tuple(ResourceSpec(name=f"r{i}") for i in range(n))
        await self.store.apply(Inventory(name=name, limits=limits or {}, pools=((spec, resources),)), "test")

    async def dynamic_pool(
        self,
        name: str,
        size: Size,
        *stages: str,
        policy: Policy | None = None,
        livecheck: Cadence | None = None,
        listing: Cadence | None = None,
        site: str | None = None,
        commands: CommandPolicy | None = None,
        **hooks: Hook,
    ) -> None:
        """Make a pool that makes its resources; a hook for each of these stages, beside create and delete."""
        await self.clock.sync()
        names = ["create", "delete", *stages, *(["livecheck"] if livecheck else []), *(["list"] if listing else [])]
        made = {StageName(stage): (hooks.get(stage, Hook(run="true")),) for stage in names}
        spec = PoolSpec(
            name=name,
            stages=made,
            size=size,
            policy=policy or Policy(),
            livecheck=livecheck,
            listing=listing,
            site=site,
            commands=commands,
        )
        await self.store.apply(Inventory(name=name, pools=((spec, ()),)), "test")

    async def until_there(self, pool: str, **states: int) -> None:
        """Wait until a pool has so many resources in these states, and in no others."""
        while True:
            there = await self.store.resources(ResourceFilter(pool=pool))
            if Counter(str(one.state) for one in there) == states:
                return
            await asyncio.sleep(0.02)

    async def submit(
        self,
        count: int = 1,
        pool: str = "p",
        duration: str | None = None,
        priority: int = 0,
        *,
        skip: tuple[StageName, ...] = (),
        heartbeat: str | None = None,
        start_at: datetime | None = None,
        queue_timeout: str | None = None,
        principal: str = "test",
        **more: Any,
    ) -> WorkflowHandle[LeaseWorkflow, str]:
        """Start a lease, and return when it is admitted."""
        request = SubmitLease(
            lease=f"l{uuid.uuid4().hex}",
            principal=principal,
            owner=more.pop("owner", "tester"),
            digest="",
            items=more.pop("items", (Item(pool=pool, count=count, skip=skip),)),
            duration=duration,
            priority=priority,
            heartbeat=heartbeat,
            start_at=start_at,
            queue_timeout=queue_timeout,
            **more,
        )
        handle = await self.env.client.start_workflow(
            LeaseWorkflow.run, request, id=request.lease, task_queue=self.task_queue
        )
        self.handles.append(handle)
        with suppress(RPCError):
            # The workflow of a request that is refused may be over already.
            await handle.execute_update(LeaseWorkflow.admit)
        return handle

    async def begin_anew(
        self, handle: WorkflowHandle[LeaseWorkflow, str], **options: Any
    ) -> WorkflowHandle[LeaseWorkflow, str]:
        """Begin a lease's workflow anew, without its history, as a reset to its first task does."""
        request = await submitted(self.env.client, handle.id)
        await handle.terminate("by a test")
        return await self.env.client.start_workflow(
            LeaseWorkflow.run, request, id=handle.id, task_queue=self.task_queue, **options
        )

    def soon(self, **span: float) -> datetime:
        """A time to come, by the store's clock."""
        return self.clock() + timedelta(**span)

    async def record(self, handle: WorkflowHandle[LeaseWorkflow, str]) -> Lease:
        """The lease's record."""
        return await self.store.lease(handle.id)

    async def until(self, handle: WorkflowHandle[LeaseWorkflow, str], state: LeaseState) -> Lease:
        """Wait, in real time, until the record shows a state."""
        changes = self.store.changes()
        async for _ in changes:
            lease = await self.record(handle)
            if lease.state is state:
                return lease
        raise AssertionError("the store stopped telling of changes")

    async def until_ready(self, handle: WorkflowHandle[LeaseWorkflow, str], resource: str) -> None:
        """Wait until the workflow knows that a resource is ready."""
        while not any(v.resource == resource and v.ready for v in (await handle.query(LeaseWorkflow.view)).resources):
            await asyncio.sleep(0.02)

    async def holds(self, handle: WorkflowHandle[LeaseWorkflow, str]) -> list[str]:
        """The names of what a lease has now."""
        return [claim.resource for claim in (await self.store.standing(handle.id)).claims]

    async def kinds(self, handle: WorkflowHandle[LeaseWorkflow, str]) -> list[str]:
        """The kinds of what happened to a lease."""
        return [event.kind for event in await self.store.events(lease=handle.id)]

    async def states(self) -> dict[str, str]:
        """The state of every resource."""
        return {r.name: str(r.state) for r in await self.store.resources(ResourceFilter())}

    async def until_state(self, resource: str, state: str) -> None:
        """Wait until a resource is in a state."""
        while (await self.states())[resource] != state:
            await asyncio.sleep(0.02)

    async def until_all_free(self, *, besides: int = 0) -> None:
        """Wait until every resource is free, but for so many."""
        while sum(state != "free" for state in (await self.states()).values()) > besides:
            await asyncio.sleep(0.02)

    async def fail_hanging(self, resource: str, stage: str) -> None:
        """Let a hook that hangs end without success."""
        self.driver.hanging[stage, resource].set_result(1)

    async def until_queued(self, handle: WorkflowHandle[LeaseWorkflow, str]) -> None:
        """Wait until a lease shows what it waits for."""
        while (await self.record(handle)).queue is None:
            await asyncio.sleep(0.02)

    async def until_event(self, handle: WorkflowHandle[LeaseWorkflow, str], kind: str, times: int = 1) -> None:
        """Wait until something has happened to a lease so often."""
        while (await self.kinds(handle)).count(kind) < times:
            await asyncio.sleep(0.02)

    async def slots(self) -> int:
        """How many slots of limiters are taken, or waited for."""
        query = select(func.count()).select_from(t.slots)
        found: int = await self.store.database.read(lambda c: c.execute(query).scalar_one())
        return found

    @asynccontextmanager
    async def site_worker(self, site: str) -> AsyncIterator[None]:
        """A worker of a site, until the block ends."""
        async with build_site_worker(self.env.client, self.store, self.logs, {"command": self.driver}, site):
            yield

    async def finish(self) -> None:
        """Cancel what still runs, so that nothing is left behind in the server."""
        for handle in self.handles:
            with suppress(RPCError, TimeoutError):
                async with asyncio.timeout(_FINISH_S):
                    await handle.execute_update(LeaseWorkflow.cancel, Steer(actor="test"))


async def _new_skipping_server() -> WorkflowEnvironment:
    """Java's where it is there, the SDK's own download elsewhere."""
    existing = str(_TEST_SERVER) if _TEST_SERVER.exists() and shutil.which("java") else None
    # The SDK's own 5 s are too little on a busy machine.
    return await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=existing, test_server_startup_timeout=timedelta(seconds=60)
    )


@asynccontextmanager
async def start_skipping_server() -> AsyncIterator[WorkflowEnvironment]:
    """A time-skipping server with the search attributes."""
    async with await _new_skipping_server() as env:
        attributes = {
            name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD for name in ("LeaseState", "LeaseOwner", "LeasePool")
        }
        attributes["LeaseExpires"] = IndexedValueType.INDEXED_VALUE_TYPE_DATETIME
        await env.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace="default", search_attributes=attributes)
        )
        yield env


@asynccontextmanager
async def open_lab(env: WorkflowEnvironment, folder: Path, task_queue: str) -> AsyncIterator[Lab]:
    """A lab with its worker and relay running."""
    main, logs_url = f"sqlite:///{folder}/main.db", f"sqlite:///{folder}/logs.db"
    migrate.upgrade(main, "main")
    migrate.upgrade(logs_url, "logs")
    clock = _ServersClock(env)
    await clock.sync()
    store, logs, driver = SqlStore(main, clock), SqlLogStore(logs_url), ScriptedDriver()
    worker = build_worker(
        env.client,
        store,
        logs,
        {"command": driver},
        task_queue=task_queue,
        interceptors=[clock],
        workflow_runner=SandboxedWorkflowRunner(),
    )
    post = build_notice_worker(env.client, store, ChannelSender(LINKS), task_queue=task_queue, interceptors=[clock])
    relay = asyncio.create_task(Relay(store, env.client, task_queue).run())
    try:
        async with worker, post:
            lab = Lab(env=env, store=store, logs=logs, driver=driver, clock=clock, worker=worker, task_queue=task_queue)
            try:
                yield lab
            finally:
                await lab.finish()
    finally:
        relay.cancel()
        with suppress(asyncio.CancelledError):
            await relay
        store.close()
        logs.close()
