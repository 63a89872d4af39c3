"""History: how long a pool's stages take, by the last runs of its hooks that succeeded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

from sqlalchemy import Connection, bindparam, select

from leasehold.model import PREPARE, PoolSpec, StageName
from leasehold.store import tables as t

_LAST = 20
_RUNS = (
    select(t.runs.c.started_at, t.runs.c.ended_at)
    .where(
        t.runs.c.pool == bindparam("pool"),
        t.runs.c.stage == bindparam("stage"),
        t.runs.c.hook == bindparam("hook"),
        t.runs.c.ending == "exited",
        t.runs.c.code == 0,
    )
    .order_by(t.runs.c.id.desc())
    .limit(_LAST)
)


class History:
    """How long it takes to prepare and to clean a resource of a pool; nothing where no hook ever ran.

    `of` says which of the last durations counts: `statistics.median` for what is to be expected, `max` for what is to
    be relied on.
    """

    def __init__(
        self, connection: Connection, specs: Mapping[str, PoolSpec], of: Callable[[Sequence[float]], float]
    ) -> None:
        self._connection = connection
        self._specs = specs
        self._of = of
        self._known: dict[tuple[str, StageName], timedelta] = {}

    def preparing(self, pool: str) -> timedelta:
        """From a grant to its delivery."""
        spec = self._specs.get(pool)
        if spec is None:
            return timedelta(0)
        return self._all(spec, (StageName.DELIVER,) if spec.policy.prepares_ahead else PREPARE)

    def cleaning(self, pool: str) -> timedelta:
        """From the end of a lease to the next grant."""
        spec = self._specs.get(pool)
        return timedelta(0) if spec is None else self._all(spec, spec.policy.after_release)

    def occupying(self, pools: Iterable[str], duration: timedelta) -> timedelta:
        """How long a lease of these pools keeps its resources from others, from its grant on."""
        rests = [self.preparing(pool) + self.grace(pool) + self.cleaning(pool) for pool in pools]
        return duration + max(rests, default=timedelta(0))

    def grace(self, pool: str) -> timedelta:
        """How long a lease may keep what it has after its end."""
        spec = self._specs.get(pool)
        return (spec.policy.grace if spec else None) or timedelta(0)

    def _all(self, spec: PoolSpec, stages: Iterable[StageName]) -> timedelta:
        return sum((self._stage(spec, stage) for stage in stages if stage in spec.stages), timedelta(0))

    def _stage(self, spec: PoolSpec, stage: StageName) -> timedelta:
        key = (spec.name, stage)
        if key not in self._known:
            hooks = range(len(spec.stages[stage]))
            self._known[key] = sum((self._hook(spec.name, stage, hook) for hook in hooks), timedelta(0))
        return self._known[key]

    def _hook(self, pool: str, stage: StageName, hook: int) -> timedelta:
        rows = self._connection.execute(_RUNS, {"pool": pool, "stage": stage, "hook": hook}).all()
        took = [(row.ended_at - row.started_at).total_seconds() for row in rows]
        return timedelta(seconds=self._of(took)) if took else timedelta(0)
