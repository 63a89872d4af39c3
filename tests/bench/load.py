"""A light HTTP caller, so that what is measured is the service, and what is made of many measurements."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.stack import Stack


class CallFailed(Exception):
    """An answer that was no success."""


class Taker(Protocol):
    """A client of a service that lends resources."""

    def take(self, pool: str) -> str:
        """Take a resource of a pool, and return what it is given back by."""
        ...

    def release(self, taken: str) -> None:
        """Give it back."""
        ...


class Caller:
    """One connection of one client."""

    def __init__(self, stack: Stack) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(stack.url).netloc, timeout=120)
        self._headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request below `/v1` and return its JSON; raise `CallFailed`."""
        data = None if body is None else json.dumps(body)
        self._connection.request(method, f"/v1{path}", data, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise CallFailed(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text)

    def pool(self, name: str, resources: int, limits: Mapping[str, int] | None = None, **more: Any) -> None:
        """Make a pool of resources r0, r1, … with something to filter by, and the limiters that its hooks name."""
        made = [
            {"name": f"r{i}", "properties": {"model": f"m{i % 7}", "disks": [{"type": "nvme", "size": i % 5}]}}
            for i in range(resources)
        ]
        pool = {"name": name, "resources": made, **more}
        self.call("POST", "/apply", {"name": name, "limits": limits or {}, "pools": [pool]})

    def take(self, pool: str, count: int = 1, wait: bool = True, **more: Any) -> str:
        """Take resources of a pool and return the lease's id, once it is active unless told not to wait."""
        body = {"items": [{"pool": pool, "count": count}], **more}
        lease = self.call("POST", "/leases?wait=active&timeout=60" if wait else "/leases", body)
        if wait and lease["state"] != "active":
            raise CallFailed(f"the lease is {lease['state']}: {lease['error']}")
        taken: str = lease["id"]
        return taken

    def release(self, taken: str) -> None:
        """Give a lease back."""
        self.call("POST", f"/leases/{taken}/release")


def acquire_p50(client: Taker, pool: str, samples: int = 60) -> float:
    """How long it takes one client to have a resource of an idle pool, in milliseconds."""
    times = []
    for _ in range(samples):
        taken, took = timed(client.take, pool)
        client.release(taken)
        times.append(took)
    return median(times[5:])


def crowd(connect: Callable[[], Taker], pool: str, clients: int, seconds: float) -> tuple[float, list[float]]:
    """How often in a second so many clients together take a resource and give it back, and what each take took."""
    until = time.monotonic() + seconds

    def work(_: int) -> list[float]:
        client, times = connect(), []
        while time.monotonic() < until:
            taken, took = timed(client.take, pool)
            client.release(taken)
            times.append(took)
        return times

    with ThreadPoolExecutor(clients) as threads:
        times = [took for one in threads.map(work, range(clients)) for took in one]
    return len(times) / seconds, times


def flood(stack: Stack, pool: str, count: int, clients: int = 16, **asked: Any) -> list[str]:
    """Ask for so many leases of one resource, without waiting for any, and return their ids."""

    def ask(many: int) -> list[str]:
        caller = Caller(stack)
        return [caller.take(pool, wait=False, **asked) for _ in range(many)]

    shares = [count // clients + (n < count % clients) for n in range(clients)]
    with ThreadPoolExecutor(clients) as threads:
        return [lease for some in threads.map(ask, shares) for lease in some]


def timed(what: Any, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """The result of a call, and how long it took, in milliseconds."""
    begun = time.perf_counter()
    result = what(*args, **kwargs)
    return result, (time.perf_counter() - begun) * 1000


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def median(values: Sequence[float]) -> float:
    """The one in the middle."""
    return percentile(values, 0.5)
