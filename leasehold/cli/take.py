"""`leasehold take`: get resources and keep them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from leasehold.answers import Delivered, Delivery, Lease, Shared
from leasehold.cli import options
from leasehold.cli.claim import Claim
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit, of_wait
from leasehold.cli.output import note, one_line, print_json, say
from leasehold.cli.progress import progress
from leasehold.cli.request import LeaseRequest, lease_request, read_items
from leasehold.cli.signals import Interrupted, Signals
from leasehold.cli.words import moment, name_of, parting, resource_name
from leasehold.errors import LeaseholdError

if TYPE_CHECKING:
    from leasehold.client import Client

NoWait = Annotated[bool, typer.Option("--no-wait", help="Print the lease's number at once, and leave it queued.")]

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say what would be granted or promised, or when: 4 where it would wait."),
]


def take(
    pool: options.SomePool = None,
    count: options.Count = None,
    match: options.Match = None,
    tag: options.Tag = None,
    name: options.Name = None,
    role: options.Role = None,
    skip: options.Skip = None,
    item: options.ItemOption = None,
    duration: options.Duration = None,
    priority: options.Priority = None,
    description: options.Description = None,
    cc: options.Cc = None,
    start_at: options.StartAt = None,
    queue_timeout: options.QueueTimeout = None,
    wait_for_supply: options.WaitForSupply = False,
    share_key: options.ShareKey = None,
    notify: options.Notify = None,
    no_notify: options.NoNotify = False,
    secret: options.Secret = None,
    key: options.Key = None,
    heartbeat: options.Heartbeat = None,
    no_wait: NoWait = False,
    dry_run: DryRun = False,
    timeout: options.Timeout = None,
    as_json: options.Json = False,
) -> None:
    """Lease resources, wait until they are ready, and print them with what is needed to connect.

    Ctrl-C while it waits cancels the lease. At --timeout the lease stays queued. With --heartbeat it sends the
    heartbeats while it waits; after that they are yours to send.
    """
    items = read_items(pool, count, match, tag, name, role, skip, item)
    request = lease_request(
        items,
        duration=duration,
        priority=priority,
        description=description,
        cc=cc,
        heartbeat=heartbeat,
        start_at=start_at,
        queue_timeout=queue_timeout,
        wait_for_supply=wait_for_supply,
        share_key=share_key,
        notify=options.read_notify(notify, no_notify),
        secrets=options.read_secrets(secret),
        key=key,
    )
    if dry_run:
        raise typer.Exit(_try(request, as_json))
    with Signals(), connect() as client, Claim(client, request) as claim:
        try:
            if no_wait:
                status = _leave_queued(claim.submit(wait=False), as_json)
            else:
                status = _wait(client, claim, options.read_duration(timeout), as_json)
        except LeaseholdError:
            left = claim.what_is_left()
            if left and not as_json:
                note(left)
            raise
        except Interrupted:
            _give_back(claim)
            raise
    if heartbeat is not None and claim.lease is not None and claim.lease["state"] != "ended" and not as_json:
        note(f"To keep it: leasehold heartbeat {name_of(claim.lease)}, at least every {heartbeat} from now on")
    raise typer.Exit(status)


def _try(request: LeaseRequest, as_json: bool) -> int:
    """Say what would come of a request."""
    with connect() as client:
        lease = client.try_submit(**request.asked)
    place = lease["queue"]
    if as_json:
        print_json(lease)
    elif place is None:
        for resource in lease["resources"]:
            say(resource_name(resource))
    else:
        say(one_line(place["reason"]))
        if place["eta"] is not None:
            say(f"active about {moment(place['eta'])}")
        print_alternatives(lease)
    # A reservation that would be kept stands in no queue.
    return Exit.NOT_YET if place is not None and place["position"] else Exit.DONE


def print_alternatives(lease: Lease) -> None:
    """Print what could be had now instead of what a lease waits for."""
    place = lease["queue"]
    for other in (place and place["alternatives"]) or ():
        say(one_line(f"free now instead: {other['detail']}"))


def _leave_queued(lease: Lease, as_json: bool) -> int:
    if as_json:
        print_json(lease)
    else:
        say(name_of(lease))
    return Exit.DONE


def _wait(client: Client, claim: Claim, timeout: timedelta | None, as_json: bool) -> int:
    with progress(quiet=as_json) as show:
        lease = claim.wait(timeout, show)
    if lease["state"] != "active":
        if as_json:
            print_json(lease)
        elif lease["state"] != "ended":
            note(f"It stays as it is: leasehold wait {name_of(lease)}, or leasehold cancel {name_of(lease)}")
        return of_wait(lease, "active")
    _print_delivered(lease, client.delivery(lease["id"]), as_json)
    return Exit.DONE


def _print_delivered(lease: Lease, delivery: Delivery, as_json: bool) -> None:
    if as_json:
        print_json({**lease, "delivery": delivery})
        return
    print_delivery(delivery)
    note(f"To give it back: leasehold release {name_of(lease)}")


def print_delivery(delivery: Delivery) -> None:
    """Print each resource, and below it, indented, its access data; then what is for all of them."""
    for resource in delivery["resources"]:
        say(resource_name(resource))
        _print_data(resource)
    for shared in delivery["shared"]:
        say(f"{shared['pool']}, for the whole lease")
        _print_data(shared)


def _print_data(printed: Delivered | Shared) -> None:
    data = printed["data"]
    for line in (f"base64:{printed['data_base64']}" if data is None else data).splitlines():
        say(f"  {line}")


def _give_back(claim: Claim) -> None:
    try:
        lease = claim.give_back()
    except LeaseholdError as error:
        kept = f"lease {name_of(claim.lease)}" if claim.lease else "the lease"
        note(one_line(f"Interrupted, but {kept} could not be given back: {error.detail}"))
    else:
        note(one_line(f"Interrupted: lease {name_of(lease)} {parting(lease)}") if lease else "Interrupted")
