"""Commands about self-service: how it stands, and opening and closing it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from leasehold.cli import options
from leasehold.cli.connect import connect
from leasehold.cli.output import one_line, print_json, print_rows, say

Pool = Annotated[str | None, typer.Option("--pool", "-p", metavar="POOL", help="Only of this pool, not of the lab.")]


def list_states(as_json: options.Json = False) -> None:
    """Show where self-service is open, and why it is not elsewhere."""
    with connect() as client:
        states = list(client.self_service())
    if as_json:
        print_json({"items": states, "next_cursor": None})
        return
    print_rows(("WHERE", "SELF-SERVICE", "FORCED BY", "REASON"), map(_row, states))


def open_(reason: options.Reason, pool: Pool = None, as_json: options.Json = False) -> None:
    """Open self-service, whatever is free."""
    _force("on", reason, pool, as_json)


def close(reason: options.Reason, pool: Pool = None, as_json: options.Json = False) -> None:
    """Close self-service: only operators lend. Holders keep what they have."""
    _force("off", reason, pool, as_json)


def auto(reason: options.Reason, pool: Pool = None, as_json: options.Json = False) -> None:
    """Leave self-service to its rules again."""
    _force("auto", reason, pool, as_json)


def _force(opening: str, reason: str, pool: str | None, as_json: bool) -> None:
    with connect() as client:
        state = client.force_self_service(opening, reason, pool)
    if as_json:
        print_json(state)
    else:
        where, stands, *_ = _row(state)
        say(one_line(f"Self-service of {where}: {stands}" + (f", {state['reason']}" if state["reason"] else "")))


def _row(state: dict[str, Any]) -> tuple[Any, ...]:
    forced = state["forced"] or {}
    return (state["pool"] or "the lab", "open" if state["open"] else "closed", forced.get("by"), state["reason"])
