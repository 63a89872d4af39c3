"""The account that runs the tests, as MUNGE vouches for it."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
from fastapi import FastAPI

from api.app import create_app
from api.munge import Munge
from api.serving import Server
from leasehold.access import Role
from leasehold.munge import MungeAuth
from tests.api.stack import URL, Stack, caller
from tests.munge import Munged
from tests.servers import free_port

ACCOUNT = pwd.getpwuid(os.getuid()).pw_name


def taking_munge(stack: Stack, socket: Path, role: Role = Role.USER) -> FastAPI:
    """The same service, where accounts are let in with this role."""
    return create_app(replace(stack.services, munge=Munge(role, stack.services.logins.store, socket)))


def account(app: FastAPI, munged: Munged) -> httpx.AsyncClient:
    """A client of the application that is the account."""
    http = caller(app, None)
    http.auth = MungeAuth(URL, munged.socket)
    return http


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The URL of the application on a port, until the block ends."""
    server = Server(app, "127.0.0.1", free_port())
    # Its end would end what all tests share.
    server.config.lifespan = "off"
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.config.port}"
    finally:
        server.should_exit = True
        await serving
