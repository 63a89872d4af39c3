"""Records as JSON: here, and for pools in `render_pools`, the shapes of answers are made."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from leasehold.access import Scopes, Token, User
from leasehold.commands import Command, CommandEnding, CommandSpec, CommandState
from leasehold.links import workflow_link
from leasehold.messages import SubmitLease
from leasehold.model import (
    Alert,
    Change,
    Delivery,
    Event,
    Forced,
    Instance,
    Item,
    Lease,
    Offline,
    Paused,
    QueuePlace,
    Resource,
    Run,
    Runner,
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
            "command": command(lease.command),
            "on_end": lease.on_end,
            "on_end_reason": lease.on_end_reason,
            "unverified": lease.unverified,
            "share_key": lease.share_key,
            "degraded": [{**asdict(one), "since": time(one.since)} for one in lease.degraded],
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
            "command": submitted_command(request.command),
            "on_end": request.on_end,
            "on_end_reason": request.on_end_reason,
            "unverified": request.unverified,
            "share_key": request.share_key,
            "degraded": [],
            "temporal_url": self._url(request.lease, run_id),
        }

    def _url(self, lease: str, run_id: str) -> str:
        return workflow_link(self._ui, self._namespace, lease, run_id)


def command(one: Command | None) -> dict[str, Any] | None:
    """A lease's command as the API shows it; nothing of its environment but what it is called."""
    if one is None:
        return None
    signalled = one.ending is CommandEnding.SIGNALLED
    return {
        **_asked(one.spec),
        "account": one.account,
        "state": one.state,
        "reason": one.reason,
        "on": one.on,
        "attempt": one.attempt,
        "started": one.started,
        "started_at": time(one.started_at),
        "ended_at": time(one.ended_at),
        "result": one.ending,
        "exit_code": one.code if one.ending is CommandEnding.EXITED else None,
        "signal": one.code if signalled else None,
        "detail": one.detail,
        "output": {"limit": one.output_limit, "bytes": one.output_bytes, "dropped": one.dropped},
    }


def submitted_command(spec: CommandSpec | None) -> dict[str, Any] | None:
    """The command of a lease that no worker has admitted yet."""
    if spec is None:
        return None
    unknown = ("account", "reason", "on", "started_at", "ended_at", "result", "exit_code", "signal", "detail")
    return {
        **_asked(spec),
        **dict.fromkeys(unknown),
        "state": CommandState.WAITING,
        "attempt": 1,
        "started": False,
        "output": {"limit": None, "bytes": None, "dropped": None},
    }


def _asked(spec: CommandSpec) -> dict[str, Any]:
    return {
        "run": spec.argv[0] if spec.shell else list(spec.argv),
        "line": spec.line,
        "folder": spec.folder,
        "env": list(spec.variables),
        "runner": spec.runner,
        "labels": list(spec.labels),
        "timeout": spec.timeout,
        "retry": spec.retry,
    }


def runner(one: Runner) -> dict[str, Any]:
    """A runner as the API shows it."""
    return {
        "name": one.name,
        "labels": list(one.labels),
        "slots": one.slots,
        "used": one.used,
        "up": one.up,
        "hosts": [
            {**asdict(host), "seen_at": time(host.seen_at), "started_at": time(host.started_at)} for host in one.hosts
        ],
    }


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
        "suspect": resource.suspect,
        "kept_until": time(resource.kept_until),
        "instance": instance(resource.instance) if resource.instance else None,
    }


def instance(made: Instance) -> dict[str, Any]:
    """What is known of a resource that its pool has made."""
    return {
        "id": made.number,
        "id_in_pool": made.place,
        "counters": made.counters,
        "created_at": time(made.created_at),
        "ready_at": time(made.ready_at),
        "uses": made.uses,
        "trouble": made.trouble,
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
