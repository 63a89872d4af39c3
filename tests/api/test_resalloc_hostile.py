"""Whatever strangers send to the port of resalloc's clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from xmlrpc import client as xmlrpc

import httpx
import pytest
import pytest_asyncio

from tests.api.resalloc_lab import UNKNOWN, ResallocLab, resalloc_lab
from tests.api.stack import PATIENCE_S, Stack, fail
from tests.unit.test_resalloc_wire import CALL, HOSTILE


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack) -> AsyncIterator[ResallocLab]:
    async with resalloc_lab(stack) as made:
        yield made


class TestHostileCallers:
    """Each gets a fault in proper XML-RPC, or is refused; nothing goes wrong inside, and all others are served."""

    @pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
    async def test_what_is_no_call(self, lab: ResallocLab, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
        answer = await lab.post(body)
        assert answer.status_code == 200, fail(answer)
        with pytest.raises(xmlrpc.Fault) as raised:
            xmlrpc.loads(answer.content)
        assert raised.value.faultCode == -32700, raised.value
        assert "Traceback" not in answer.text + caplog.text
        assert await lab.call("system.listMethods")

    async def test_parameters_of_any_kind(self, lab: ResallocLab) -> None:
        await lab.pool()
        anything: tuple[Any, ...] = ({}, {"a": [1]}, [[[]]], b"\xff", 1e300, "\t", datetime(2026, 1, 1, tzinfo=UTC))
        for sent in anything:
            assert await lab.check(sent) == UNKNOWN
            calls: list[tuple[Any, ...]] = [(sent,), ([], sent), ([lab.tag], "", sent)]
            for params in calls:
                with suppress(xmlrpc.Fault):
                    await lab.call("closeTicket", await lab.call("takeTicket", *params))

    @pytest.mark.parametrize("declared", [True, False], ids=["declared", "in chunks"])
    async def test_a_huge_body(self, lab: ResallocLab, declared: bool) -> None:
        body = CALL.format("takeTicket", "x" * 5_000_000).encode()

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 65536):
                yield body[at : at + 65536]

        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http:
            answer = await http.post(
                f"{lab.url}/RPC2", content=body if declared else pieces(), headers={"Content-Type": "text/xml"}
            )
        with pytest.raises(xmlrpc.Fault, match="too_large"):
            xmlrpc.loads(answer.content)

    @pytest.mark.parametrize("method", ["nope", "_collect", "tickets.close", "system.shutdown", "a" * 5000])
    async def test_methods_that_there_are_not(self, lab: ResallocLab, method: str) -> None:
        with pytest.raises(xmlrpc.Fault, match="no method") as raised:
            await lab.call(method)
        assert raised.value.faultCode == -32601

    @pytest.mark.parametrize(
        ("method", "params"),
        [
            ("takeTicket", ()),
            ("takeTicket", ([], "", "", "")),
            ("collectTicket", ()),
            ("waitTicket", (1, 2)),
            ("closeTicket", ()),
            ("system.listMethods", (1,)),
        ],
        ids=str,
    )
    async def test_too_few_and_too_many_parameters(
        self, lab: ResallocLab, method: str, params: tuple[Any, ...]
    ) -> None:
        with pytest.raises(xmlrpc.Fault) as raised:
            await lab.call(method, *params)
        assert raised.value.faultCode == -32602

    async def test_a_page_in_a_browser(self, lab: ResallocLab) -> None:
        """What a page may send without being allowed to is not read, and nothing else is allowed."""
        await lab.pool()
        call = xmlrpc.dumps(([lab.tag],), "takeTicket").encode()
        for sent in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            answer = await lab.post(call, **{"Content-Type": sent})
            assert answer.status_code == 415, fail(answer)
        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http:
            asked = await http.options(f"{lab.url}/RPC2", headers={"Origin": "http://evil.example"})
            shown = await http.get(f"{lab.url}/RPC2")
        assert (asked.status_code, shown.status_code) == (405, 405)
        assert "access-control-allow-origin" not in asked.headers
        assert await lab.tickets() == []

    async def test_a_fault_is_readable_whatever_it_quotes(self, lab: ResallocLab) -> None:
        body = CALL.format("no&#xFFFD;&#x9;&lt;such&gt;", "")
        with pytest.raises(xmlrpc.Fault, match="<such>"):
            xmlrpc.loads((await lab.post(body.encode())).content)
