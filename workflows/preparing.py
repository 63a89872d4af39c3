"""Preparing: a lease's resources on their way through their stages, all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from leasehold.messages import Admitted, BrokenResource, Claim, HeldResource, PlannedStage, ResourceView
    from leasehold.model import StageName
    from workflows.hooks import Hooks, OnAttempt

_Way = asyncio.Task[BrokenResource | None]


class Preparing:
    """Follows the record as to which resources there are, and takes each as far as it can go without the others.

    Then come the stages for the lease as a whole, and delivery. `changed` is called whenever `views` has news.
    """

    def __init__(self, hooks: Hooks, changed: Callable[[], None]) -> None:
        self.views: dict[HeldResource, ResourceView] = {}
        self._hooks = hooks
        self._changed = changed
        self._ways: dict[HeldResource, _Way] = {}
        self._told: set[HeldResource] = set()
        self._leaving: list[_Way] = []
        self._last: asyncio.Task[list[BrokenResource] | str | None] | None = None

    def follow(self, standing: Admitted) -> None:
        """Begin with what is new in the record, and stop what the lease has no more."""
        claimed = {claim.held: claim for claim in standing.claims}
        for held in [held for held in self.views if held not in claimed]:
            del self.views[held]
            way = self._ways.pop(held, None)
            if way is not None:
                way.cancel()
                self._leaving.append(way)
        for held, claim in claimed.items():
            if held in self.views:
                continue
            self.views[held] = _view(held, ready=claim.ready)
            stages = [stage for stage in claim.stages if stage.stage != StageName.DELIVER]
            if not claim.ready and stages:
                self._ways[held] = asyncio.create_task(self._go(claim, stages))
        self._changed()

    @property
    def busy(self) -> bool:
        """Whether a hook may be running."""
        running: list[asyncio.Task[Any]] = [*self._ways.values(), *self._leaving]
        return any(not task.done() for task in running) or (self._last is not None and not self._last.done())

    @property
    def has_failed(self) -> bool:
        """Whether a resource failed of which `broken` has not told yet."""
        return any(_failed(way) for held, way in self._ways.items() if held not in self._told)

    @property
    def arrived(self) -> bool:
        """Whether all are as far as they can go without the others."""
        return all(way.done() and not _failed(way) for way in self._ways.values())

    def broken(self) -> tuple[BrokenResource, ...]:
        """What failed since this was asked last; raise what went wrong otherwise, once nothing else is to be told."""
        failed = [held for held, way in self._ways.items() if held not in self._told and _failed(way)]
        new = [held for held in failed if self._ways[held].exception() is None] or failed
        self._told.update(new)
        results = [self._ways[held].result() for held in new]
        return tuple(result for result in results if result is not None)

    async def finish(self, standing: Admitted) -> list[BrokenResource] | str | None:
        """Run what follows once all have arrived; return what failed: resources, or why the lease as a whole did."""
        self._last = asyncio.create_task(self._finish(standing))
        return await self._last

    async def _finish(self, standing: Admitted) -> list[BrokenResource] | str | None:
        new = [claim for claim in standing.claims if not claim.ready]
        failure = await self._wide(standing, deliver=False)
        if failure is not None or self._hooks.stopping:
            return failure
        last = {claim: [s for s in claim.stages if s.stage == StageName.DELIVER] for claim in new}
        deliveries = [self._go(claim, stages) for claim, stages in last.items() if stages]
        broken = [result for result in await _all(deliveries) if result is not None]
        if broken or self._hooks.stopping:
            return broken or None
        for claim in new:
            self._show(claim.held, ready=True)
        return await self._wide(standing, deliver=True)

    async def _wide(self, standing: Admitted, *, deliver: bool) -> str | None:
        holds = tuple(claim.held for claim in standing.claims)
        for plan in standing.wide:
            stages = [stage for stage in plan.stages if (stage.stage == StageName.DELIVER) is deliver]
            failure = await self._hooks.for_lease(plan, stages, holds, _unseen)
            if failure is not None or self._hooks.stopping:
                return failure
        return None

    async def _go(self, claim: Claim, stages: Iterable[PlannedStage]) -> BrokenResource | None:
        on_attempt: OnAttempt = lambda stage, attempt: self._show(claim.held, stage, attempt)  # noqa: E731
        broken = await self._hooks.for_resource(claim, stages, on_attempt)
        if broken is None and not self._hooks.stopping:
            self._show(claim.held, ready=all(stage.stage != StageName.DELIVER for stage in claim.stages))
        return broken

    async def stop(self) -> None:
        """Stop what still runs, and wait until it has."""
        self._hooks.stopping = True
        tasks: list[asyncio.Task[Any]] = [*self._ways.values(), *self._leaving]
        if self._last is not None:
            tasks.append(self._last)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _show(
        self, held: HeldResource, stage: str | None = None, attempt: int | None = None, *, ready: bool = False
    ) -> None:
        if held in self.views:
            self.views[held] = _view(held, stage, attempt, ready=ready)
            self._changed()


def _view(
    held: HeldResource, stage: str | None = None, attempt: int | None = None, *, ready: bool = False
) -> ResourceView:
    return ResourceView(
        pool=held.pool, resource=held.resource, epoch=held.epoch, stage=stage, attempt=attempt, ready=ready
    )


def _unseen(stage: str, attempt: int) -> None:
    """What runs for the whole lease is no single resource's to show."""


async def _all(
    work: list[Coroutine[Any, Any, BrokenResource | None]],
) -> list[BrokenResource | None]:
    """Do all of it; if one raises, or this is cancelled, the others are stopped before that is passed on."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _failed(way: _Way) -> bool:
    """Whether a resource's way ended in vain."""
    return way.done() and not way.cancelled() and (way.exception() is not None or way.result() is not None)
