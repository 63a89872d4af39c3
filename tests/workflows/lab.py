"""A lab for workflow tests: the real store on SQLite, the real activities, scripted hooks, Temporal's clock."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

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

from leasehold.messages import Steer, SubmitLease, recycle_id
from leasehold.model import Hook, Inventory, Item, Lease, LeaseState, Policy, PoolSpec, ResourceSpec, StageName
from leasehold.ports import Ending, HookCall, HookResult, LogSink, ResourceFilter
from leasehold.store import migrate
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from worker.relay import Relay
from worker.wiring import build_worker
from workflows.lease import LeaseWorkflow

_TEST_SERVER = Path(__file__).parents[2] / ".tools" / "temporal-test-server"
_FINISH_S = 10
SECRET = b"password=correct-horse\n"

Script = Callable[[HookCall], int | None]
"""What a hook does: its exit status, or None to hang until it is stopped."""


class ScriptedDriver:
    """Plays hooks instead of running them, and keeps what was asked of it."""

    def __init__(self) -> None:
        self.script: Script = lambda call: 0
        self.started: list[tuple[str, str]] = []
        self.stopped: list[tuple[str, str]] = []
        self.pause_s: Callable[[HookCall], float] = lambda call: 0.0
        self.may_stop = asyncio.Event()
        self.may_stop.set()
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
                await asyncio.Event().wait()
            finally:
                await self.may_stop.wait()
                self.stopped.append(step)
        assert code is not None
        return HookResult(ending=Ending.EXITED, code=code, detail=f"exit status {code}", stdout=SECRET, cut=False)

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
        assert self.now is not None
        return self.now

    async def sync(self) -> None:
        """Read the test server's time."""
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

    async def pool(
        self,
        n: int = 1,
        name: str = "p",
        policy: Policy | None = None,
        stages: Mapping[str, int] | None = None,
        **more: int,
    ) -> None:
        """Make a pool of `n` resources r0, r1, …; each stage is given by its number of attempts."""
        await self.clock.sync()
        attempts = {**(stages or {}), **more}
        hooks = {StageName(stage): (Hook(run="true", attempts=most),) for stage, most in attempts.items()}
        spec = PoolSpec(name=name, stages=hooks, policy=policy or Policy())
        resources = tuple(ResourceSpec(name=f"r{i}") for i in range(n))
        await self.store.apply(Inventory(name=name, pools=((spec, resources),)), "test")

    async def submit(
        self, count: int = 1, pool: str = "p", duration: str | None = None, priority: int = 0
    ) -> WorkflowHandle[LeaseWorkflow, str]:
        """Start a lease, and return when it is admitted."""
        request = SubmitLease(
            lease=f"l{uuid.uuid4().hex}",
            principal="test",
            owner="tester",
            digest="",
            items=(Item(pool=pool, count=count),),
            duration=duration,
            priority=priority,
        )
        handle = await self.env.client.start_workflow(
            LeaseWorkflow.run, request, id=request.lease, task_queue=self.task_queue
        )
        self.handles.append(handle)
        with suppress(RPCError):
            # The workflow of a request that is refused may be over already.
            await handle.execute_update(LeaseWorkflow.admit)
        return handle

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

    async def states(self) -> dict[str, str]:
        """The state of every resource."""
        return {r.name: str(r.state) for r in await self.store.resources(ResourceFilter())}

    async def finish(self) -> None:
        """Cancel what still runs, so that nothing is left behind in the server."""
        for handle in self.handles:
            with suppress(RPCError, TimeoutError):
                async with asyncio.timeout(_FINISH_S):
                    await handle.execute_update(LeaseWorkflow.cancel, Steer(actor="test"))


@asynccontextmanager
async def start_skipping_server() -> AsyncIterator[WorkflowEnvironment]:
    """A time-skipping server with the search attributes; Java's where it is there, the SDK's own download elsewhere."""
    existing = str(_TEST_SERVER) if _TEST_SERVER.exists() and shutil.which("java") else None
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=existing) as env:
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
    relay = asyncio.create_task(Relay(store, env.client, task_queue).run())
    try:
        async with worker:
            lab = Lab(env=env, store=store, driver=driver, clock=clock, worker=worker, task_queue=task_queue)
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
