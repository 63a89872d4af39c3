"""Pool specs as JSON in the database, each version kept once, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Text, bindparam, cast, insert, select

from leasehold.messages import PlannedHook, PlannedStage
from leasehold.model import PREPARE_AHEAD, Hook, Item, PoolSpec, Scope, StageName
from leasehold.store import tables as t
from leasehold.store.engine import MEMO, Tx

_SPEC = TypeAdapter(PoolSpec)
_ITEMS = TypeAdapter(tuple[Item, ...])


def _plain(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def to_json(spec: PoolSpec) -> dict[str, Any]:
    """A spec as plain JSON; durations in seconds."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(spec), default=_plain))
    return plain


SPEC_TEXT = cast(t.specs.c.spec, Text)
"""A spec as text: what `from_text` takes."""
_BY_ID = select(t.specs.c.id, SPEC_TEXT.label("text")).where(t.specs.c.id.in_(bindparam("ids", expanding=True)))


@lru_cache(maxsize=512)
def from_text(text: str) -> PoolSpec:
    """The spec that was stored as this text; each is read once."""
    return _SPEC.validate_json(text)


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
    """Specs by id. A writing transaction reads each once: what a number stands for changes only between copies."""
    known = _known(connection)
    if new := ids - known.keys():
        known.update({row.id: from_text(row.text) for row in connection.execute(_BY_ID, {"ids": sorted(new)})})
    return {number: known[number] for number in ids if number in known}


def remember(connection: Connection, read: Iterable[tuple[int, PoolSpec]]) -> None:
    """Let a writing transaction know these specs by their ids, so that it need not read them."""
    _known(connection).update(read)


def _known(connection: Connection) -> dict[int, PoolSpec]:
    known: dict[int, PoolSpec] = connection.info.get(MEMO, {}).setdefault("specs", {})
    return known


def all_in_force(connection: Connection) -> dict[str, tuple[int, PoolSpec]]:
    """The settings of all pools that are in force, with their ids."""
    query = select(t.pools.c.name, t.specs.c.id, SPEC_TEXT.label("text")).join(t.specs, t.specs.c.id == t.pools.c.spec)
    return {row.name: (row.id, from_text(row.text)) for row in connection.execute(query)}


def has_pool(connection: Connection, pool: str) -> bool:
    """Whether there is a pool of this name."""
    return connection.execute(select(t.pools.c.name).where(t.pools.c.name == pool)).first() is not None


def in_force(connection: Connection, pool: str) -> tuple[int, PoolSpec]:
    """The settings of a pool that are in force, with their id."""
    spec_id: int = connection.execute(select(t.pools.c.spec).where(t.pools.c.name == pool)).scalar_one()
    return spec_id, load(connection, {spec_id})[spec_id]


def plan(spec: PoolSpec, stages: Iterable[StageName], scope: Scope = Scope.RESOURCE) -> tuple[PlannedStage, ...]:
    """What of these stages the pool has hooks for that are run once for each resource, or once for a lease."""
    hooks = {stage: planned(spec.stages.get(stage, ()), scope) for stage in stages}
    return tuple(PlannedStage(stage=stage, hooks=of) for stage, of in hooks.items() if of)


def planned(hooks: Iterable[Hook], scope: Scope = Scope.RESOURCE) -> tuple[PlannedHook, ...]:
    """What a workflow must know of those of these hooks that have a scope."""
    return tuple(
        PlannedHook(index=i, timeout_s=h.timeout.total_seconds(), attempts=h.attempts, limit=h.limit)
        for i, h in enumerate(hooks)
        if h.scope is scope
    )


def prepared_digest(spec: PoolSpec) -> str:
    """The same for specs that prepare a resource ahead in the same way."""
    stages = to_json(spec)["stages"]
    return digest({stage: stages.get(stage) for stage in PREPARE_AHEAD})


def items_to_json(items: tuple[Item, ...]) -> list[dict[str, Any]]:
    """A request's items as plain JSON."""
    return [{**asdict(i), "params": dict(i.params)} for i in items]


ITEMS_TEXT = cast(t.leases.c.wanted, Text)
"""A request's items as text: what `items_from_text` takes."""


@lru_cache(maxsize=4096)
def items_from_text(text: str) -> tuple[Item, ...]:
    """The items that were stored as this text; each is read once."""
    return _ITEMS.validate_json(text)


def items_from_json(plain: list[dict[str, Any]]) -> tuple[Item, ...]:
    """The items that `items_to_json` wrote."""
    return _ITEMS.validate_python(plain)
