"""Commands about pools: `apply`, `pool ls`, `pool show`, `pool queue`."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from leasehold.answers import Applied, Change
from leasehold.cli import options
from leasehold.cli.connect import connect
from leasehold.cli.output import note, one_line, print_fields, print_json, print_rows, say, written
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
    columns = ("name", "free", "total", "waiting", "paused", "description")
    rows = [{**pool, "paused": (pool.get("paused") or {}).get("reason")} for pool in pools]
    print_rows([column.upper() for column in columns], [[row.get(column) for column in columns] for row in rows])


def show(pool: options.PoolName, as_json: options.Json = False) -> None:
    """Print a pool with its stages and policy."""
    with connect() as client:
        found = client.pool(pool)
    if as_json:
        print_json(found)
    else:
        print_fields(found.items())


def pause(pool: options.PoolName, reason: options.Reason, as_json: options.Json = False) -> None:
    """Let a pool lend nothing for now; its holders keep what they have."""
    with connect() as client:
        _report(client.pause(pool, reason), as_json)


def resume(pool: options.PoolName, as_json: options.Json = False) -> None:
    """Let a paused pool lend again; who waits for it is served at once."""
    with connect() as client:
        _report(client.resume(pool), as_json)


def _report(pool: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(pool)
        return
    paused = pool["paused"]
    standing = f"paused by {paused['by']}: {paused['reason']}" if paused else "lending"
    say(one_line(f"{pool['name']}: {standing}, {pool['free']} of {pool['total']} free, {pool['waiting']} waiting"))


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
