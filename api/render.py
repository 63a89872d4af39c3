"""Records as JSON: the one place where the shapes of answers are made."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from leasehold import durations
from leasehold.access import Scopes, Token, User
from leasehold.links import workflow_link
from leasehold.messages import SubmitLease
from leasehold.model import (
    Alert,
    Change,
    Delivery,
    Event,
    Forced,
    Hook,
    Item,
    Lease,
    Offline,
    Opening,
    Paused,
    Policy,
    Pool,
    PoolSpec,
    QueuePlace,
    Quota,
    Resource,
    Run,
    SelfService,
)
from leasehold.ports import Availability, SelfServiceState


def time(value: datetime | None) -> str | None:
    """A time as RFC 3339 in UTC."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if value else None


class Leases:
    """Leases, with their links into Temporal's UI."""

    def __init__(self, ui: str, namespace: str) -> None:
        self._ui, self._namespace = ui, namespace

    def lease(self, lease: Lease) -> dict[str, Any]:
        """A lease as the API shows it."""
        return {
            "id": lease.id,
            "number": lease.number,
            "state": lease.state,
            "outcome": lease.outcome,
            "error": asdict(lease.error) if lease.error else None,
            "owner": lease.owner,
            "cc": lease.cc,
            "description": lease.description,
            "items": [item(i) for i in lease.items],
            "resources": [asdict(r) for r in lease.resources],
            "queue": queue(lease.queue) if lease.queue else None,
            "priority": lease.priority,
            "ticket": lease.ticket,
            "created_at": time(lease.created_at),
            "start_at": time(lease.start_at),
            "active_at": time(lease.active_at),
            "expires_at": time(lease.expires_at),
            "in_grace": lease.in_grace,
            "heartbeat_by": time(lease.heartbeat_by),
            "ended_at": time(lease.ended_at),
            "command": None,
            "unverified": lease.unverified,
            "temporal_url": self._url(lease.id, lease.run_id),
        }

    def submitted(self, request: SubmitLease, run_id: str, started_at: datetime) -> dict[str, Any]:
        """A lease whose workflow exists, and that no worker has admitted yet."""
        return {
            "id": request.lease,
            "number": None,
            "state": "submitted",
            "outcome": None,
            "error": None,
            "owner": request.owner,
            "cc": request.cc,
            "description": request.description,
            "items": [item(i) for i in request.items],
            "resources": [],
            "queue": None,
            "priority": request.priority,
            "ticket": request.ticket,
            "created_at": time(started_at),
            "start_at": time(request.start_at),
            "active_at": None,
            "expires_at": None,
            "in_grace": False,
            "heartbeat_by": None,
            "ended_at": None,
            "command": None,
            "unverified": request.unverified,
            "temporal_url": self._url(request.lease, run_id),
        }

    def _url(self, lease: str, run_id: str) -> str:
        return workflow_link(self._ui, self._namespace, lease, run_id)


def queue(place: QueuePlace) -> dict[str, Any]:
    """Where a waiting lease stands; `alternatives` is null where nobody asked for them."""
    others = place.alternatives
    return {
        "position": place.position,
        "reason": place.reason,
        "eta": time(place.eta),
        "alternatives": (
            None
            if others is None
            else [{"detail": one.detail, "items": [item(i) for i in one.items]} for one in others]
        ),
    }


def item(item: Item) -> dict[str, Any]:
    """An item as requested."""
    return {**asdict(item), "params": dict(item.params)}


def resource(resource: Resource) -> dict[str, Any]:
    """A resource as the API shows it."""
    broken = resource.broken
    return {
        "pool": resource.pool,
        "name": resource.name,
        "state": resource.state,
        "stage": resource.stage,
        "offline": mark(resource.offline),
        "broken": {"reason": broken.reason, "since": time(broken.since)} if broken else None,
        "lease": resource.lease,
        "epoch": resource.epoch,
        "tags": resource.tags,
        "properties": resource.properties,
    }


def mark(mark: Forced | Offline | Paused | None) -> dict[str, Any] | None:
    """What an operator marked something with."""
    return {"reason": mark.reason, "by": mark.by, "since": time(mark.since)} if mark else None


