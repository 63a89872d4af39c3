"""Tickets of resalloc's clients over XML-RPC: handed out, handed over, and many that wait."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xmlrpc import client as xmlrpc

from tests.bench.load import Caller, median, percentile
from tests.bench.table import Row
from tests.stack import Stack

SAMPLES = 60
WAITING = 500
PORT = "LEASEHOLD_RESALLOC_PORT"
RESALLOC = "resalloc, SQLite, another run: 128 ms, at worst 10,060 ms"


def tickets(stack: Stack) -> Iterable[Row]:
    """What is free is handed out, what is given back is handed over, and most of those who wait just wait."""
    _pool(stack, "ready", {"max": 20, "max_creating": 4, "min_free": 6})
    _until(lambda: Caller(stack).call("GET", "/pools/ready")["free"] >= 6)
    with _server(stack) as proxy:
        took = [_handed_out(stack, proxy, free=6) for _ in range(SAMPLES)]
        busy = [_handed_out(stack, proxy, free=3) for _ in range(SAMPLES)]
    yield Row("ticket, one ready, p50", median(took), 60, "ms", beside=RESALLOC)
    yield Row("ticket, one ready, worst", max(took), None, "ms")
    yield Row("ticket, one ready, while others are made and deleted, p50", median(busy), None, "ms")

    _pool(stack, "single", {"max": 1, "min_free": 1}, policy={"reuse": "anyone", "reuse_time": None})
    alone = [_handed_over(stack, "single") for _ in range(SAMPLES // 2)]
    yield Row("ticket, closed to the next one's answer, p50", median(alone), 250, "ms")
    yield Row("ticket, closed to the next one's answer, p99", percentile(alone, 0.99), None, "ms")
    _pool(stack, "anew", {"max": 1, "min_free": 0})
    anew = [_handed_over(stack, "anew") for _ in range(SAMPLES // 3)]
    yield Row("the same where it is deleted, and another made, p50", median(anew), None, "ms")

    (api,) = [pid for pid, command in stack.processes().items() if "-m api" in command]
    before, threads = _resident(api), _threads(api)
    _pool(stack, "crowded", {"max": 0})
    with _waiting(stack, "crowded", WAITING):
        time.sleep(2)
        crowded = [_handed_over(stack, "single") for _ in range(SAMPLES // 2)]
        memory, more = _resident(api) - before, _threads(api) - threads
    yield Row(f"ticket, closed to the next one's answer, {WAITING} waiting", median(crowded), 250, "ms")
    yield Row(f"memory of the API for {WAITING} waiting tickets", memory, None, "MiB")
    yield Row(f"threads of the API for {WAITING} waiting tickets", more, None, "")


def _pool(stack: Stack, name: str, size: dict[str, Any], **more: Any) -> None:
    """A pool whose hooks take no time, and whose tag is its name."""
    hooks = {stage: {"run": "printf address"} for stage in ("create", "delete")}
    pool = {"name": name, "size": size, "tags": [name], **hooks, **more}
    Caller(stack).call("POST", "/apply", {"name": name, "folder": "/", "pools": [pool]})


def _server(stack: Stack) -> xmlrpc.ServerProxy:
    return xmlrpc.ServerProxy(f"http://127.0.0.1:{stack.settings[PORT]}")


def _handed_out(stack: Stack, proxy: xmlrpc.ServerProxy, *, free: int) -> float:
    """From the call that takes a ticket until what it got is known, once so many are free."""
    begun = time.perf_counter()
    ticket: Any = proxy.takeTicket(["ready"])
    proxy.waitTicket(ticket)
    took = (time.perf_counter() - begun) * 1000
    proxy.closeTicket(ticket)
    _until(lambda: Caller(stack).call("GET", "/pools/ready")["states"].get("free", 0) >= free)
    return took


def _handed_over(stack: Stack, pool: str) -> float:
    """From the call that closes a ticket until the answer to the call that waits for the next one."""
    with _server(stack) as proxy, _server(stack) as other, ThreadPoolExecutor(1) as waiter:
        first: Any = proxy.takeTicket([pool])
        proxy.waitTicket(first)
        second: Any = proxy.takeTicket([pool])

        def wait() -> float:
            other.waitTicket(second)
            return time.perf_counter()

        answered = waiter.submit(wait)
        time.sleep(0.1)
        begun = time.perf_counter()
        proxy.closeTicket(first)
        took = (answered.result() - begun) * 1000
        proxy.closeTicket(second)
    return took


@contextmanager
def _waiting(stack: Stack, pool: str, many: int) -> Iterator[None]:
    """So many tickets, each with a client that waits for it."""
    with _server(stack) as proxy, ExitStack() as open_ones:
        numbers: list[Any] = [proxy.takeTicket([pool]) for _ in range(many)]
        for number in numbers:
            body = xmlrpc.dumps((number,), "waitTicket").encode()
            connection = open_ones.enter_context(socket.create_connection(("127.0.0.1", int(stack.settings[PORT]))))
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
        yield
        for number in numbers:
            proxy.closeTicket(number)


def _until(true: Any) -> None:
    while not true():
        time.sleep(0.05)


def _resident(pid: int) -> float:
    return _status(pid, "VmRSS") / 1024


def _threads(pid: int) -> float:
    return _status(pid, "Threads")


def _status(pid: int, name: str) -> float:
    (found,) = re.findall(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return float(found)
