"""What hosts do in the simulation: how long each work takes on each of them, and which of them fail."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from leasehold.model import Hook, Policy, PoolSpec, ResourceSpec, Run, Scope, StageName

POOL = "metal"
LIMITER = "foreman"
ATTEMPTS = 2
MINUTE = timedelta(minutes=1)

WIPE, KICKSTART, FIRST_BOOT, REBOOT, VALIDATE, NETWORK = (
    "wipe",
    "kickstart",
    "first boot",
    "reboot",
    "validate",
    "network",
)
EACH = (WIPE, KICKSTART, FIRST_BOOT, REBOOT, VALIDATE)
"""What every host goes through, in this order; then comes the network, once for the lease."""
DURATIONS: Mapping[str, timedelta] = {
    WIPE: 5 * MINUTE,
    FIRST_BOOT: 4 * MINUTE,
    REBOOT: 4 * MINUTE,
    VALIDATE: 2 * MINUTE,
    NETWORK: MINUTE / 6,
}
"""All but the kickstart, which each host draws for itself."""
KICKSTARTS = (5 * MINUTE, 8 * MINUTE)
HARD = (WIPE, KICKSTART)
"""Where a host fails that fails for good: on its disks, its firmware, its network card."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A lab, the requests that come to it all at once, and what the seed has in store for them."""

    hosts: int = 75
    requests: int = 3
    each: int = 25
    slots: int = 10
    """How many hosts the provisioner serves at once."""
    seed: int = 49
    one_in_fails_once: int = 20
    one_in_fails_for_good: int = 40
    repair: timedelta = 10 * MINUTE
    """How long after its quarantine an operator has a host repaired."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The hosts."""
        return tuple(f"host{n:02}" for n in range(1, self.hosts + 1))

    def duration(self, host: str, work: str) -> timedelta:
        """How long a work takes on a host, each time; the network has no host."""
        return self._kickstarts[host] if work == KICKSTART else DURATIONS[work]

    def failures(self, host: str, work: str) -> int:
        """How often a work fails on a host before it succeeds, a repair counting as success."""
        where, times = self._failing.get(host, ("", 0))
        return times if where == work else 0

    @cached_property
    def _kickstarts(self) -> dict[str, timedelta]:
        draw = random.Random(f"{self.seed} kickstarts")
        shortest, longest = (round(span.total_seconds()) for span in KICKSTARTS)
        return {host: timedelta(seconds=draw.randint(shortest, longest)) for host in self.names}

    @cached_property
    def _failing(self) -> dict[str, tuple[str, int]]:
        """Where hosts fail, and how often: once, or as often as is tried until they are repaired."""
        draw = random.Random(f"{self.seed} failures")
        once, good = round(self.hosts / self.one_in_fails_once), round(self.hosts / self.one_in_fails_for_good)
        chosen = draw.sample(self.names, once + good)
        return {host: (draw.choice(EACH), 1) for host in chosen[:once]} | {
            host: (draw.choice(HARD), ATTEMPTS) for host in chosen[once:]
        }

    @property
    def pool(self) -> PoolSpec:
        """The pool, with what hosts go through as its hooks.

        Only the installation needs the provisioner: what boots from its own disk leaves the slot to the next host.
        """

        def hook(work: str, limit: str | None = None, scope: Scope = Scope.RESOURCE) -> Hook:
            return Hook(run=work, attempts=ATTEMPTS, limit=limit, scope=scope)

        return PoolSpec(
            name=POOL,
            stages={
                StageName.WIPE: (hook(WIPE),),
                StageName.PROVISION: (hook(KICKSTART, limit=LIMITER), hook(FIRST_BOOT)),
                StageName.CONFIGURE: (hook(REBOOT), hook(NETWORK, scope=Scope.LEASE)),
                StageName.VALIDATE: (hook(VALIDATE),),
            },
            policy=Policy(default_duration=timedelta(hours=24)),
        )

    def work(self, run: Run) -> str:
        """What a run of a hook was."""
        return str(self.pool.stages[StageName(run.stage)][run.hook].run)

    @property
    def has_spares(self) -> bool:
        """Whether there are more hosts than are asked for."""
        return self.hosts > self.requests * self.each

    @property
    def resources(self) -> tuple[ResourceSpec, ...]:
        """The hosts, as the pool has them."""
        return tuple(ResourceSpec(name=name) for name in self.names)


AS_ASKED = Plan()
"""A lab without a spare host, and one provisioner that serves ten."""
WITH_ROOM = Plan(hosts=80, slots=20)
"""The same with five spare hosts and twice the provisioner."""
