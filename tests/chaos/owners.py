"""People and pipelines who want leases, each with a plan, and none of whom gives up while something is down."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

import httpx

from leasehold.answers import ItemRequest, Lease
from leasehold.client import Client
from leasehold.errors import LeaseNotActive, Unavailable
from leasehold.wire import Wire

T = TypeVar("T")

_PAUSE_S = 0.2
HEARTBEAT = "60s"
_BEAT_EVERY_S = 2.0


class Way(StrEnum):
    """What becomes of a lease if nothing goes wrong."""

    RELEASE = "release"
    EXTEND = "extend, then release"
    EXPIRE = "let it expire"
    CANCEL = "cancel it at once"
    FALL_SILENT = "send no heartbeat"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One lease that somebody will ask for, `at` seconds after the beginning, and hold for `hold_s`."""

    key: str
    at: float
    items: list[ItemRequest]
    way: Way
    hold_s: float
    interrupted: bool
    heartbeat: str | None
    """How often somebody must be heard of, who is, unless this is to be lost."""


def plans(chance: random.Random, leases: int, pools: list[str], seconds: float) -> list[Plan]:
    """So many plans, spread over the time."""
    made = []
    for number in range(leases):
        wanted = chance.sample(pools, chance.choices((1, 2), (5, 1))[0])
        way = chance.choices(list(Way), (6, 2, 2, 2, 1))[0]
        beats = way is Way.FALL_SILENT or chance.random() < 0.3
        made.append(
            Plan(
                key=f"chaos-{number}",
                at=chance.uniform(0, seconds * 0.9),
                items=[{"pool": pool, "count": chance.choices((1, 2, 3), (6, 2, 1))[0]} for pool in wanted],
                way=way,
                hold_s=chance.uniform(0.1, 4),
                interrupted=chance.random() < 0.2,
                heartbeat=None if not beats else "2s" if way is Way.FALL_SILENT else HEARTBEAT,
            )
        )
    return sorted(made, key=lambda plan: plan.at)


@dataclass(frozen=True)
class Possession:
    """What a holder saw: that a resource was its own from one time to another."""

    resource: str
    lease: str
    since: float
    until: float


@dataclass
class Seen:
    """What all owners saw."""

    leases: dict[str, str] = field(default_factory=dict)
    """The lease of each plan's key."""
    waited_s: list[float] = field(default_factory=list)
    possessions: list[Possession] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Owner:
    """Carries plans out, one after another."""

    def __init__(self, url: str, token: str, seen: Seen, patience_s: float) -> None:
        self._url, self._token = url, token
        self._seen = seen
        self._patience_s = patience_s
        self._client = Client(url, token, patience=timedelta(seconds=10))
        answer = timedelta(seconds=10)
        self._wire = Wire(url, token, transport=None, timeout=answer, patience=answer)

    def carry_out(self, plan: Plan) -> None:
        """Ask for the lease, hold it, and have it end; whatever must not be is noted."""
        try:
            self._live(plan)
        except Exception as error:
            with self._seen.lock:
                self._seen.problems.append(f"{plan.key} ({plan.way}, {self._seen.leases.get(plan.key)}): {error!r}")

    def _live(self, plan: Plan) -> None:
        begun = time.monotonic()
        if plan.interrupted:
            self._ask_and_hang_up(plan)
        lease = self._ask(plan)["id"]
        if plan.way is Way.CANCEL:
            self._again(lambda: self._client.cancel(lease))
        elif plan.way is not Way.FALL_SILENT:
            with self._beating(plan, lease):
                found = self._comes_to(lease, "active")
                if found["state"] == "active":
                    with self._seen.lock:
                        self._seen.waited_s.append(time.monotonic() - begun)
                    self._hold(plan, found)
        outcome = self._comes_to(lease, "ended")["outcome"]
        assert outcome != "lost" or plan.way is Way.FALL_SILENT, "it was lost although its holder was heard of"
        assert outcome in {"lost", "failed"} or plan.way is not Way.FALL_SILENT, f"nobody was there, and it {outcome}"

    @contextmanager
    def _beating(self, plan: Plan, lease: str) -> Iterator[None]:
        """Be heard of for as long as the block runs, where the plan is so."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_EVERY_S):
                try:
                    self._wire.call("POST", "leases", lease, "heartbeat", repeatable=True)
                    self._count("heartbeats")
                except Unavailable:
                    self._count("heartbeats that failed")
                except LeaseNotActive:
                    return

        thread = threading.Thread(target=beat)
        if plan.heartbeat is not None:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if plan.heartbeat is not None:
                thread.join()

    def _ask(self, plan: Plan) -> Lease:
        lease: Lease = self._again(lambda: self._wire.call("POST", "leases", json=_body(plan), key=plan.key))
        with self._seen.lock:
            before = self._seen.leases.setdefault(plan.key, lease["id"])
        assert before == lease["id"], f"the same key gave {before}, then {lease['id']}"
        return lease

    def _ask_and_hang_up(self, plan: Plan) -> None:
        """Send the request, and do not wait for what comes."""
        headers = {"Authorization": f"Bearer {self._token}", "Idempotency-Key": plan.key}
        try:
            timeout = httpx.Timeout(5, read=0.02)
            httpx.post(f"{self._url}/v1/leases", json=_body(plan), headers=headers, timeout=timeout, trust_env=False)
        except httpx.HTTPError:
            self._count("requests interrupted")

    def _hold(self, plan: Plan, lease: Lease) -> None:
        since, name = time.time(), lease["id"]
        if plan.way is Way.EXPIRE:
            assert lease["expires_at"] is not None
            until = datetime.fromisoformat(lease["expires_at"]).timestamp()
        else:
            time.sleep(plan.hold_s)
            if plan.way is Way.EXTEND:
                self._extend(plan, name)
            until = time.time()
        # What failed and was replaced is listed too, as released.
        held = [r for r in lease["resources"] if r["state"] == "ready"]
        mine = [Possession(f"{r['pool']}/{r['name']}", name, since, until) for r in held]
        with self._seen.lock:
            self._seen.possessions += mine
        if plan.way is not Way.EXPIRE:
            self._again(lambda: self._client.release(name))

    def _extend(self, plan: Plan, lease: str) -> None:
        try:
            self._again(lambda: self._client.extend(lease, by="1h", idempotency_key=f"{plan.key}-extend"))
        except LeaseNotActive:
            self._count("extensions refused while a workflow was behind its record")

    def _comes_to(self, lease: str, state: str) -> Lease:
        return self._again(lambda: self._client.wait_for(lease, state))

    def _again(self, call: Callable[[], T]) -> T:
        """Make a call again and again until it is answered."""
        end = time.monotonic() + self._patience_s
        while True:
            try:
                return call()
            except Unavailable:
                self._count("calls repeated")
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE_S)

    def _count(self, what: str) -> None:
        with self._seen.lock:
            self._seen.counts[what] += 1

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._wire.close()


def _body(plan: Plan) -> dict[str, object]:
    duration = "2s" if plan.way is Way.EXPIRE else "1h"
    return {"items": plan.items, "duration": duration, "description": plan.way, "heartbeat": plan.heartbeat}


def repair(client: Client, over: threading.Event, counts: Counter[str]) -> None:
    """What operators do: bring back every resource that broke, until it is over."""
    while not over.wait(_PAUSE_S):
        try:
            broken: list[Any] = list(client.resources(state="broken"))
            for resource in broken:
                client.repair(resource["pool"], resource["name"])
                counts["repairs"] += 1
        except Exception:
            counts["repairs that failed"] += 1
