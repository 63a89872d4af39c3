"""Commands on leased resources: how soon one runs, how soon what it prints is read, and how many run in a second."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.bench.load import Caller, median, percentile
from tests.bench.table import Row
from tests.runners import RunnerProcess
from tests.stack import Stack

SAMPLES = 60
COMMANDS = 200
RUNNERS = 3
LINES = 40
MEGABYTES = 100
NOW = ["date", "+%s%N"]
"""A command that prints the time, in nanoseconds."""


def commands(stack: Stack) -> Iterable[Row]:
    """On a runner for what is measured alone, and on three for many at once."""
    caller = Caller(stack)
    allow = {"allow": [{"role": "user"}], "output": "128MiB"}
    caller.pool("single", 1, commands=allow)
    waits = [_until_it_prints(stack, caller) for _ in range(SAMPLES)][5:]
    yield Row("command, from the grant to its first byte, p50", median(waits), 150, "ms")
    yield Row("command, from the grant to its first byte, p99", percentile(waits, 0.99), None, "ms")
    yield Row("output, from a line's print to a reader, p50", median(_lags(stack, caller)), 300, "ms")
    took = _flood(stack, caller)
    yield Row(f"output of {MEGABYTES} MB, read while it is printed", MEGABYTES / took, None, "MB/s")
    caller.pool("four", 4, commands={**allow, "labels": ["bench"]})
    with ExitStack() as runners:
        folder = Path(runners.enter_context(tempfile.TemporaryDirectory()))
        for number in range(RUNNERS):
            runners.enter_context(RunnerProcess(stack, folder, f"bench{number}", labels="bench"))
        begun = time.monotonic()
        leases = [_submit(caller, "four", ["sleep", "0.05"]) for _ in range(COMMANDS)]
        ended = [caller.call("GET", f"/leases/{lease}?wait=ended&timeout=60") for lease in leases]
        rate = COMMANDS / (time.monotonic() - begun)
    assert {one["command"]["exit_code"] for one in ended} == {0}
    busy = median([_span(one["active_at"], one["ended_at"]) for one in ended])
    yield Row(f"commands of 50 ms on 4 resources, {RUNNERS} runners", rate, 8, "/s", at_least=True)
    yield Row("each of them, from its grant to its end, beside its 50 ms, p50", busy - 50, None, "ms")


def _submit(caller: Caller, pool: str, run: list[str] | str) -> str:
    lease: str = caller.call("POST", "/leases", {"items": [{"pool": pool}], "command": {"run": run}})["id"]
    return lease


def _until_it_prints(stack: Stack, caller: Caller) -> float:
    """From the moment at which the record granted a command's lease until the command's own clock, in milliseconds."""
    lease = _submit(caller, "single", NOW)
    ended = caller.call("GET", f"/leases/{lease}?wait=ended&timeout=60")
    printed = _read(stack, f"/v1/leases/{lease}/output")
    return int(printed) / 1e6 - datetime.fromisoformat(ended["active_at"]).timestamp() * 1000


def _lags(stack: Stack, caller: Caller) -> list[float]:
    """How long after their print some lines reached one who follows, in milliseconds."""
    lease = _submit(caller, "single", f"for i in $(seq {LINES}); do date +%s%N; sleep 0.1; done")
    lags = []
    for event in _events(stack, lease):
        lags += [time.time() * 1000 - int(line) / 1e6 for line in (event["data"] or "").split()]
    return lags[3:]


def _events(stack: Stack, lease: str) -> Iterator[dict[str, Any]]:
    connection = _connection(stack)
    headers = {"Authorization": f"Bearer {stack.token}", "Accept": "text/event-stream"}
    connection.request("GET", f"/v1/leases/{lease}/output", headers=headers)
    kind = ""
    for line in connection.getresponse():
        if line.startswith(b"event: "):
            kind = line[7:].strip().decode()
        elif line.startswith(b"data: ") and kind == "output":
            yield json.loads(line[6:])


def _flood(stack: Stack, caller: Caller) -> float:
    """How long it takes to read much output that is printed as fast as possible, in seconds."""
    lease = _submit(caller, "single", f"yes 0123456789abcdef | head -c {MEGABYTES}000000")
    begun = time.monotonic()
    size = len(_read(stack, f"/v1/leases/{lease}/output?follow=true"))
    assert size == MEGABYTES * 10**6, size
    return time.monotonic() - begun


def _read(stack: Stack, path: str) -> bytes:
    connection = _connection(stack)
    connection.request("GET", path, headers={"Authorization": f"Bearer {stack.token}"})
    return connection.getresponse().read()


def _connection(stack: Stack) -> HTTPConnection:
    return HTTPConnection(urlsplit(stack.url).netloc, timeout=120)


def _span(begun: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds() * 1000
