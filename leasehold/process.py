"""How a process of the service begins and ends, alike for the API, the worker and runners."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import uvloop
from pydantic import ValidationError

from leasehold.errors import LeaseholdError


def run(start: Callable[[], Awaitable[None]]) -> NoReturn:
    """Run until what `start` returns is done; the exit status is 1 where it fails.

    Ends the process hard: threads of the Temporal client outlive the interpreter, which crashes some of its exits.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for talkative in ("alembic", "httpx"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    status = 0
    try:
        work = start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
            runner.run(_awaited(work))
    except (LeaseholdError, ValidationError) as error:
        logging.getLogger("leasehold").error("cannot start: %s", error)
        status = 1
    except Exception:
        logging.getLogger("leasehold").exception("cannot go on")
        status = 1
    leave(status)


def leave(status: int) -> NoReturn:
    """End the process now, whatever still runs in it."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def _awaited(work: Awaitable[None]) -> None:
    await work
