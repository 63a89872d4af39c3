"""`python -m tests.chaos`: leases whose hooks fail at random, while worker and API are killed at random.

Exits with status 1 if anything was lent twice, leaked or lost, or any other rule was broken, and says which.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, create_engine
from temporalio.client import Client as Temporal
from temporalio.service import RPCError

from leasehold.client import Client
from tests.chaos.owners import Owner, Plan, Seen, plans, repair
from tests.chaos.verdict import Verdict, judge
from tests.faults import audit
from tests.faults.hooklog import HookLog
from tests.faults.nursery import Nursery
from tests.faults.parts import Parts

OWNERS = 60
POOLS = 4
STAGES = ("wipe", "provision", "validate", "deliver", "release")
ATTEMPTS = 2
FAILS = 20
"""Of a hundred runs of hooks."""
SWEEP_EVERY_S = 10
SLOTS = 4
"""How many hooks of one stage may run at once in the pool that has a limiter."""
PATIENCE_S = 180.0
"""After the chaos, for everything to come to its end."""
LEFT_BEHIND_S = 30.0
_KILLED = (["worker"], ["worker"], ["api"], ["worker", "api"])


def main() -> int:
    """Cause the chaos, print the figures, and say what was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long processes are killed (%(default)s)")
    parser.add_argument("--leases", type=int, default=500, help="how many are asked for meanwhile (%(default)s)")
    parser.add_argument("--resources", type=int, default=40, help="in four pools (%(default)s)")
    parser.add_argument("--every", type=float, default=8, help="seconds from kill to kill, on average (%(default)s)")
    parser.add_argument("--seed", type=int, help="of everything that is chosen at random; a new one unless given")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"{options.leases} leases over {options.resources} resources, kills for {options.seconds:g} s, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, Nursery() as nursery:
        parts = Parts(Path(folder), nursery, LEASEHOLD_SWEEP_EVERY=f"{SWEEP_EVERY_S}s")
        try:
            parts.start()
            verdict = _Chaos(parts, Path(folder), seed, options).run()
        finally:
            parts.close()
    print("\n".join(verdict.lines))
    for violation in verdict.violations:
        print(f"VIOLATION {violation}")
    return 1 if verdict.violations else 0