def available(found: Availability, count: int) -> dict[str, Any]:
    """What a new request for `count` resources could get now."""
    parts = [f"{pool} is paused: {why}" for pool, why in found.paused.items()]
    if found.free < count:
        parts.insert(0, f"{count} wanted, {found.free} of {found.total} free")
    if found.promised:
        first = min(promise.begins_at for promise in found.promised).astimezone(UTC)
        many = f"{len(found.promised)} promised to reservations"
        parts.append(f"{many}, the first from {first:%Y-%m-%dT%H:%M:%SZ}")
    parts += found.closed
    missing = "; ".join(parts) if found.free < count else None
    reason = f"nothing is granted: {found.suspended}" if found.suspended else missing
    return {
        "open": reason is None,
        "reason": reason,
        "free": found.free,
        "total": found.total,
        "next_free_at": time(found.next_free_at),
        "resources": [resource(r) for r in found.resources],
        "promised": [{**asdict(p), "begins_at": time(p.begins_at), "ends_at": time(p.ends_at)} for p in found.promised],
    }


def self_service(state: SelfServiceState) -> dict[str, Any]:
    """How self-service of a pool, or of the lab, stands."""
    forced = state.forced
    return {
        "pool": state.pool,
        "open": state.closed is None,
        "reason": state.closed,
        "forced": {"opening": forced.opening, **(mark(forced) or {})} if forced else None,
    }


def pool(pool: Pool) -> dict[str, Any]:
    """A pool as its file describes it, and how many of its resources are in which state."""
    return {
        **spec(pool.spec),
        "file": pool.file,
        "draining": pool.draining,
        "paused": mark(pool.paused),
        "total": pool.total,
        "free": pool.free,
        "states": pool.states,
        "waiting": pool.waiting,
    }


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
    }


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


def event(event: Event) -> dict[str, Any]:
    """An event as the API shows it."""
    return {**asdict(event), "at": time(event.at)}


def run(run: Run) -> dict[str, Any]:
    """A run of a hook as the API shows it."""
    return {
        "id": run.id,
        "lease": run.lease,
        "pool": run.pool,
        "resource": run.resource,
        "epoch": run.epoch,
        "stage": run.stage,
        "hook": run.hook,
        "attempt": run.attempt,
        "host": run.host,
        "started_at": time(run.started_at),
        "ended_at": time(run.ended_at),
        "seconds": run.seconds,
        "ending": run.ending,
        "code": run.code,
        "detail": run.detail,
        "ok": run.ok,
    }


def change(change: Change) -> dict[str, Any]:
    """A change to the inventory."""
    return asdict(change)


def alert(alert: Alert) -> dict[str, Any]:
    """What stands until somebody has seen to it."""
    return {"key": alert.key, "since": time(alert.since), "detail": alert.detail}


def delivery(lease: str, delivered: Sequence[Delivery]) -> dict[str, Any]:
    """What was delivered for each resource of a lease, and what is shared by all."""
    return {
        "lease": lease,
        "resources": [
            {"pool": one.pool, "name": one.name, "role": one.role, **_data(one.data)} for one in delivered if one.name
        ],
        "shared": [{"pool": one.pool, **_data(one.data)} for one in delivered if not one.name],
    }


def _data(printed: bytes) -> dict[str, str | None]:
    """What a hook printed: as text where it is some, and always as bytes."""
    try:
        text: str | None = printed.decode()
    except UnicodeDecodeError:
        text = None
    return {"data": text, "data_base64": b64encode(printed).decode()}


def scopes(scopes: Scopes) -> dict[str, Any]:
    """What narrows a token."""
    return asdict(scopes)


def token(token: Token) -> dict[str, Any]:
    """A token as the API shows it: nothing that it could be used by."""
    return {
        "id": token.id,
        "user": token.user,
        "role": token.role,
        "scopes": scopes(token.scopes),
        "label": token.label,
        "created_at": time(token.created_at),
        "created_by": token.created_by,
        "made_with": token.made_with,
        "expires_at": time(token.expires_at),
        "revoked_at": time(token.revoked_at),
        "revoked_by": token.revoked_by,
        "last_used_at": time(token.last_used_at),
    }


def user(user: User) -> dict[str, Any]:
    """A user as the API shows it."""
    return {
        "name": user.name,
        "role": user.role,
        "created_at": time(user.created_at),
        "created_by": user.created_by,
        "password_at": time(user.password_at),
        "disabled_at": time(user.disabled_at),
        "disabled_by": user.disabled_by,
    }
