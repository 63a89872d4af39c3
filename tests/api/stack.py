"""The service in one process: the real API, store, worker, relay and driver, on a real Temporal server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from temporalio.client import Client

from activities.drivers.command import CommandDriver
from activities.drivers.http import HttpDriver
from activities.drivers.redfish import RedfishDriver
from api.app import create_app
from api.auth import Tokens
from api.compat.quads.naming import Naming
from api.gateway import Gateway
from api.logins import Logins
from api.render import Leases
from api.services import Services
from api.waiting import News
from leasehold.ports import Driver
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from leasehold.store.tokens import SqlTokens
from leasehold.store.users import SqlUsers
from leasehold.temporal import TASK_QUEUE
from tests.api.runner import RUNNER, local_runner
from worker.relay import Relay
from worker.wiring import build_worker

ADMIN = "admin-token-of-the-tests"
PATIENCE_S = 30
URL = "http://leasehold.test"
KILL_GRACE = timedelta(seconds=1.5)

Json = dict[str, Any]
NewDatabase = Callable[[str], str]


def caller(app: FastAPI, token: str | None = ADMIN) -> httpx.AsyncClient:
    """A client of the application that bears a token, or none."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    # What goes wrong inside is seen as users see it: as an answer.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=URL, headers=headers, timeout=PATIENCE_S)


def as_shown(lease: Json) -> Json:
    """What GET says of a lease that is as it was in the answer to its request."""
    return {key: value for key, value in lease.items() if key not in {"token", "duplicate"}}


def fail(answer: httpx.Response) -> str:
    """What to say of an answer that was not expected."""
    return f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:500]}"


class Gate:
    """A hook that waits until the test lets it go on; `script` is what it does then."""

    def __init__(self, folder: Path, script: str = ":") -> None:
        name = uuid.uuid4().hex
        self._came, self._open = folder / f"{name}.came", folder / f"{name}.open"
        waiting = f"touch {self._came}; until [ -e {self._open} ]; do sleep 0.05; done"
        self.hook = {"run": f"{waiting}; {script}", "timeout": "5m"}

    def open(self) -> None:
        """Let the hook go on, now and ever after."""
        self._open.touch()

    def reached(self) -> bool:
        """Whether the hook runs, or ran."""
        return self._came.exists()


