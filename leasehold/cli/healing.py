"""Commands for whoever looks after the service: `health`, `reconcile`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from leasehold.cli import options
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit
from leasehold.cli.output import note, one_line, print_json, print_rows, say

_PARTS = ("database", "temporal", "worker")


def health(as_json: options.Json = False) -> None:
    """Tell whether the service can work, and what somebody has to see to; exits with 1 if there is anything."""
    with connect() as client:
        told = client.readiness()
    if as_json:
        print_json(told)
    else:
        missing = [part for part in _PARTS if not told[part]]
        say("ready" if told["ready"] else f"not ready: no {', no '.join(missing)}")
        rows = [(alert["key"], alert["since"], alert["detail"]) for alert in told["alerts"]]
        print_rows(("ALERT", "SINCE", "WHAT TO DO"), rows)
    if not told["ready"] or told["alerts"]:
        raise typer.Exit(Exit.ERROR)


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be written.")] = False,
    accept_identity: Annotated[
        bool, typer.Option("--accept-identity", help="This Temporal is the right one, although another is known.")
    ] = False,
    accept_lost: Annotated[
        bool, typer.Option("--accept-lost", help="Leases that Temporal does not know are lost, however many.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Rebuild the records from the leases that run, after the database or Temporal's was restored or changed.

    Exits with 1 if something could not be put right.
    """
    with connect() as client:
        done = client.reconcile(dry_run=dry_run, accept_identity=accept_identity, accept_lost=accept_lost)
        while not done["done"]:
            note("still at work")
            done = client.reconciliation(done["run"])
    if as_json:
        print_json(done)
    else:
        _print(done)
    if done["problems"] or done["suspended"]:
        raise typer.Exit(Exit.ERROR)


def _print(done: dict[str, Any]) -> None:
    print_rows(("ACTION", "LEASE", "RESOURCE", "WHY"), map(_row, done["steps"]))
    if done["more"]:
        note(f"and {done['more']} more")
    for problem in done["problems"]:
        note(one_line(problem))
    written = len(done["steps"]) + done["more"]
    note(f"{written} things {'to write' if done['dry_run'] else 'written'}; {done['leases']} leases were asked for.")
    if done["dry_run"]:
        note("This was a dry run: nothing has changed.")
    if done["suspended"]:
        note(one_line(f"Nothing is granted: {done['suspended']}"))


def _row(step: dict[str, Any]) -> tuple[Any, ...]:
    resource = f"{step['pool']}/{step['resource']}" if step["resource"] else None
    return (step["action"], step["lease"], resource, step["detail"])
