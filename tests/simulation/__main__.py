"""`python -m tests.simulation`: 75 hosts, three requests of 25 at once, in virtual time; prints when each is delivered.

Without options it plays both plans that the documents tell of, and draws their pictures beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from tests import temporal
from tests.simulation.bound import earliest
from tests.simulation.chart import draw
from tests.simulation.lab import simulate
from tests.simulation.plan import AS_ASKED, WITH_ROOM, Plan

_PICTURES = Path(__file__).parents[2] / "docs" / "why"


def main() -> int:
    """Play what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--hosts", type=int, default=AS_ASKED.hosts, help="in the pool (%(default)s)")
    parser.add_argument("--requests", type=int, default=AS_ASKED.requests, help="that come at once (%(default)s)")
    parser.add_argument("--each", type=int, default=AS_ASKED.each, help="how many hosts each wants (%(default)s)")
    parser.add_argument("--slots", type=int, default=AS_ASKED.slots, help="of the provisioner (%(default)s)")
    parser.add_argument("--seed", type=int, default=AS_ASKED.seed, help="of durations and failures (%(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("simulation.svg"), help="where to draw it (%(default)s)")
    options = vars(parser.parse_args())
    picture = options.pop("picture")
    plays = [(Plan(**options), picture)]
    if len(sys.argv) == 1:
        plays = [(plan, _PICTURES / f"delivery-with-{plan.slots}-slots.svg") for plan in (AS_ASKED, WITH_ROOM)]
    with temporal.server() as address:
        for plan, picture in plays:
            _play(plan, address, picture)
    return 0


def _play(plan: Plan, address: str, picture: Path) -> None:
    print(f"{plan.hosts} hosts, {plan.slots} slots, {plan.requests} requests of {plan.each} at once, seed {plan.seed}")
    with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
        delivered = asyncio.run(simulate(plan, address, Path(folder)))
    for one, bound in zip(delivered, earliest(plan, delivered), strict=True):
        broken = [event for event in one.events if event.kind == "resource_broken"]
        failed = sum(not run.ok for run in one.runs)
        print(
            f"  lease {one.lease.number}: delivered after {_minutes(one.after)}, at the earliest {_minutes(bound)}"
            f" ({one.after / bound:.2f} x); runs of hooks {len(one.runs)}, failed {failed}, hosts broken {len(broken)}"
        )
    draw(plan, delivered, picture)
    print(f"  drawn in {os.path.relpath(picture)}")


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.1f} min"


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Threads of the Temporal client outlive the interpreter, which crashes some of its exits.
    os._exit(status)
