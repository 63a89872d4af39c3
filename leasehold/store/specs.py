"""Pool specs as JSON in the database, each version kept once, and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from datetime import timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Text, cast, insert, select

from leasehold.messages import PlannedHook, PlannedStage
from leasehold.model import Hook, Item, Policy, PoolSpec, StageName
from leasehold.store import tables as t
from leasehold.store.engine import Tx


def _plain(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def to_json(spec: PoolSpec) -> dict[str, Any]:
    """A spec as plain JSON; durations in seconds."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(spec), default=_plain))
    return plain


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


SPEC_TEXT = cast(t.specs.c.spec, Text)
"""A spec as text: what `from_text` takes."""


@lru_cache(maxsize=512)
def from_text(text: str) -> PoolSpec:
    """The spec that was stored as this text; each is read once."""
    plain = json.loads(text)
    policy = plain["policy"]
    return PoolSpec(
        name=plain["name"],
        description=plain["description"],
        priority=plain["priority"],
        folder=plain["folder"],
        stages={
            StageName(stage): tuple(
                Hook(
                    run=hook["run"] if isinstance(hook["run"], str) else tuple(hook["run"]),
                    driver=hook["driver"],
                    timeout=timedelta(seconds=hook["timeout"]),
                    attempts=hook["attempts"],
                )
                for hook in hooks
            )
            for stage, hooks in plain["stages"].items()
        },
        policy=Policy(
            default_duration=timedelta(seconds=policy["default_duration"]),
            max_duration=_span(policy["max_duration"]),
            max_total=_span(policy["max_total"]),
            on_release=tuple(StageName(s) for s in policy["on_release"]),
            keep_logs=timedelta(seconds=policy["keep_logs"]),
        ),
    )


def digest(plain: Any) -> str:
    """The same for the same content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def keep(tx: Tx, spec: PoolSpec) -> int:
    """Store a spec unless it is there, and return its id."""
    plain = to_json(spec)
    mark = digest(plain)
    found = tx.execute(
        select(t.specs.c.id).where(t.specs.c.pool == spec.name, t.specs.c.digest == mark)
    ).scalar_one_or_none()
    if found is None:
        found = tx.execute(
            insert(t.specs).values(pool=spec.name, digest=mark, spec=plain).returning(t.specs.c.id)
        ).scalar_one()
    kept: int = found
    return kept


def load(connection: Connection, ids: set[int]) -> dict[int, PoolSpec]:
    """Specs by id."""
    if not ids:
        return {}
    rows = connection.execute(select(t.specs.c.id, SPEC_TEXT.label("text")).where(t.specs.c.id.in_(ids)))
    return {row.id: from_text(row.text) for row in rows}


def of_pools(connection: Connection, pools: set[str]) -> dict[str, PoolSpec]:
    """The specs in force of the pools that exist among these."""
    rows = connection.execute(
        select(t.pools.c.name, SPEC_TEXT.label("text"))
        .join(t.specs, t.specs.c.id == t.pools.c.spec)
        .where(t.pools.c.name.in_(pools))
    )
    return {row.name: from_text(row.text) for row in rows}


def plan(spec: PoolSpec, stages: tuple[StageName, ...]) -> tuple[PlannedStage, ...]:
    """What of these stages the pool has hooks for."""
    return tuple(
        PlannedStage(
            stage=stage,
            hooks=tuple(PlannedHook(timeout_s=h.timeout.total_seconds(), attempts=h.attempts) for h in hooks),
        )
        for stage in stages
        if (hooks := spec.stages.get(stage))
    )


def items_to_json(items: tuple[Item, ...]) -> list[dict[str, Any]]:
    """A request's items as plain JSON."""
    return [{**asdict(i), "params": dict(i.params)} for i in items]


def items_from_json(plain: list[dict[str, Any]]) -> tuple[Item, ...]:
    """The items that `items_to_json` wrote."""
    return tuple(
        Item(
            pool=i["pool"],
            count=i["count"],
            match=tuple(i["match"]),
            tags=tuple(i["tags"]),
            names=tuple(i["names"]),
            role=i["role"],
            params=i["params"],
        )
        for i in plain
    )