class _Chaos:
    def __init__(self, parts: Parts, folder: Path, seed: int, options: argparse.Namespace) -> None:
        self._parts = parts
        self._folder = folder
        self._options = options
        self._hooks = HookLog(folder)
        self._plans, self._kills = random.Random(f"{seed} plans"), random.Random(f"{seed} kills")
        self._seed = seed
        self._over = threading.Event()

    def run(self) -> Verdict:
        """Let it happen, wait for the end of everything, and judge."""
        seen, parts = Seen(), self._parts
        with parts.client() as admin, ThreadPoolExecutor(2) as others:
            wanted = plans(self._plans, self._options.leases, self._make_pools(admin), self._options.seconds)
            begun = time.monotonic()
            jobs = [others.submit(repair, admin, self._over, seen.counts), others.submit(self._kill, begun)]
            self._live(wanted, seen, begun)
            jobs[1].result()
            self._settle()
            self._over.set()
            jobs[0].result()
            unfinished = asyncio.run(self._unfinished(seen))
            with self._database() as connection:
                verdict = judge(connection, seen, self._hooks.faults, unfinished)
        restarts = {f"{name} restarted": f"{parts[name].starts - 1} times" for name in ("worker", "api")}
        took = {"all over after": f"{time.monotonic() - begun:.0f} s"}
        verdict.figures = {**restarts, **took, **verdict.figures}
        return verdict

    def _make_pools(self, admin: Client) -> list[str]:
        names = [f"pool{n}" for n in range(POOLS)]
        hook = {"run": self._hooks.hook(self._body()), "timeout": "30s", "attempts": ATTEMPTS}
        stages = {stage: hook for stage in STAGES}
        special: list[dict[str, object]] = [
            {},
            {"policy": {"prepare": "ahead"}},
            {"provision": {**hook, "limit": "slots"}},
            {"configure": {**hook, "scope": "lease"}, "policy": {"warn_before": ["1s"], "grace": "1s"}},
        ]
        for index, (name, more) in enumerate(zip(names, special, strict=True)):
            hosts = range(index, self._options.resources, POOLS)
            pool = {"name": name, "resources": [{"name": f"host{n}"} for n in hosts], **stages, **more}
            limits = {"slots": SLOTS} if "provision" in more else {}
            admin.apply({"name": name, "limits": limits, "pools": [pool]}, folder=str(self._folder))
        return names

    def _body(self) -> str:
        """A hook that takes up to a second, and fails as the seed and the run will have it."""
        about = f"{self._seed} $LEASEHOLD_RESOURCE $LEASEHOLD_EPOCH $LEASEHOLD_STAGE $LEASEHOLD_ATTEMPT"
        return f"""
            chance=$(echo "{about}" | cksum | cut -d' ' -f1)
            sleep 0.$((chance / 100 % 10))
            echo "this takes 0.$((chance / 100 % 10)) s"
            if [ $((chance % 100)) -lt {FAILS} ]; then echo "end $who" >>ledger; exit 1; fi
        """

    def _kill(self, begun: float) -> None:
        """Kill this or that process again and again, until the time is over."""
        every = self._options.every
        while True:
            time.sleep(self._kills.uniform(0.2 * every, 1.8 * every))
            if time.monotonic() - begun > self._options.seconds:
                return
            for name in self._kills.choice(_KILLED):
                self._parts[name].kill()

    def _live(self, wanted: Sequence[Plan], seen: Seen, begun: float) -> None:
        parts, owners = self._parts, threading.local()

        def work(plan: Plan) -> None:
            time.sleep(max(0.0, begun + plan.at - time.monotonic()))
            if not hasattr(owners, "own"):
                owners.own = Owner(parts.url, parts.token, seen, self._options.seconds + PATIENCE_S)
            owners.own.carry_out(plan)

        with ThreadPoolExecutor(OWNERS) as pool:
            list(pool.map(work, wanted))

    def _settle(self) -> None:
        """Wait until the record is at rest, or for as long as patience lasts: the verdict says what is left."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with self._database() as connection:
                if not audit.faults(connection):
                    return
            time.sleep(0.5)

    async def _unfinished(self, seen: Seen) -> list[str]:
        """The workflows that are open after all patience."""
        temporal = await Temporal.connect(self._parts.temporal_address)
        with self._database() as connection:
            left = [*seen.leases.values(), *audit.recyclings(connection)]
        begun, told = time.monotonic(), False
        while left and time.monotonic() - begun < PATIENCE_S:
            left = [name for name in left if await audit.unfinished(temporal, [name])]
            if left and not told and time.monotonic() - begun > LEFT_BEHIND_S:
                told = True
                seen.counts["workflows that had to be told that they are over"] += await _tell(temporal, left)
            await asyncio.sleep(0.5 if left else 0)
        return await audit.unfinished(temporal, left)

    @contextmanager
    def _database(self) -> Iterator[Connection]:
        engine = create_engine(f"sqlite:///{self._parts.data / 'leasehold.db'}")
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()


async def _tell(temporal: Temporal, workflows: Sequence[str]) -> int:
    """Signal leases that do not know that their records have ended, as the sweep does after ten minutes; say how many.

    What ended such a lease was an update, which is in Temporal's memory alone until its workflow accepts it: the worker
    had done the work, and died before it could say so, and so did the API, which would have asked again.
    """
    told = 0
    for name in workflows:
        with suppress(RPCError):
            await temporal.get_workflow_handle(name).signal("cancel")
            told += 1
    return told


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the Temporal client outlive the interpreter, which crashes some of its exits.
    os._exit(status)
