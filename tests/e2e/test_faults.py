"""Calls that are cut off, processes that are not there, a disk that is full: nothing is lost, nothing is doubled."""

from __future__ import annotations

import signal
import sqlite3
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.lab import PATIENCE_S, Lab, until
from tests.faults.disk import Disk, disk, mounted
from tests.faults.nursery import Nursery
from tests.faults.parts import NAMES, Parts

Answer = httpx.Response | httpx.TransportError


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def module_parts(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    parts = Parts(tmp_path_factory.mktemp("parts"), nursery)
    parts.start()
    yield parts
    parts.close()


@pytest.fixture
def parts(module_parts: Parts) -> Parts:
    """A stack whose processes can be stopped one by one, running."""
    for name in NAMES:
        if not module_parts[name].lives:
            module_parts[name].start()
    module_parts.serves()
    return module_parts


@pytest.fixture
def lab(parts: Parts, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(parts, tmp_path)
    yield lab
    lab.close()


class Callers:
    """People who call the API each on a thread, without a client that would repeat anything."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._threads = ThreadPoolExecutor(30)

    def call(self, method: str, path: str, body: object = None, key: str | None = None) -> Future[Answer]:
        headers = {"Authorization": f"Bearer {self._parts.token}"} | ({"Idempotency-Key": key} if key else {})

        def call() -> Answer:
            try:
                url = f"{self._parts.url}/v1{path}"
                return httpx.request(method, url, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)
            except httpx.TransportError as error:
                return error

        return self._threads.submit(call)

    def ask(self, method: str, path: str, body: object = None, key: str | None = None) -> httpx.Response:
        """Call and return the answer."""
        answer = self.call(method, path, body, key).result()
        assert isinstance(answer, httpx.Response), repr(answer)
        return answer

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture
def callers(parts: Parts) -> Iterator[Callers]:
    callers = Callers(parts)
    yield callers
    callers.close()


def wanted(pool: str) -> dict[str, Any]:
    return {"items": [{"pool": pool, "count": 1}], "duration": "10m"}


def lease_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code in {200, 201, 202}, answer.text
    lease: dict[str, Any] = answer.json()
    return lease


def restart(parts: Parts, *names: str) -> None:
    """`kill -9`, and wait until it serves again."""
    for name in names:
        before = parts[name].starts
        parts[name].kill()
        until(lambda name=name, before=before: parts[name].starts > before, f"{name} is started again")  # type: ignore[misc]
    until(lambda: {"database": True, "temporal": True}.items() <= readiness(parts).items(), "it serves again")


def readiness(parts: Parts) -> dict[str, bool]:
    try:
        ready: dict[str, bool] = httpx.get(f"{parts.url}/readyz", timeout=5, trust_env=False).json()
    except httpx.TransportError:
        return {}
    return ready


@contextmanager
def stands_still(parts: Parts, name: str) -> Iterator[None]:
    """Stop a process until the block ends, at a moment at which it has not locked the database for all others."""

    def stopped() -> bool:
        parts[name].signal(signal.SIGSTOP)
        with closing(sqlite3.connect(parts.data / "leasehold.db", timeout=0.5, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                parts[name].signal(signal.SIGCONT)
                return False
        return True

    until(stopped, f"{name} stands still")
    try:
        yield
    finally:
        parts[name].signal(signal.SIGCONT)


def test_a_request_that_was_cut_off_and_repeated_is_one_lease(parts: Parts, lab: Lab, callers: Callers) -> None:
    """The API is killed after it has sent the request to Temporal, and before it answers."""
    pool, key = lab.pool(2), uuid.uuid4().hex
    running = "WorkflowType='lease' AND ExecutionStatus='Running'"
    with stands_still(parts, "worker"):
        before = parts.temporal("workflow", "count", "--query", running)
        cut_off = callers.call("POST", "/leases?wait=active", wanted(pool), key)
        until(
            lambda: parts.temporal("workflow", "count", "--query", running) != before, "the lease's workflow is there"
        )
        restart(parts, "api")
        assert isinstance(cut_off.result(), httpx.TransportError)

    first = lease_of(callers.ask("POST", "/leases?wait=active", wanted(pool), key))
    second = lease_of(callers.ask("POST", "/leases?wait=active", wanted(pool), key))

    assert (first["id"], first["state"]) == (second["id"], "active")
    assert [r["state"] for r in lab.client.resources(pool=pool)].count("leased") == 1


@pytest.mark.parametrize("call", ["release", "cancel"])
def test_a_call_that_was_lost_changed_nothing_and_can_be_repeated(
    parts: Parts, lab: Lab, callers: Callers, call: str
) -> None:
    """An update that no worker has accepted is in Temporal's memory alone, and goes with it."""
    pool = lab.pool()
    lease = lab.take(pool)
    parts["worker"].stop(signal.SIGKILL)
    lost = callers.call("POST", f"/leases/{lease['id']}/{call}")
    # Long enough for the update to be sent, which nothing tells; too short for the signal that follows.
    time.sleep(1)
    restart(parts, "api", "temporal")
    assert isinstance(lost.result(), httpx.TransportError)
    parts["worker"].start()

    assert lab.look(lease)["state"] == "active"
    lab.client.release(lease["id"])
    assert lab.comes_to(lease, "ended")["outcome"] == "released"
    lab.all_free(pool)


def test_a_cancel_that_was_taken_is_not_lost_with_everything_killed(parts: Parts, lab: Lab, callers: Callers) -> None:
    pool = lab.pool()
    lease = lab.take(pool)
    parts["worker"].stop(signal.SIGKILL)
    assert callers.ask("POST", f"/leases/{lease['id']}/cancel").status_code == 202
    restart(parts, "temporal", "api")
    parts["worker"].start()

    assert lab.comes_to(lease, "ended")["outcome"] == "cancelled"
    lab.all_free(pool)


def test_without_any_worker_requests_are_kept_and_then_served(parts: Parts, lab: Lab, callers: Callers) -> None:
    pool, keys = lab.pool(2), [uuid.uuid4().hex for _ in range(3)]
    parts["worker"].stop()
    leases = submitted(callers, pool, keys)
    assert submitted(callers, pool, keys) == leases
    restart(parts, "temporal", "api")
    parts["worker"].start()

    until(lambda: states(lab, leases) == ["active", "active", "queued"], "two of three are served")
    for _ in leases:
        for lease in leases:
            if lab.client.lease(lease)["state"] == "active":
                lab.client.release(lease)
    until(lambda: states(lab, leases) == ["ended"] * 3, "all were served")


def test_a_worker_whose_database_does_not_answer_can_be_stopped(parts: Parts, lab: Lab, callers: Callers) -> None:
    pool, keys = lab.pool(), [uuid.uuid4().hex]
    with closing(sqlite3.connect(parts.data / "leasehold.db", isolation_level=None)) as database:
        until(lambda: database.execute("BEGIN IMMEDIATE"), "the database is locked")
        (lease,) = submitted(callers, pool, keys)
        parts["worker"].stop()
    parts["worker"].start()

    until(lambda: states(lab, [lease]) == ["active"], "what was not written down is done by the next worker")


def submitted(callers: Callers, pool: str, keys: list[str]) -> list[str]:
    """Ask for a lease with each key, and return their ids: none is admitted yet."""
    asked = [callers.call("POST", "/leases", wanted(pool), key) for key in keys]
    answers = [answer for one in asked if isinstance(answer := one.result(), httpx.Response)]
    assert [(a.status_code, a.json()["state"]) for a in answers] == [(202, "submitted")] * len(keys)
    return [answer.json()["id"] for answer in answers]


def states(lab: Lab, leases: list[str]) -> list[str]:
    return sorted(lab.client.lease(lease)["state"] for lease in leases)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_whoever_waits_while_the_api_restarts_gets_an_answer_or_an_error(
    parts: Parts, lab: Lab, callers: Callers, number: signal.Signals
) -> None:
    pool = lab.pool()
    holder = lab.take(pool)
    keys = [uuid.uuid4().hex for _ in range(10)]
    leases = [lease_of(callers.ask("POST", "/leases", wanted(pool), key))["id"] for key in keys]
    waiting = [callers.call("GET", f"/leases/{lease}?wait=active&timeout=60") for lease in leases]
    waiting += [callers.call("POST", "/leases?wait=active&timeout=60", wanted(pool), key) for key in keys]
    # For all to have arrived, which nothing tells.
    time.sleep(0.5)
    assert not any(one.done() for one in waiting)

    before = parts["api"].starts
    parts["api"].signal(number)
    for one in waiting:
        answer = one.result(PATIENCE_S)
        assert isinstance(answer, httpx.TransportError) or is_refused(answer, "unavailable")
    until(lambda: parts["api"].starts > before, "the API is started again")
    parts.serves()

    again = [lease_of(callers.ask("POST", "/leases", wanted(pool), key))["id"] for key in keys]
    assert again == leases
    lab.client.release(holder["id"])
    assert lease_of(callers.ask("GET", f"/leases/{leases[0]}?wait=active&timeout=60"))["state"] == "active"
    for lease in reversed(leases):
        lab.client.cancel(lease)
    lab.all_free(pool)


@pytest.mark.parametrize("full", ["database", "everything"])
def test_with_a_full_disk_calls_are_refused_with_a_code_and_nothing_is_lost(
    nursery: Nursery, tmp_path: Path, full: str
) -> None:
    """`database`: Leasehold's own alone; `everything`: Temporal's too."""
    names = ("worker", "api") if full == "database" else ("temporal", "worker", "api")
    disk_folder = tmp_path / "small"
    with mounted(disk_folder) as small:
        if full == "database":
            names, stack = (
                NAMES[1:],
                Parts(tmp_path, nursery, LEASEHOLD_DATABASE_URL=f"sqlite:///{disk_folder}/main.db"),
            )
        else:
            names, stack = NAMES, Parts(tmp_path, nursery, data=disk_folder / "data")
        stack.start()
        callers, lab = Callers(stack), Lab(stack, tmp_path)
        try:
            fill_and_free(lab, callers, disk(disk_folder, small, [stack[name].pid for name in names]))
            assert [stack[name].starts for name in NAMES] == [1, 1, 1], "every process has outlived it"
        finally:
            lab.close()
            callers.close()
            stack.close()


def fill_and_free(lab: Lab, callers: Callers, disk: Disk) -> None:
    pool, key = lab.pool(2, deliver="echo key"), uuid.uuid4().hex
    held, wished = lab.take(pool), wanted(pool)

    disk.fill()
    asked = callers.call("POST", "/leases", wished, key)
    extended = callers.call("POST", f"/leases/{held['id']}/extend", {"by": "1h"})
    marked = callers.call("POST", f"/pools/{pool}/resources/r1/offline", {"reason": "moving"})
    is_refused(marked.result(), "unavailable")
    is_refused(extended.result(), "unavailable")
    taken = asked.result()
    assert isinstance(taken, httpx.Response)
    # What Temporal could write down is kept; the lease is admitted once there is space.
    assert taken.status_code == 202 or is_refused(taken, "unavailable")
    assert lab.look(held)["state"] == "active"

    disk.free()
    until(lambda: state_of(callers.call("POST", "/leases", wished, key).result()) == "active", "the request is served")
    lab.client.offline(pool, "r1", "moving")
    assert [r["lease"] for r in lab.client.resources(pool=pool)].count(held["id"]) == 1
    assert len(list(lab.client.leases(pool=pool))) == 2
    for lease in lab.client.leases(pool=pool):
        lab.client.release(lease["id"])
        assert lab.comes_to(lease, "ended")["outcome"] == "released"
    lab.all_free(pool)


def is_refused(answer: Answer, code: str) -> bool:
    assert isinstance(answer, httpx.Response), repr(answer)
    assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
    return True


def state_of(answer: Answer) -> str | None:
    if isinstance(answer, httpx.Response) and answer.is_success:
        return str(answer.json()["state"])
    return None
