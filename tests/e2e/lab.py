"""Pools made for one test, with hooks that write down what they do."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from leasehold.answers import Lease
from leasehold.errors import LeaseholdError
from tests.stack import Stack

PATIENCE_S = 40.0
"""No test says how fast something is; this only ends those that hang."""

ENOUGH = timedelta(seconds=PATIENCE_S)


def until(true: Callable[[], object], what: str) -> None:
    """Wait until something holds; fail with `what` was waited for if it never does."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"still not so after {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.1)


class Lab:
    """Pools and leases on one stack, and what their hooks wrote into `folder`."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.client = stack.client()
        self._leases: list[str] = []

    def close(self) -> None:
        """Cancel every lease of the test, so that no hook of it is in the way of the next one."""
        with contextlib.suppress(LeaseholdError):
            for lease in self._leases if self.stack.running else ():
                self.client.cancel(lease)
        self.client.close()

    def pool(self, resources: int = 1, policy: Mapping[str, Any] | None = None, **stages: str | dict[str, Any]) -> str:
        """Make a pool of `r0`, `r1`…; a stage is a line of shell, or a hook with its settings."""
        name = f"p{uuid.uuid4().hex[:8]}"
        pool: dict[str, Any] = {
            "name": name,
            "resources": [{"name": f"r{number}"} for number in range(resources)],
            "policy": {"default_duration": "10m", **(policy or {})},
            **{stage: self._hook(name, hook) for stage, hook in stages.items()},
        }
        self.client.apply({"name": name, "pools": [pool]}, folder=str(self.folder))
        return name

    def _hook(self, pool: str, hook: str | dict[str, Any]) -> dict[str, Any]:
        settings = {"run": hook} if isinstance(hook, str) else hook
        if "run" not in settings:
            return settings
        note = f'echo "$LEASEHOLD_STAGE $LEASEHOLD_RESOURCE $LEASEHOLD_ATTEMPT" >> {pool}.trace'
        return {"timeout": "2m", **settings, "run": f"{note}\n{settings['run']}"}

    def trace(self, pool: str) -> list[str]:
        """Stage, resource and attempt of every hook that started, in order."""
        file = self.folder / f"{pool}.trace"
        return file.read_text().splitlines() if file.exists() else []

    def take(self, pool: str, count: int = 1, *, duration: str = "10m", wait: str | None = "active") -> Lease:
        """Ask for a lease, and wait until it is active if nothing else is said."""
        items = [{"pool": pool, "count": count}]
        lease = self.client.submit(items, duration=duration, wait=wait, timeout=ENOUGH)  # type: ignore[arg-type]
        self._leases.append(lease["id"])
        if wait == "active":
            assert lease["state"] == "active", lease
        return lease

    def look(self, lease: Lease) -> Lease:
        """The lease as it is now."""
        return self.client.lease(lease["id"])

    def comes_to(self, lease: Lease, state: str) -> Lease:
        """Wait until the lease is active, or has ended, and return it."""
        found = self.client.wait_for(lease["id"], state, ENOUGH)
        assert found["state"] == state, found
        return found

    def story(self, lease: Lease) -> list[str]:
        """The kinds of the events of the lease itself, without those of its resources."""
        return [event["kind"] for event in self.client.events(lease["id"]) if event["kind"].startswith("lease_")]

    def all_free(self, pool: str) -> None:
        """Wait until every resource of a pool is free."""
        until(lambda: {r["state"] for r in self.client.resources(pool=pool)} == {"free"}, f"{pool} is free again")


class Gate:
    """A hook that holds until it is opened, and leaves a child that outlives it unless it is killed with it.

    It notes down each process of an earlier run that still lives when a later one begins.
    """

    def __init__(self, lab: Lab) -> None:
        self._name = f"gate{uuid.uuid4().hex[:8]}"
        self._folder = lab.folder

    @property
    def hook(self) -> str:
        """For the pools file."""
        lives = """test -n "$(tr -d '\\0' 2>/dev/null </proc/$pid/cmdline)" """
        return f"""
            for pid in $(cat {self._name}.pids 2>/dev/null); do {lives} && echo $pid >> {self._name}.overlaps; done
            sleep 1000 &
            echo $$ $! >> {self._name}.pids
            until test -e {self._name}.open; do sleep 0.1; done
        """

    def open(self) -> None:
        """Let it end."""
        (self._folder / f"{self._name}.open").touch()

    @property
    def runs(self) -> int:
        """How often it has started."""
        file = self._folder / f"{self._name}.pids"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def check_one_at_a_time(self) -> None:
        """Fail if anything of an earlier run was alive when a later one began."""
        file = self._folder / f"{self._name}.overlaps"
        assert not file.exists(), f"alive when the next run began: {file.read_text()}"
