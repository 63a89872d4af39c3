"""Ten thousand leases held at once: what a new one costs then, what the worker needs, how soon it is back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

from tests.bench.load import Caller, CallFailed, acquire_p50, flood, median, timed
from tests.bench.table import Row
from tests.faults.parts import Parts

HELD = 10_000
MIB = 1024


def held(parts: Parts) -> Iterable[Row]:
    """On a stack whose worker alone can be killed."""
    caller = Caller(parts)
    caller.pool("ten", 10)
    caller.pool("many", HELD)
    alone = acquire_p50(caller, "ten")
    leases = _take_all(parts)
    # The API has closed a connection that said nothing for so long.
    caller = Caller(parts)
    yield Row(f"acquire with {HELD:,} leases held against none", acquire_p50(caller, "ten") / alone, 2, "x")
    page = median([timed(caller.call, "GET", "/leases?limit=100")[1] for _ in range(30)])
    yield Row(f"GET 100 of {HELD:,} leases, p50", page, 25, "ms")
    yield Row(f"worker with {HELD:,} leases held, resident", _resident_mib(parts["worker"].pid), 600, "MiB")
    yield Row(f"killed worker with {HELD:,} leases held, back after", _back_after_s(parts, caller, leases), 30, "s")
    yield Row("the same worker after it, resident", _resident_mib(parts["worker"].pid), 600, "MiB")


def _take_all(parts: Parts) -> list[str]:
    leases = flood(parts, "many", HELD, duration="7d")
    caller = Caller(parts)
    while caller.call("GET", "/pools/many")["states"].get("leased", 0) < len(leases):
        time.sleep(0.5)
    return leases


def _resident_mib(pid: int) -> float:
    """The memory of a process and of all that it started."""
    pids, total = [pid], 0
    while pids:
        one = pids.pop()
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{one}/status").read_text())
        total += int(found[1]) if found else 0
        pids += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return total / MIB


def _back_after_s(parts: Parts, caller: Caller, leases: list[str]) -> float:
    """From `kill -9` until a new lease is active and one of the old ones is given back."""
    parts["worker"].kill()
    begun = time.monotonic()
    caller.release(caller.take("ten"))
    while caller.call("GET", f"/leases/{leases[0]}")["state"] != "ended":
        try:
            caller.release(leases[0])
        except CallFailed:
            time.sleep(0.1)
    return time.monotonic() - begun
