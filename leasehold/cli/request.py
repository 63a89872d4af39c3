"""What commands ask for that make a lease, read from their options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast
from uuid import uuid4

import typer

from leasehold.answers import ItemRequest

_REPEATABLE = {"match": "match", "tag": "tags", "name": "names", "skip": "skip"}


@dataclass(frozen=True, kw_only=True)
class LeaseRequest:
    """A lease to ask for. `key` makes it safe to ask again; with `heartbeat` it is lost when none comes for so long.

    `command` is run by a runner once the lease is active; `on_end` and its reason say what becomes of it then.
    """

    items: tuple[ItemRequest, ...]
    duration: str | None = None
    priority: int | None = None
    description: str | None = None
    cc: tuple[str, ...] = ()
    heartbeat: str | None = None
    start_at: str | None = None
    queue_timeout: str | None = None
    wait_for_supply: bool = False
    share_key: str | None = None
    notify: Sequence[str] | Literal[False] = ()
    command: Mapping[str, Any] | None = None
    on_end: str | None = None
    on_end_reason: str | None = None
    secrets: Mapping[str, str] | None = field(default=None, repr=False)
    key: str = field(default_factory=lambda: uuid4().hex)

    @property
    def asked(self) -> dict[str, Any]:
        """What the client is asked for, but for the key."""
        fields = {name: value for name, value in vars(self).items() if name != "key"}
        return fields


def lease_request(
    items: tuple[ItemRequest, ...],
    *,
    duration: str | None,
    priority: int | None,
    description: str | None,
    cc: Sequence[str] | None,
    heartbeat: str | None,
    start_at: str | None,
    queue_timeout: str | None,
    wait_for_supply: bool,
    share_key: str | None,
    notify: Sequence[str] | Literal[False],
    secrets: Mapping[str, str] | None,
    key: str | None,
) -> LeaseRequest:
    """Return the request for these items, with a key of its own unless one was given."""
    asked = LeaseRequest(
        items=items,
        duration=duration,
        priority=priority,
        description=description,
        cc=tuple(cc or ()),
        heartbeat=heartbeat,
        start_at=start_at,
        queue_timeout=queue_timeout,
        wait_for_supply=wait_for_supply,
        share_key=share_key,
        notify=notify,
        secrets=secrets,
    )
    return replace(asked, key=key) if key else asked


def read_items(
    pool: str | None,
    count: int | None,
    match: Sequence[str] | None,
    tags: Sequence[str] | None,
    names: Sequence[str] | None,
    role: str | None,
    skip: Sequence[str] | None,
    items: Sequence[str] | None,
) -> tuple[ItemRequest, ...]:
    """Return what to lease: several `--item`, or the one that the other options describe."""
    fields = {"pool": pool, "count": count, "match": match, "tags": tags, "names": names, "role": role, "skip": skip}
    one = {name: value for name, value in fields.items() if value not in (None, [])}
    if items and len(one) > 0:
        raise typer.BadParameter(
            "--item says all by itself; it cannot be mixed with a pool, -n, --match, --tag, --name, --role, --skip"
        )
    if items:
        return tuple(_read_item(text) for text in items)
    if not one.keys() & {"pool", "match", "tags", "names"}:
        raise typer.BadParameter("say what to lease: a pool, --match, --tag, --name or --item")
    return (cast(ItemRequest, {"count": len(names or ()) or 1, **one}),)


def _read_item(text: str) -> ItemRequest:
    """Read `pool=lab,count=2,match=disks.disk_type=nvme`, or a JSON object; the service checks what it says."""
    if text.lstrip().startswith("{"):
        try:
            return cast(ItemRequest, json.loads(text))
        except ValueError as error:
            raise typer.BadParameter(f"--item: {text!r} is not JSON: {error}") from error
    item: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key in _REPEATABLE and value:
            item.setdefault(_REPEATABLE[key], []).append(value)
        elif key in ("pool", "role") and value and key not in item:
            item[key] = value
        elif key == "count" and value.isascii() and value.isdecimal() and key not in item:
            item[key] = int(value)
        else:
            raise typer.BadParameter(
                f"--item: {part!r} is none of pool=, count=, role= (once each), match=, tag=, name=, skip=; "
                "a value with a comma needs the JSON form"
            )
    return cast(ItemRequest, {"count": len(item.get("names", ())) or 1, **item})
