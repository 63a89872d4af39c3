"""resalloc's clients while the rest of the service is away, or the process is about to end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any
from xmlrpc import client as xmlrpc

import pytest
import pytest_asyncio

from api.gateway import Gateway
from leasehold.errors import Unavailable
from leasehold.temporal import TASK_QUEUE
from tests.api.resalloc_lab import ResallocLab, resalloc_lab, until
from tests.api.stack import PATIENCE_S, Stack
from worker.wiring import build_worker


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack) -> AsyncIterator[ResallocLab]:
    async with resalloc_lab(stack) as made:
        yield made


class TestWithoutTheRest:
    """What the client would only repeat is answered late, not with a fault."""

    async def test_without_a_worker_a_ticket_is_taken_once_one_comes(self, stack: Stack) -> None:
        queue = f"nobody-{uuid.uuid4().hex}"
        async with resalloc_lab(stack, gateway=Gateway(stack.temporal, queue, answer_within_s=0.2)) as lab:
            await lab.pool()
            taking = asyncio.create_task(lab.take())
            await asyncio.sleep(1)
            assert not taking.done()
            services = stack.services
            async with build_worker(stack.temporal, services.store, services.logs, {}, task_queue=queue):
                ticket = await taking
                assert await lab.wait(ticket) == b""
                await lab.call("closeTicket", ticket)
                await lab.until_ended(ticket)

    async def test_who_goes_away_meanwhile_leaves_no_ticket(self, stack: Stack) -> None:
        queue = f"nobody-{uuid.uuid4().hex}"
        async with resalloc_lab(stack, gateway=Gateway(stack.temporal, queue, answer_within_s=0.2)) as lab:
            await lab.pool()
            connection = await lab.leave("takeTicket", [lab.tag])
            await asyncio.sleep(0.5)
            connection.close()
            await asyncio.sleep(0.5)
            services = stack.services
            async with build_worker(stack.temporal, services.store, services.logs, {}, task_queue=queue):

                async def is_over() -> bool:
                    return [lease["outcome"] for lease in await lab.tickets()] == ["cancelled"]

                await until(is_over)

    async def test_one_that_is_ended_before_a_worker_came_is_a_fault(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.compat.resalloc.tickets.LOOK_AGAIN_S", 0.2)
        gateway = Gateway(stack.temporal, f"nobody-{uuid.uuid4().hex}", answer_within_s=0.2)
        submitted: list[str] = []

        async def noted(request: Any) -> Any:
            submitted.append(request.lease)
            return await Gateway.submit(gateway, request)

        monkeypatch.setattr(gateway, "submit", noted)
        async with resalloc_lab(stack, gateway=gateway) as lab:
            await lab.pool()
            taking = asyncio.create_task(lab.take())
            await asyncio.sleep(1)
            await stack.temporal.get_workflow_handle(submitted[0]).terminate()
            with pytest.raises(xmlrpc.Fault, match="ended before"):
                await taking

    async def test_without_temporal_every_call_waits(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        gateway = Gateway(stack.temporal, TASK_QUEUE)
        failing = {"submit": 3, "release": 2}

        def away(name: str) -> Any:
            reached = getattr(gateway, name)

            async def call(*arguments: Any) -> Any:
                if failing[name]:
                    failing[name] -= 1
                    raise Unavailable("Temporal does not answer")
                return await reached(*arguments)

            return call

        for name in failing:
            monkeypatch.setattr(gateway, name, away(name))
        async with resalloc_lab(stack, gateway=gateway) as lab:
            await lab.pool()
            ticket = await lab.take()
            await lab.call("closeTicket", ticket)
            assert failing == {"submit": 0, "release": 0}
            assert (await lab.check(ticket))[2] is True


class TestStopping:
    async def test_who_waits_does_not_hold_it_up_and_is_told_to_try_again(self, lab: ResallocLab) -> None:
        await lab.stack.pool()
        waiting = [asyncio.create_task(lab.wait(await lab.take())) for _ in range(3)]
        await asyncio.sleep(0.3)
        lab.server.stop()
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        for answer in answers:
            # Their client repeats this one whatever it was told about restarts, unlike a broken connection.
            assert isinstance(answer, xmlrpc.ProtocolError)
            assert answer.errcode == 503

    async def test_what_is_being_answered_is_answered(self, lab: ResallocLab) -> None:
        gate = lab.stack.gate("exit 0")
        await lab.pool(1, admit=gate.hook)
        taking = asyncio.create_task(lab.take())
        await lab.stack.until(gate.reached)
        lab.server.stop()
        await asyncio.sleep(0.5)
        gate.open()
        assert (await lab.lease(await taking))["state"] == "active"
