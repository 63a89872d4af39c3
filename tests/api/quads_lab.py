"""A lab as QUADS's users see it: environments, VLANs and hosts of its own in the shared service."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from fastapi import FastAPI

from api.app import create_app
from api.compat.quads.naming import Naming
from api.gateway import Gateway
from tests.api.stack import PATIENCE_S, Json, Stack, caller, fail


@dataclass(frozen=True)
class QuadsLab:
    """The application with the pools of one test, and a client of it that is the admin."""

    stack: Stack
    app: FastAPI
    naming: Naming
    http: httpx.AsyncClient

    @asynccontextmanager
    async def user(self, user: str, role: str = "user", **body: Any) -> AsyncIterator[httpx.AsyncClient]:
        """A client that bears a new token of a user."""
        async with caller(self.app, (await self.stack.token(user, role, **body))["token"]) as http:
            yield http

    async def hosts(self, count: int = 1, properties: Json | None = None, **settings: Any) -> list[str]:
        """Make a pool of hosts with names of their own, and return these."""
        pool = f"h{uuid.uuid4().hex[:10]}"
        names = [f"{pool}-{n}.example.com" for n in range(count)]
        resources = [{"name": name, "properties": properties or {}} for name in names]
        await put(self.stack.http, {"name": pool, "resources": resources, **settings}, folder=str(self.stack.folder))
        return names

    async def assignment(self, http: httpx.AsyncClient | None = None, **body: Any) -> Json:
        """Get an environment."""
        answer = await ask(http or self.http, **body)
        assert answer.status_code == 201, fail(answer)
        made: Json = answer.json()
        return made

    async def add(self, of: Json, host: str, http: httpx.AsyncClient | None = None) -> httpx.Response:
        """Add a host to an assignment, whatever comes of it."""
        body = {"cloud": of["cloud"]["name"], "hostname": host}
        return await (http or self.http).post("/api/v3/schedules/", json=body)

    async def show(self, of: Json) -> Json:
        """An assignment as it is now."""
        found: Json = (await self.http.get(f"/api/v3/assignments/{of['id']}")).json()
        return found

    async def until_validated(self, of: Json) -> Json:
        """An assignment once it is validated."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await self.show(of))["validated"]:
                await asyncio.sleep(0.02)
        return found


async def put(http: httpx.AsyncClient, pool: Json, **params: str) -> None:
    """Make or change a pool."""
    answer = await http.put(f"/v1/pools/{pool['name']}", json=pool, params=params)
    assert answer.status_code == 200, fail(answer)


async def ask(http: httpx.AsyncClient, key: str | None = None, **body: Any) -> httpx.Response:
    """Ask for an environment, whatever comes of it."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return await http.post("/api/v3/assignments/self/", json={"description": "test", **body}, headers=headers)


def vlan(tag: int) -> Json:
    """A VLAN."""
    described = {"gateway": f"10.1.{tag % 256}.1", "ip_range": f"10.1.{tag % 256}.0/24", "netmask": "255.255.255.0"}
    return {"name": str(tag), "properties": {**described, "ip_free": 250}}


@asynccontextmanager
async def quads_lab(
    stack: Stack, clouds: int = 3, *, admit: Json | None = None, gateway: Gateway | None = None, **policy: Any
) -> AsyncIterator[QuadsLab]:
    """A lab with so many environments, of a pool with this policy and hook, and two VLANs."""
    ours = uuid.uuid4().hex[:8]
    naming = Naming(clouds=f"cloud-{ours}", vlans=f"vlan-{ours}")
    names = [{"name": f"cloud{n:02}"} for n in range(2, 2 + clouds)]
    hooks = {} if admit is None else {"admit": admit}
    await put(stack.http, {"name": naming.clouds, "resources": names, "policy": policy, **hooks})
    await put(stack.http, {"name": naming.vlans, "resources": [vlan(620), vlan(621)]})
    app = create_app(replace(stack.services, quads=naming, gateway=gateway or stack.services.gateway))
    try:
        async with caller(app) as http:
            yield QuadsLab(stack, app, naming, http)
    finally:
        # Whoever asks for anything of any pool must not wait for this one's hook.
        await put(stack.http, {"name": naming.clouds})
