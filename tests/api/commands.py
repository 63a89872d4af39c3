"""The command line on the service in this process: the API is on a port for as long as a test needs that."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from tests.api.port import served
from tests.api.stack import ADMIN, PATIENCE_S, Stack
from tests.stack import LEASEHOLD


class Commands(Protocol):
    """`await leasehold("pool", "ls")` returns what the command printed; it must succeed."""

    async def __call__(self, *arguments: str) -> bytes: ...


class AnyCommands(Protocol):
    """The same, but returns the exit status, what was printed, and what was said on standard error."""

    async def __call__(self, *arguments: str) -> tuple[int, bytes, bytes]: ...


@asynccontextmanager
async def commands(stack: Stack) -> AsyncIterator[Commands]:
    """Run commands as the admin until the block ends."""
    async with any_commands(stack) as run:

        async def leasehold(*arguments: str) -> bytes:
            status, out, err = await run(*arguments)
            assert status == 0, (arguments, out, err)
            return out

        yield leasehold


@asynccontextmanager
async def any_commands(stack: Stack) -> AsyncIterator[AnyCommands]:
    """Run commands as the admin until the block ends, whether they succeed or not."""
    async with served(stack.app) as url:
        address = {"LEASEHOLD_URL": url, "LEASEHOLD_TOKEN": ADMIN}

        async def leasehold(*arguments: str) -> tuple[int, bytes, bytes]:
            process = await asyncio.create_subprocess_exec(
                str(LEASEHOLD),
                *arguments,
                env={**os.environ, **address},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            async with asyncio.timeout(PATIENCE_S):
                out, err = await process.communicate()
            assert process.returncode is not None
            return process.returncode, out, err

        yield leasehold
