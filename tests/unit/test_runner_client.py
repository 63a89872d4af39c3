"""What a runner says over HTTP, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from leasehold.commands import Begun, RunnerHost
from leasehold.errors import CommandOver, Invalid, LeaseholdError, Unavailable
from leasehold.runner_client import RunnerClient

Json = dict[str, Any]
HOST = RunnerHost(
    instance="i1", labels=("x86_64", "fast"), slots=4, host="build01", locks="l", boot="b", processes="pid:[1]"
)
BEGUN: Json = {
    "lease": "a/b",
    "number": 7,
    "owner": "joe",
    "pool": "r640",
    "argv": ["make", "test"],
    "shell": False,
    "env": {"CI": "1"},
    "folder": None,
    "account": "ci",
    "timeout_s": 60.5,
    "grace_s": 10,
    "output_limit": 1000,
    "given": ["A"],
}

Answer = Callable[[httpx.Request], httpx.Response]


class Sent:
    """A service that answers alike each time, and keeps what it was sent."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)

    def client(self, patience: float = 0.3) -> RunnerClient:
        transport = httpx.MockTransport(self)
        return RunnerClient(
            "http://lab.example:8700/", "secret", transport=transport, patience=timedelta(seconds=patience)
        )


def answers(body: Any = None, status: int = 200) -> Sent:
    return Sent(lambda request: httpx.Response(status, json=body) if body is not None else httpx.Response(status))


async def test_it_registers() -> None:
    service = answers({"name": "build01", "every_s": 5.0, "silence_s": 20.0})
    await service.client().register("build01", HOST)
    (sent,) = service.requests
    assert (sent.method, sent.url.path) == ("PUT", "/v1/runners/build01")
    assert sent.headers["Authorization"] == "Bearer secret"
    assert json.loads(sent.content) == {
        "instance": "i1",
        "labels": ["x86_64", "fast"],
        "slots": 4,
        "host": "build01",
        "locks": "l",
        "boot": "b",
        "processes": "pid:[1]",
    }


async def test_it_leaves() -> None:
    service = answers(status=204)
    await service.client().leave("build01", "i1")
    assert (service.requests[0].method, service.requests[0].url.path) == ("DELETE", "/v1/runners/build01/i1")


async def test_it_begins_a_command() -> None:
    service = answers({**BEGUN, "what newer services say": 1})
    begun = await service.client().begin("build01", "a/b", "i1", 2)
    assert begun == Begun(**{**BEGUN, "argv": ("make", "test"), "given": ("A",)})
    (sent,) = service.requests
    assert (sent.method, sent.url.raw_path) == ("POST", b"/v1/runners/build01/commands/a%2Fb/begin")
    assert json.loads(sent.content) == {"instance": "i1", "attempt": 2}


async def test_what_must_not_begin_is_told_apart() -> None:
    service = answers({"code": "command_over", "detail": "lease 7 has ended"}, 409)
    with pytest.raises(CommandOver, match="lease 7 has ended"):
        await service.client().begin("build01", "a", "i1", 1)


async def test_it_hands_over_output_as_it_is() -> None:
    service = answers({"offset": 112})
    assert await service.client().put_output("build01", "a", 2, 100, b"\0\xff frames") == 112
    (sent,) = service.requests
    assert (sent.method, sent.url.path) == ("POST", "/v1/runners/build01/commands/a/output")
    assert sent.headers["Content-Type"] == "application/octet-stream"
    assert sent.content == b"\0\xff frames"
    query = dict(sent.url.params)
    assert abs(int(query.pop("now")) / 1e6 - time.time()) < 60
    assert query == {"attempt": "2", "offset": "100"}


@pytest.mark.parametrize("call", ["begin", "put_output", "leave"])
async def test_calls_are_repeated_for_a_moment(call: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if len(service.requests) == 1:
            raise httpx.ReadError("connection reset")
        return httpx.Response(200, json={**BEGUN, "offset": 5})

    service = Sent(answer)
    client = service.client(patience=5)
    match call:
        case "begin":
            await client.begin("build01", "a", "i1", 1)
        case "put_output":
            await client.put_output("build01", "a", 1, 0, b"")
        case "leave":
            await client.leave("build01", "i1")
    assert len(service.requests) == 2


async def test_a_service_that_is_away_is_said_soon() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable):
        await Sent(answer).client().register("build01", HOST)


@pytest.mark.parametrize("body", [[], {}, {"offset": "x"}, {"offset": None}, 5])
async def test_answers_that_it_does_not_understand_are_errors(body: Any) -> None:
    client = answers(body).client()
    with pytest.raises(LeaseholdError, match="another version"):
        await client.put_output("build01", "a", 1, 0, b"")
    with pytest.raises(LeaseholdError, match="another version"):
        await client.begin("build01", "a", "i1", 1)


async def test_a_call_that_hangs_is_in_no_others_way() -> None:
    go_on = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            assert go_on.wait(30)
        return httpx.Response(200, json={"offset": 0})

    client = Sent(answer).client()
    hanging = [asyncio.create_task(client.put_output("build01", "a", 1, 0, b"")) for _ in range(20)]
    await asyncio.sleep(0)
    await client.register("build01", HOST)
    assert not any(one.done() for one in hanging)
    go_on.set()
    await asyncio.gather(*hanging)


def test_a_bad_address_is_said_at_once() -> None:
    with pytest.raises(Invalid, match="not a URL"):
        RunnerClient("build01:8700", "secret")
