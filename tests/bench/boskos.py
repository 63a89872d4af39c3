"""Boskos, which lends resources to Kubernetes' CI, beside Leasehold: both over HTTP, in the same run.

`scripts/get-boskos` builds it. It runs with `-in_memory`, where it keeps all in Kubernetes' client for tests: it writes
nothing down before it answers, while a lease of Leasehold is durable in two places, and it lends a resource to two when
clients collide. It has no setting for where it listens, which is on every device of the machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests import servers
from tests.bench.load import CallFailed, acquire_p50, crowd, median
from tests.bench.table import numbers
from tests.stack import ROOT, free_ports

PROGRAM = ROOT / ".tools" / "boskos"
POOL = "many"
NAME = "Boskos, in memory"
NOT_BUILT = "Boskos: not built here"
_START_S = 30


class BoskosCaller:
    """One connection of one client of Boskos, who tries again where it answers 500, as it does when clients collide."""

    def __init__(self, port: int) -> None:
        self.refused = self.lent_twice = 0
        self._owner = f"owner-{uuid.uuid4()}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def take(self, pool: str) -> str:
        """Acquire a resource of a type, and return its name; raise `CallFailed`."""
        name: str = json.loads(self._call("acquire", type=pool, state="free", dest="busy"))["name"]
        return name

    def release(self, taken: str) -> None:
        """Release a resource."""
        self._call("release", name=taken, dest="free")

    def _call(self, what: str, **about: str) -> bytes:
        while True:
            self._connection.request("POST", f"/{what}?{urlencode({**about, 'owner': self._owner})}")
            answer = self._connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                return text
            if answer.status == 401:
                # Somebody else was given it too, and is its owner now.
                self.lent_twice += 1
                return text
            if answer.status != 500:
                raise CallFailed(f"{what} {about}: {answer.status} {text[:300]!r}")
            self.refused += 1


def alone(resources: int) -> str:
    """What an acquire takes one client at so many resources."""
    if not PROGRAM.exists():
        return NOT_BUILT
    with _running(resources) as port:
        return f"{NAME}: {numbers(acquire_p50(BoskosCaller(port), POOL))} ms"


def crowded(resources: int, clients: int, seconds: float) -> str:
    """How often in a second so many clients acquire one of so many resources and release it, and what went wrong."""
    if not PROGRAM.exists():
        return NOT_BUILT
    callers: list[BoskosCaller] = []

    def connect(port: int) -> BoskosCaller:
        callers.append(BoskosCaller(port))
        return callers[-1]

    with _running(resources) as port:
        rate, times = crowd(lambda: connect(port), POOL, clients, seconds)
    refused, twice = sum(one.refused for one in callers), sum(one.lent_twice for one in callers)
    said = f"{NAME}: {numbers(rate)} /s, acquire p50 {numbers(median(times))} ms"
    return f"{said}; {refused:,} times it answered 500 and was asked again, {twice:,} times it lent to two at once"


@contextmanager
def _running(resources: int) -> Iterator[int]:
    """Boskos with so many resources, at the port that is yielded, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="leasehold-boskos-"))
    port, health, metrics, profiles = free_ports(4)
    # JSON is YAML.
    kinds = [{"type": POOL, "state": "free", "names": [f"r{n}" for n in range(resources)]}]
    (folder / "config.yaml").write_text(json.dumps({"resources": kinds}))
    ports = {"port": port, "health-port": health, "metrics-port": metrics, "pprof-port": profiles}
    command = [str(PROGRAM), "-in_memory", "-log-level=error", f"-config={folder / 'config.yaml'}"]
    command += [f"-{name}={number}" for name, number in ports.items()]
    with servers.running(command, folder=folder, stop="KILL") as server:
        _wait(port, server)
        yield port


def _wait(port: int, server: servers.Server) -> None:
    """Return when the server answers."""
    give_up = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError):
            client = BoskosCaller(port)
            client.release(client.take(POOL))
            return
        server.check()
        if time.monotonic() > give_up:
            raise TimeoutError(f"Boskos does not answer after {_START_S} s")
        time.sleep(0.05)
