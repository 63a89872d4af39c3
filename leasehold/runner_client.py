"""The HTTP client of runners: what they ask of the service, over the calls below `/v1/runners`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import httpx

from leasehold.commands import Begun, RunnerHost
from leasehold.errors import LeaseholdError
from leasehold.wire import Wire

T = TypeVar("T")

ANSWER_WITHIN = timedelta(seconds=10)
PATIENCE = timedelta(seconds=2)
"""For the repetitions of one call. Whoever makes it knows better what to do when the service is away."""

_THREADS = 64
"""So many calls at once: those that wait for a service that is away must not keep others from being tried."""


class RunnerClient:
    """Talks to one Leasehold API as a runner (`leasehold.ports.CommandDesk`)."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: timedelta = ANSWER_WITHIN,
        patience: timedelta = PATIENCE,
    ) -> None:
        """`timeout` bounds one answer, `patience` the repetitions of one call. Raises `Invalid` for a bad URL."""
        self._wire = Wire(url.rstrip("/"), token, transport=transport, timeout=timeout, patience=patience)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="desk")

    def close(self) -> None:
        """Close the connections; calls on their way are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._wire.close()

    async def register(self, runner: str, host: RunnerHost) -> None:
        """Say that this process takes commands; again and again, while it does."""
        body = asdict(host) | {"labels": list(host.labels)}
        await self._call(self._wire.call, "PUT", "runners", runner, json=body)

    async def leave(self, runner: str, instance: str) -> None:
        """Say that it takes none any more."""
        await self._call(self._wire.call, "DELETE", "runners", runner, instance, repeatable=True)

    async def begin(self, runner: str, lease: str, instance: str, attempt: int) -> Begun:
        """Take a command up, from now on at most once; raises `CommandOver` where it must not begin any more."""
        path = ("runners", runner, "commands", lease, "begin")
        body = {"instance": instance, "attempt": attempt}
        return _begun(await self._call(self._wire.call, "POST", *path, json=body, repeatable=True))

    async def put_output(self, runner: str, lease: str, attempt: int, offset: int, packed: bytes) -> int:
        """Hand over frames of output that begin at `offset`; return the offset that the service has now."""
        path = ("runners", runner, "commands", lease, "output")
        numbers = {"attempt": attempt, "offset": offset, "now": time.time_ns() // 1000}
        params = [(name, str(number)) for name, number in numbers.items()]
        answer = await self._call(self._wire.call, "POST", *path, params=params, octets=packed, repeatable=True)
        try:
            return int(answer["offset"])
        except (LookupError, TypeError, ValueError) as error:
            raise _strange() from error

    async def _call(self, call: Callable[..., T], *args: Any, **named: Any) -> T:
        # Threads of its own: the machine's other work must not wait behind a service that is away.
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **named))


def _begun(answer: Any) -> Begun:
    try:
        fields = {name: answer[name] for name in Begun.__dataclass_fields__}
        return Begun(**fields | {name: tuple(answer[name]) for name in ("argv", "given")})
    except (LookupError, TypeError) as error:
        raise _strange() from error


def _strange() -> LeaseholdError:
    return LeaseholdError("the service gave an answer that this runner does not understand: is it of another version?")
