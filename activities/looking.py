"""Hooks that look, and change nothing: they are fenced by nothing, and recorded by what comes of them alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from leasehold.errors import Unavailable
from leasehold.ports import Briefing, Driver, HookCall, HookResult, LogStore


async def always() -> bool:
    """Nothing speaks against running it."""
    return True


async def look(
    briefing: Briefing,
    drivers: Mapping[str, Driver],
    logs: LogStore,
    *,
    lock: str,
    stage: str,
    pool: str,
    resource: str = "",
    epoch: int = 0,
    lease: str = "",
    attempt: int = 1,
    begin: Callable[[], Awaitable[bool]] = always,
) -> HookResult | None:
    """Run such a hook through its driver; None if `begin` said not to. Raises `Unavailable` without the driver."""

    async def log(stream: str, data: bytes) -> None:
        await logs.append(
            run=None,
            lease=lease,
            pool=pool,
            resource=resource,
            epoch=epoch,
            stage=stage,
            attempt=attempt,
            stream=stream,
            data=data,
        )

    driver = drivers.get(briefing.hook.driver)
    if driver is None:
        raise Unavailable(f"this worker has no driver {briefing.hook.driver}")
    call = HookCall(
        hook=briefing.hook,
        env=briefing.env,
        folder=briefing.folder,
        locks=(lock,),
        lease_file=briefing.lease_file,
        log_stdout=True,
        begin=begin,
    )
    return await driver.run(call, log)
