"""Commands that give an active lease more, or take a part of it: `add`, `give-back`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from leasehold.answers import Delivery, Lease, LeasedResource
from leasehold.cli import options
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit
from leasehold.cli.output import note, one_line, print_json, say
from leasehold.cli.progress import progress
from leasehold.cli.request import read_items
from leasehold.cli.take import print_delivery
from leasehold.cli.words import name_of, resource_name, standing

if TYPE_CHECKING:
    from leasehold.client import Client

_FIRST_WAIT = timedelta(seconds=1)

NoWait = Annotated[bool, typer.Option("--no-wait", help="Print the names at once; the stages go on.")]


def add(
    lease: options.LeaseRef,
    pool: options.SomePool = None,
    count: options.Count = None,
    match: options.Match = None,
    tag: options.Tag = None,
    name: options.Name = None,
    role: options.Role = None,
    skip: options.Skip = None,
    item: options.ItemOption = None,
    no_wait: NoWait = False,
    timeout: options.Timeout = None,
    as_json: options.Json = False,
) -> None:
    """Give an active lease more resources, at once or not at all, wait until they are ready, and print them.

    What is added and fails its stages is taken out again, and the lease goes on. Ctrl-C leaves what was added.
    """
    items = read_items(pool, count, match, tag, name, role, skip, item)
    with connect() as client:
        before = client.lease(lease)
        grown = client.add(before["id"], items)
        added = {_key(one) for one in grown["resources"]} - {_key(one) for one in before["resources"]}
        if no_wait:
            _print_names(grown, added, as_json)
            return
        with progress(quiet=as_json) as show:
            grown = _wait(client, grown, added, options.read_duration(timeout), show)
        delivery = client.delivery(grown["id"])
    raise typer.Exit(_report(grown, added, delivery, as_json))


def give_back(lease: options.LeaseRef, resource: options.ResourceName, as_json: options.Json = False) -> None:
    """Give one of a lease's resources back, and keep the others; doing it twice does no harm."""
    with connect() as client:
        left = client.give_back(lease, *options.split_resource(resource))
    if as_json:
        print_json(left)
    else:
        say(one_line(f"Lease {name_of(left)}: {standing(left)}"))


def _key(resource: LeasedResource) -> tuple[str, str, int]:
    """One time that a lease has a resource."""
    return resource["pool"], resource["name"], resource["epoch"]


def _of(lease: Lease, keys: set[tuple[str, str, int]]) -> list[LeasedResource]:
    return [one for one in lease["resources"] if _key(one) in keys]


def _wait(
    client: Client,
    lease: Lease,
    added: set[tuple[str, str, int]],
    timeout: timedelta | None,
    show: Callable[[Lease], None],
) -> Lease:
    """Wait until all that was added is ready or taken out again, the lease is over, or the timeout."""
    show(lease)
    if _is_coming(lease, added):
        for found in client.watch(lease["id"], "ended", timeout=timeout, tick=_FIRST_WAIT):
            lease = found
            show(lease)
            if not _is_coming(lease, added):
                break
    return lease


def _is_coming(lease: Lease, added: set[tuple[str, str, int]]) -> bool:
    return any(one["state"] == "preparing" for one in _of(lease, added))


def _report(lease: Lease, added: set[tuple[str, str, int]], delivery: Delivery, as_json: bool) -> Exit:
    ready = {resource_name(one) for one in _of(lease, added) if one["state"] == "ready"}
    mine = [one for one in delivery["resources"] if resource_name(one) in ready]
    if as_json:
        print_json({**lease, "delivery": {**delivery, "resources": mine}})
    else:
        print_delivery({**delivery, "resources": mine})
    if _is_coming(lease, added):
        if not as_json:
            note(f"The rest is still being prepared: leasehold show {name_of(lease)}")
        return Exit.NOT_YET
    failed = [resource_name(one) for one in _of(lease, added) if one["state"] != "ready"]
    if failed and not as_json:
        note(one_line(f"Lease {name_of(lease)} is {standing(lease)}, without {', '.join(failed)}"))
    return Exit.LEASE_FAILED if failed else Exit.DONE


def _print_names(lease: Lease, added: set[tuple[str, str, int]], as_json: bool) -> None:
    if as_json:
        print_json(lease)
        return
    for resource in _of(lease, added):
        say(resource_name(resource))
