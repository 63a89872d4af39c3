"""`leasehold run`: hold resources for as long as a command runs."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated

import typer

from leasehold.answers import Delivery, Lease
from leasehold.cli import options
from leasehold.cli.claim import Claim
from leasehold.cli.command import Command
from leasehold.cli.connect import api_url, connect
from leasehold.cli.exits import Exit
from leasehold.cli.output import note, one_line, print_error
from leasehold.cli.progress import progress
from leasehold.cli.request import LeaseRequest, lease_request, read_items
from leasehold.cli.signals import Signals
from leasehold.cli.words import held, moment, name_of, parting, standing
from leasehold.errors import LeaseholdError, LeaseNotActive, Unavailable

_LONGEST_VARIABLE = 128 * 1024
"""Linux refuses to start a program with a longer one (MAX_ARG_STRLEN, with name and final NUL)."""

_OUTAGE_PAUSE_S = 5

_HEARTBEAT = "60s"

NoHeartbeat = Annotated[
    bool, typer.Option("--no-heartbeat", help="Keep the lease until its end even if this command is killed.")
]


def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", show_default=False)],
    pool: options.PoolOption = None,
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
    no_heartbeat: NoHeartbeat = False,
    timeout: options.Timeout = None,
    as_json: options.Json = False,
) -> None:
    """Lease resources, run a command with them, release them, and exit with the command's own status.

    The command finds its resources in LEASEHOLD_RESOURCES and LEASEHOLD_DELIVERY. Signals are forwarded to it. It is
    stopped with SIGTERM when the lease ends before it. 128+n: signal n ended it; 125: Leasehold itself failed. A run
    that is killed, or whose machine dies, loses its lease within --heartbeat, 60s by default.
    """
    if heartbeat and no_heartbeat:
        raise typer.BadParameter("give one of --heartbeat and --no-heartbeat")
    items = read_items(pool, count, match, tag, name, role, skip, item)
    request = lease_request(
        items,
        duration=duration,
        priority=priority,
        description=description,
        cc=cc,
        heartbeat=None if no_heartbeat else heartbeat or _HEARTBEAT,
        start_at=start_at,
        queue_timeout=queue_timeout,
        wait_for_supply=wait_for_supply,
        share_key=share_key,
        notify=options.read_notify(notify, no_notify),
        secrets=options.read_secrets(secret),
        key=key,
    )
    if (useless := _unrunnable(command[0])) is not None:
        raise typer.Exit(useless)
    with Signals() as signals:
        try:
            status = _run(command, request, options.read_duration(timeout), signals, as_json)
        except LeaseholdError as error:
            print_error(error, as_json)
            status = Exit.LEASEHOLD_FAILED
    raise typer.Exit(status)


def _run(argv: Sequence[str], request: LeaseRequest, timeout: timedelta | None, signals: Signals, as_json: bool) -> int:
    """Take, run, and give back whatever happens in between."""
    with connect() as client, Claim(client, request) as claim:
        try:
            with progress(quiet=as_json) as show:
                lease = claim.wait(timeout, show)
            if lease["state"] != "active":
                raise LeaseNotActive(f"lease {name_of(lease)} is {standing(lease)}; the command was not started")
            return _supervise(argv, claim, lease, client.delivery(lease["id"]), signals)
        finally:
            signals.hold()
            _give_back(claim, as_json)


def _supervise(argv: Sequence[str], claim: Claim, lease: Lease, delivery: Delivery, signals: Signals) -> int:
    environment = {**os.environ, **command_environment(lease, delivery)}
    signals.hold()
    try:
        command = Command(argv, environment)
    except OSError as error:
        note(f"{argv[0]} cannot be run: {error.strerror}")
        return Exit.COMMAND_NOT_FOUND if isinstance(error, FileNotFoundError) else Exit.COMMAND_NOT_EXECUTABLE
    signals.forward(command.send)
    claim.when_over(command.stop)
    threading.Thread(target=_stop_when_lost, args=(lease, command), daemon=True).start()
    status = command.wait()
    signals.hold()
    return status


def _stop_when_lost(lease: Lease, command: Command) -> None:
    """Wait, in a thread, until the lease has ended, and tell the command to stop if it still runs."""
    with connect() as client:
        while True:
            try:
                ended = client.wait_for(lease["id"], "ended")
                break
            except Unavailable:
                # Nobody knows how the lease stands. The command goes on: it is the API that is away.
                time.sleep(_OUTAGE_PAUSE_S)
            except LeaseholdError as error:
                note(one_line(f"Lease {name_of(lease)} can no longer be watched: {error.detail}"))
                return
    command.stop(f"Lease {name_of(lease)} is {standing(ended)}")


def command_environment(lease: Lease, delivery: Delivery) -> Mapping[str, str]:
    """What the command is told of its lease; a variable longer than the system allows is left out, and named."""
    variables = {
        "LEASEHOLD_URL": api_url(),
        "LEASEHOLD_LEASE": lease["id"],
        "LEASEHOLD_NUMBER": name_of(lease),
        "LEASEHOLD_RESOURCES": json.dumps(held(lease)),
        "LEASEHOLD_DELIVERY": json.dumps(delivery),
    }
    if len(delivery["resources"]) == 1:
        (only,) = delivery["resources"]
        variables["LEASEHOLD_POOL"] = only["pool"]
        variables["LEASEHOLD_RESOURCE"] = only["name"]
        variables["LEASEHOLD_RESOURCE_DATA"] = only["data_base64"]
    for name in [name for name, value in variables.items() if len(name) + len(value) + 2 > _LONGEST_VARIABLE]:
        del variables[name]
        note(f"{name} is too long for an environment variable: leasehold delivery {lease['id']} has it all")
    return variables


def _unrunnable(program: str) -> Exit | None:
    """Find out before resources are taken that there is no such command."""
    if shutil.which(program) is not None:
        return None
    there = os.sep in program and os.path.exists(program)
    note(f"{program} cannot be run: {'it is not executable' if there else 'there is no such command'}")
    return Exit.COMMAND_NOT_EXECUTABLE if there else Exit.COMMAND_NOT_FOUND


def _give_back(claim: Claim, as_json: bool) -> None:
    try:
        lease = claim.give_back()
    except LeaseholdError as error:
        if claim.lease is None:
            return
        print_error(error, as_json)
        until = moment(claim.lease["expires_at"])
        end = f"; it ends by itself at {until}" if until else ""
        note(f"Lease {name_of(claim.lease)} could not be given back: leasehold release {name_of(claim.lease)}{end}")
    else:
        if lease is not None and not as_json:
            note(one_line(f"lease {name_of(lease)}: {parting(lease)}"))