@dataclass(frozen=True)
class Stack:
    """The running service, and what its users do with it. Each test makes pools of its own."""

    app: FastAPI
    services: Services
    temporal: Client
    http: httpx.AsyncClient
    folder: Path

    async def pool(self, count: int = 1, *, tags: list[str] | None = None, **settings: Any) -> str:
        """Make a pool of resources r0, r1, …, and return its name."""
        name = f"p{uuid.uuid4().hex[:10]}"
        resources = [{"name": f"r{n}", "tags": tags or [], "properties": {"n": n}} for n in range(count)]
        body = {"name": name, "resources": resources, **settings}
        answer = await self.http.put(f"/v1/pools/{name}", json=body, params={"folder": str(self.folder)})
        assert answer.status_code == 200, fail(answer)
        return name

    def new_path(self) -> Path:
        """A path that nothing is at yet."""
        return self.folder / uuid.uuid4().hex

    def gate(self, script: str = ":") -> Gate:
        """A hook that waits."""
        return Gate(self.folder, script)

    async def post(self, body: Any, key: str | None = None, **params: Any) -> httpx.Response:
        """Request a lease, whatever comes of it."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.http.post("/v1/leases", json=body, headers=headers, params=params)

    async def submit(self, pool: str, count: int = 1, **body: Any) -> Json:
        """Request resources of a pool, and return the lease as it is then."""
        answer = await self.post({"items": [{"pool": pool, "count": count}], **body})
        assert answer.status_code == 201, fail(answer)
        lease: Json = answer.json()
        return lease

    async def take(self, pool: str, count: int = 1, **body: Any) -> Json:
        """Request resources of a pool, and wait until they are delivered."""
        answer = await self.post({"items": [{"pool": pool, "count": count}], **body}, wait="active", timeout=PATIENCE_S)
        assert (answer.status_code, answer.json()["state"]) == (201, "active"), fail(answer)
        lease: Json = answer.json()
        return lease

    async def get(self, lease: Json, **params: Any) -> Json:
        """A lease as it is now."""
        answer = await self.http.get(f"/v1/leases/{lease['id']}", params=params)
        assert answer.status_code == 200, fail(answer)
        found: Json = answer.json()
        return found

    async def events(self, lease: Json) -> list[Json]:
        """What happened to a lease."""
        answer = await self.http.get(f"/v1/leases/{lease['id']}/events")
        assert answer.status_code == 200, fail(answer)
        found: list[Json] = answer.json()["items"]
        return found

    async def ended(self, lease: Json) -> Json:
        """A lease once it has ended."""
        found = await self.get(lease, wait="ended", timeout=PATIENCE_S)
        assert found["state"] == "ended", found
        return found

    async def steer(self, lease: Json, call: str, body: Any = None, **headers: str) -> httpx.Response:
        """Extend, release or cancel a lease, whatever comes of it."""
        return await self.http.post(f"/v1/leases/{lease['id']}/{call}", json=body, headers=headers)

    async def release(self, lease: Json) -> Json:
        """Give a lease back."""
        answer = await self.steer(lease, "release")
        assert answer.status_code == 200, fail(answer)
        released: Json = answer.json()
        return released

    async def token(self, user: str, role: str = "user", **body: Any) -> Json:
        """Make a user's token; its string is in `token`."""
        answer = await self.http.post("/v1/tokens", json={"user": user, "role": role, **body})
        assert answer.status_code == 201, fail(answer)
        made: Json = answer.json()
        return made

    @asynccontextmanager
    async def user(self, user: str, role: str = "user", **body: Any) -> AsyncIterator[httpx.AsyncClient]:
        """A client that bears a new token of a user."""
        async with caller(self.app, (await self.token(user, role, **body))["token"]) as http:
            yield http

    async def stop_hooks(self) -> None:
        """Cancel what tests left in preparation, with those that get its resources then."""
        params = {"state": "preparing", "limit": "1000"}
        while left := (await self.http.get("/v1/leases", params=params)).json()["items"]:
            await asyncio.gather(*(self.steer(lease, "cancel") for lease in left))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something outside of the service, a file that a hook writes."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.02)

    async def works(self) -> None:
        """Fail unless a lease can be had and given back."""
        pool = await self.pool(1)
        await self.release(await self.take(pool))


@asynccontextmanager
async def running(temporal: Client, new_database: NewDatabase, folder: Path) -> AsyncIterator[Stack]:
    """The service until the block ends."""
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # How soon a hook learns that it is cancelled.
        for place in ("activities.heartbeat.HEARTBEAT", "worker.wiring.HEARTBEAT"):
            patch.setattr(place, timedelta(seconds=0.2))
        store, logs = SqlStore(new_database("main")), SqlLogStore(new_database("logs"))
        stack.callback(logs.close)
        stack.callback(store.close)
        services = wire(store, logs, temporal, TASK_QUEUE)
        stack.push_async_callback(services.news.close)
        stack.push_async_callback(services.tokens.close)
        stack.push_async_callback(services.log_news.close)
        driver = await stack.enter_async_context(CommandDriver(folder / "locks", KILL_GRACE))
        relay = asyncio.create_task(Relay(store, temporal, TASK_QUEUE).run())
        stack.push_async_callback(_stop, relay)
        drivers: dict[str, Driver] = {
            "command": driver,
            "http": HttpDriver(folder / "locks", KILL_GRACE),
            "redfish": RedfishDriver(folder / "locks", KILL_GRACE),
        }
        await stack.enter_async_context(build_worker(temporal, store, logs, drivers))
        app = create_app(services)
        http = await stack.enter_async_context(caller(app))
        await stack.enter_async_context(local_runner(app, temporal, folder / "runner", KILL_GRACE))
        made = Stack(app, services, temporal, http, folder)
        yield made
        await made.stop_hooks()


def wire(store: SqlStore, logs: SqlLogStore, temporal: Client, task_queue: str) -> Services:
    """What an application is made of."""
    tokens = Tokens(b"a key of the tests", ADMIN, SqlTokens(store.database), runner_token=RUNNER)
    return Services(
        store=store,
        logs=logs,
        gateway=Gateway(temporal, task_queue),
        tokens=tokens,
        leases=Leases("http://ui.test", temporal.namespace),
        news=News(store),
        log_news=News(logs),
        logins=Logins(SqlUsers(store.database), tokens),
        quads=Naming(),
    )


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
