"""Commands about pools: `apply`, `pool ls`, `show`, `queue`, `pause`, `drain`, `resume`, `logs`."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from leasehold.answers import Applied, Change
from leasehold.cli import options, poolwords
from leasehold.cli.connect import connect
from leasehold.cli.output import note, one_line, print_bytes, print_fields, print_json, print_rows, say, written
from leasehold.cli.words import exact

_SIGNS = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}


def apply(
    file: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="A pools file; - is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    as_json: options.Json = False,
) -> None:
    """Make the pools as a file describes them, all at once or not at all, and print what changed.

    Hooks start in the file's own folder.
    """
    content, folder = _read(file)
    with connect() as client:
        applied = client.apply(content, folder=folder, dry_run=dry_run)
    print_applied(applied, as_json)
    if dry_run and not as_json:
        note("This was a dry run: nothing has changed.")


def list_pools(as_json: options.Json = False) -> None:
    """List pools."""
    with connect() as client:
        pools = list(client.pools())
    if as_json:
        print_json({"items": pools, "next_cursor": None})
        return
    print_rows(("NAME", "FREE", "TOTAL", "WAITING", "CREATING", "MAX", "PAUSED", "DESCRIPTION"), map(_row, pools))


def _row(pool: dict[str, Any]) -> tuple[Any, ...]:
    counted = (pool["free"], pool["total"], pool["waiting"], poolwords.creating(pool), poolwords.most(pool))
    return (pool["name"], *counted, (pool["paused"] or {}).get("reason"), pool["description"])


def show(pool: options.PoolName, as_json: options.Json = False) -> None:
    """Tell what a pool is and how it stands, with its hooks and policy."""
    with connect() as client:
        found = client.pool(pool)
    if as_json:
        print_json(found)
        return
    say(one_line(f"Pool {found['name']}: {poolwords.standing(found)}"))
    print_fields(poolwords.facts(found), indent=2)
    if found["statistics"] is not None:
        say("Creations")
        print_fields(poolwords.creations(found["statistics"]), indent=2)
    if found["stages"]:
        say("Hooks")
        print_fields(poolwords.hooks(found["stages"]), indent=2)
    say("Policy")
    print_fields(found["policy"].items(), indent=2)


def logs(
    pool: options.PoolName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the pool is gone.")] = False,
    stage: options.Stage = None,
    tail: options.Tail = None,
    as_json: options.Json = False,
) -> None:
    """Print what a pool's hooks printed while no lease was involved: creations, deletions, livechecks, listings."""
    with connect() as client:
        for piece in client.pool_log(pool, follow=follow, stage=stage, tail=tail):
            print_bytes(piece)


def pause(
    pool: options.PoolName,
    reason: options.Reason,
    drain: Annotated[
        bool, typer.Option("--drain", help="Have what the pool has made deleted as soon as nobody has it.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Let a pool lend nothing for now; its holders keep what they have."""
    with connect() as client:
        _report(client.pause(pool, reason, drain=drain), as_json)


def drain(pool: options.PoolName, reason: options.Reason, as_json: options.Json = False) -> None:
    """Pause a pool, and have what it has made deleted as soon as nobody has it."""
    pause(pool, reason, drain=True, as_json=as_json)


def resume(pool: options.PoolName, as_json: options.Json = False) -> None:
    """Let a paused pool lend again; who waits for it is served at once."""
    with connect() as client:
        _report(client.resume(pool), as_json)


def _report(pool: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(pool)
    else:
        say(one_line(f"{pool['name']}: {poolwords.standing(pool)}"))


def queue(pool: options.PoolName, as_json: options.Json = False) -> None:
    """List the leases that wait for a pool, the next one first, and last the reservations."""
    with connect() as client:
        waiting = list(client.pool_queue(pool))
    if as_json:
        print_json({"items": waiting, "next_cursor": None})
        return
    print_rows(("POSITION", "LEASE", "OWNER", "REASON", "ACTIVE ABOUT"), map(_queue_row, waiting))


def print_applied(applied: Applied, as_json: bool) -> None:
    """Print what changes, as a diff."""
    if as_json:
        print_json(applied)
        return
    for change in applied["changes"]:
        _print_change(change)
    if not applied["changes"]:
        note("Nothing to change.")


def _queue_row(lease: dict[str, Any]) -> tuple[Any, ...]:
    place = lease.get("queue") or {}
    number = lease.get("number") or lease.get("id")
    # A reservation stands in no queue.
    position = place.get("position") or "-"
    return (position, number, lease.get("owner"), place.get("reason"), exact(place.get("eta")))


def _read(file: str) -> tuple[bytes, str]:
    """The bytes as they are, so that the service can name the place of what is wrong with them, and their folder."""
    if file == "-":
        return sys.stdin.buffer.read(), os.getcwd()
    try:
        with open(file, "rb") as stream:
            return stream.read(), os.path.dirname(os.path.abspath(file))
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from error


def _print_change(change: Change) -> None:
    sign, colour = _SIGNS.get(change["action"], ("*", "cyan"))
    name = change["name"] if change["kind"] == "pool" else f"{change['pool']}/{change['name']}"
    typer.secho(f"{sign} {change['action']} {change['kind']} {one_line(name)}", fg=colour)
    for key, (before, after) in change["diff"].items():
        was = "" if before is None else f"{written(before)} -> "
        say(one_line(f"    {key}: {was}{written(after)}"))
