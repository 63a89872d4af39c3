"""What is measured: each function returns the rows of the table that it fills."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.bench import boskos
from tests.bench.load import Caller, acquire_p50, crowd, flood, median, percentile, timed
from tests.bench.table import Row
from tests.stack import Stack

SAMPLES = 60
SECONDS = 10
WAITING = 5_000
MANY = 200


def acquire(stack: Stack) -> Iterable[Row]:
    """One client, one free resource after another, no hooks; in larger and larger pools, some beside Boskos."""
    caller = Caller(stack)
    caller.pool("of-10", 10)
    small = acquire_p50(caller, "of-10")
    yield Row("acquire, one client, p50", small, 25, "ms")
    for resources in (200, 5_000):
        caller.pool(f"of-{resources}", resources)
        took = acquire_p50(caller, f"of-{resources}")
        yield Row(f"acquire at {resources:,} resources, p50", took, 25, "ms", beside=boskos.alone(resources))
    caller.pool("of-10000", 10_000)
    yield Row("acquire at 10,000 resources against 10", acquire_p50(caller, "of-10000") / small, 1.25, "x")


def elsewhere(stack: Stack) -> Iterable[Row]:
    """One client who takes free resources while many leases wait for another pool."""
    caller = Caller(stack)
    caller.pool("ten", 10)
    caller.pool("single", 1)
    alone = acquire_p50(caller, "ten")
    flood(stack, "single", WAITING + 1)
    # The API has closed a connection that said nothing for so long.
    caller = Caller(stack)
    while caller.call("GET", "/pools/single")["waiting"] < WAITING:
        time.sleep(0.5)
    yield Row(f"acquire, {WAITING:,} waiting elsewhere, against none", acquire_p50(caller, "ten") / alone, 1.25, "x")


def throughput(stack: Stack) -> Iterable[Row]:
    """Full leases (taken, active, released) by many clients at once, beside Boskos."""
    Caller(stack).pool("many", MANY)
    for clients in (20, 50):
        rate, times = crowd(lambda: Caller(stack), "many", clients, SECONDS)
        beside = boskos.crowded(MANY, clients, SECONDS)
        yield Row(f"full leases, {clients} clients", rate, 30, "/s", at_least=True, beside=beside)
        yield Row(f"acquire, {clients} clients, p50", median(times), None, "ms")
        if clients == 20:
            yield Row("acquire, 20 clients, p99", percentile(times, 0.99), 1500, "ms")


def hand_over(stack: Stack) -> Iterable[Row]:
    """From the release of the only resource until the next waiter's answer."""
    caller = Caller(stack)
    caller.pool("single", 1)
    alone = _hand_over(stack, caller)
    yield Row("hand-over, 1 waiting, p50", median(alone), 50, "ms")
    yield Row("hand-over, 1 waiting, p99", percentile(alone, 0.99), 250, "ms")
    blocker = caller.take("single")
    waiting = flood(stack, "single", 1000, priority=-5)
    caller.release(blocker)
    crowded = _hand_over(stack, caller)
    yield Row("hand-over, 1,000 waiting against 1", median(crowded) / median(alone), 1.25, "x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda lease: Caller(stack).call("POST", f"/leases/{lease}/cancel"), waiting))


def _hand_over(stack: Stack, caller: Caller) -> list[float]:
    times = []
    for _ in range(SAMPLES // 2):
        first = _take_before_all(caller)
        second = caller.take("single", wait=False, priority=9)
        thread, ended = _in_thread(Caller(stack), f"/leases/{second}?wait=active&timeout=60")
        time.sleep(0.1)
        begun = time.perf_counter()
        caller.release(first)
        thread.join()
        times.append((ended[0] - begun) * 1000)
        caller.release(second)
    return times


def _take_before_all(caller: Caller) -> str:
    """Take the only resource, whoever holds it now: those that wait with a lower priority come after."""
    lease = caller.take("single", wait=False, priority=10)
    while caller.call("GET", f"/leases/{lease}")["state"] != "active":
        for holder in caller.call("GET", "/leases?pool=single&state=active")["items"]:
            if holder["id"] != lease:
                caller.release(holder["id"])
    return lease


def _in_thread(caller: Caller, path: str) -> tuple[threading.Thread, list[float]]:
    """Start a GET, and note when it is answered."""
    ended: list[float] = []

    def work() -> None:
        caller.call("GET", path)
        ended.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    return thread, ended


def many_hosts(stack: Stack) -> Iterable[Row]:
    """One lease of 25 hosts, each through four stages of a second."""
    caller = Caller(stack)
    stage = {"run": "sleep 1", "timeout": "30s"}
    stages: dict[str, Any] = {name: stage for name in ("wipe", "provision", "configure", "validate")}
    caller.pool("hosts", 25, **stages)
    yield Row("25 hosts, four stages of 1 s, active after", _active_after_s(caller, "hosts"), 4.6, "s")
    caller.pool("limited", 25, limits={"five": 5}, **{**stages, "provision": {**stage, "limit": "five"}})
    # All are wiped at once, provisioned in five times five, and the last five have two stages more to go.
    least = 1 + 5 + 2
    took = _active_after_s(caller, "limited")
    yield Row("the same, 5 at once in one stage, against the least", took / least, 1.1, "x")


def _active_after_s(caller: Caller, pool: str) -> float:
    """How long a lease of 25 hosts takes."""
    took = []
    for _ in range(3):
        lease, one = timed(caller.take, pool, 25)
        took.append(one / 1000)
        caller.release(lease)
    return median(took)


def reading(stack: Stack) -> Iterable[Row]:
    """What people and dashboards ask for all day."""
    caller = Caller(stack)
    caller.pool("ten-thousand", 10_000)
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda _: Caller(stack).take("ten-thousand"), range(400)))
    for what, path, target in (
        ("GET a lease, p50", f"/leases/{held[0]}", 10),
        ("GET 100 of 400 leases, p50", "/leases?limit=100", 25),
        ("GET available, two filters over 10,000, p50", "/available?pool=ten-thousand&model=m3&disks.type=nvme", 50),
    ):
        yield Row(what, median([timed(caller.call, "GET", path)[1] for _ in range(SAMPLES // 2)]), target, "ms")


def idle(stack: Stack) -> Iterable[Row]:
    """What worker and API use while nothing happens."""
    before = _cpu_seconds(stack)
    time.sleep(SECONDS)
    yield Row("idle worker and API, of a core", (_cpu_seconds(stack) - before) / SECONDS * 100, 2, "%")


def _cpu_seconds(stack: Stack) -> float:
    ticks = 0
    for pid, command in stack.processes().items():
        if "-m worker " in command or "-m api" in command or "supervisor" in command:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / 100


ALL = (idle, acquire, elsewhere, throughput, hand_over, many_hosts, reading)
