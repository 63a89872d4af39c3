"""How leases and their parts are put into words, for progress, tables and stories alike."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from leasehold.answers import Degraded, Delivered, ItemRequest, Lease, LeasedResource
from leasehold.cli import commandwords
from leasehold.model import OVER


def name_of(lease: Lease) -> str:
    """What a person calls a lease: its number, or its id as long as it has none."""
    return lease["id"] if lease["number"] is None else str(lease["number"])


def resource_name(resource: LeasedResource | Delivered) -> str:
    """`pool/name`."""
    return f"{resource['pool']}/{resource['name']}"


def standing(lease: Lease) -> str:
    """How a lease stands: `queued, position 2: needs 2 of lab, 1 is free`, or `ended: expired`."""
    if lease["queue"] is not None:
        # What waits for a repair, or for a worker, waits in no queue.
        place = f", position {lease['queue']['position']}" if lease["queue"]["position"] else ""
        return f"{lease['state']}{place}: {lease['queue']['reason']}"
    if lease["in_grace"]:
        return f"active, in grace since {moment(lease['expires_at'])}"
    if lease["state"] == "active" and lease["command"] is not None:
        return f"active: {commandwords.doing(lease['command'])}"
    if lease["state"] == "active" and lease["expires_at"] is not None:
        return f"active until {moment(lease['expires_at'])}"
    if lease["outcome"] is None:
        return lease["state"]
    why = f" ({lease['error']['code']}): {lease['error']['detail']}" if lease["error"] else ""
    return f"{lease['state']}: {lease['outcome']}{why}"


def degraded(one: Degraded) -> str:
    """A resource that fails its livechecks: `vm/vm-3: livecheck: exited with status 1 (since …)`."""
    return f"{one['pool']}/{one['name']}: {one['reason']} (since {exact(one['since'])})"


def held(lease: Lease) -> list[LeasedResource]:
    """What a lease has, or, once it is over, what it had: not what was replaced or given back before."""
    over = lease["state"] in OVER
    return [resource for resource in lease["resources"] if over or resource["state"] != "released"]


def on_their_way(lease: Lease) -> list[LeasedResource]:
    """The resources whose stages are worth watching: all of a lease that is being prepared, else what was added."""
    if lease["state"] == "preparing":
        return lease["resources"]
    return [
        resource for resource in lease["resources"] if lease["state"] == "active" and resource["state"] == "preparing"
    ]


def parting(lease: Lease) -> str:
    """How a lease stands that was told to end: without a worker it will only later."""
    if lease["state"] in ("releasing", "ended"):
        return standing(lease)
    return "will end as soon as a worker hears of it"


def step(resource: LeasedResource) -> str:
    """Where a resource is on its way to its holder: `wipe, attempt 1`, or `ready`."""
    if resource["stage"] is None:
        return resource["state"]
    return resource["stage"] if resource["attempt"] is None else f"{resource['stage']}, attempt {resource['attempt']}"


def wanted(items: Iterable[ItemRequest]) -> str:
    """What was asked for: `2 lab, 1 vm`."""
    return ", ".join(f"{item.get('count', 1)} {item.get('pool') or 'of any pool'}" for item in items)


def moment(text: str | None) -> str | None:
    """A time of the API without fractions of a second, with how far away it is if it is to come."""
    short = exact(text)
    if text is None:
        return None
    left = datetime.fromisoformat(text) - datetime.now(UTC)
    return f"{short} (in {rough(left)})" if left > timedelta(0) else short


def exact(text: str | None) -> str | None:
    """A time of the API without fractions of a second."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """How long something took: `0.4s`, `12s`, `1h 2m 3s`."""
    return f"{seconds:.1f}s" if seconds < 9.95 else rough(timedelta(seconds=seconds))


def rough(left: timedelta) -> str:
    """A duration to about a hundredth: days and hours do not need their seconds."""
    unit = 3600 if left >= timedelta(days=4) else 60 if left >= timedelta(hours=2) else 1
    seconds = max(1, round(left.total_seconds() / unit) * unit)
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    return " ".join(f"{count}{letter}" for count, letter in parts if count)
