"""Pools as JSON: their settings as a pools file has them, and how they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from api.render import mark, time
from leasehold import durations
from leasehold.model import Cadence, Growth, Hook, Opening, Policy, Pool, PoolSpec, Quota, SelfService, Size


def pool(pool: Pool) -> dict[str, Any]:
    """A pool as its file describes it, how many of its resources are in which state, and how it makes them."""
    return {
        **spec(pool.spec),
        "file": pool.file,
        "draining": pool.draining,
        "paused": mark(pool.paused),
        "drain": pool.emptied,
        "dynamic": pool.spec.dynamic,
        "total": pool.total,
        "free": pool.free,
        "states": pool.states,
        "waiting": pool.waiting,
        "statistics": statistics(pool, pool.growth) if pool.growth else None,
    }


def statistics(pool: Pool, growth: Growth) -> dict[str, Any]:
    """How creations in a dynamic pool go, and what there is of it costs."""
    return {
        "starts": growth.starts,
        "successes": growth.successes,
        "success_rate": growth.success_rate,
        "start_seconds": growth.start_s,
        "failures": growth.failures,
        "circuit": growth.circuit,
        "retry_at": time(growth.retry_at),
        "trouble": growth.trouble,
        "last_attempt_at": time(growth.last_attempt_at),
        "last_success_at": time(growth.last_success_at),
        "first_grant_seconds": growth.first_grant_s,
        "list_trouble": growth.list_trouble,
        "strays": growth.strays,
        "cost_per_hour": cost_per_hour(pool),
    }


def cost_per_hour(pool: Pool) -> float | None:
    """What all that exists of a pool costs, where the pool says what one of it does."""
    each = pool.spec.cost_per_hour
    return None if each is None else round(each * pool.total, 6)


def spec(spec: PoolSpec) -> dict[str, Any]:
    """A pool's settings as they would be written in its file."""
    return {
        "name": spec.name,
        "description": spec.description,
        "priority": spec.priority,
        "folder": spec.folder,
        "site": spec.site,
        "policy": _policy(spec.policy),
        "stages": {stage: [_hook(h) for h in hooks] for stage, hooks in spec.stages.items()},
        "admit": [_hook(h) for h in spec.admit],
        "notices": {name: asdict(channel) for name, channel in spec.notices.items()},
        "tags": _tags(spec.tags),
        "tags_on_demand": _tags(spec.tags_on_demand),
        "properties": spec.properties,
        "size": _fields(spec.size) if spec.dynamic else None,
        "name_pattern": spec.name_pattern if spec.dynamic else None,
        "named_counters": spec.named_counters,
        "livecheck": _fields(spec.livecheck) if spec.livecheck else None,
        "list": {"every": durations.render(spec.listing.every)} if spec.listing else None,
        "cost_per_hour": spec.cost_per_hour,
    }


def _tags(tags: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"name": name, "priority": priority} for name, priority in tags.items()]


def _fields(of: Size | Cadence) -> dict[str, Any]:
    return {name: _plain(value) for name, value in vars(of).items()}


def _hook(hook: Hook) -> dict[str, Any]:
    does = {"run": hook.run} if hook.driver == "command" else {hook.driver: hook.settings}
    return {
        **does,
        "timeout": durations.render(hook.timeout),
        "attempts": hook.attempts,
        "scope": hook.scope,
        "limit": hook.limit,
    }


def _policy(policy: Policy) -> dict[str, Any]:
    plain = {name: _plain(value) for name, value in vars(policy).items() if name != "deadlines"}
    return {
        **plain,
        "on_release": policy.after_release,
        "auto_extend_free": _share(policy.auto_extend_free),
        "self_service": _rule(policy.self_service) if policy.self_service else None,
    }


def _rule(rule: SelfService) -> dict[str, Any]:
    plain = {name: _plain(value) for name, value in vars(rule).items() if name not in {"free", "free_by"}}
    by = {path: _share(share) for path, share in rule.free_by.items()}
    weekly = rule.deadline
    return {
        **plain,
        "enabled": rule.enabled if rule.enabled is Opening.AUTO else rule.enabled is Opening.ON,
        "open_when": {"free": _share(rule.free), "free_by": by},
        "deadline": {"day": weekly.day, "at": f"{weekly.at:%H:%M}", "zone": weekly.zone} if weekly else None,
    }


def _share(share: float) -> str:
    return f"{share:.0%}"


def _plain(value: Any) -> Any:
    """Durations as people write them, alone or in a list, and quotas."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Quota):
        return asdict(value)
    return durations.render(value) if isinstance(value, timedelta) else value
