"""How the command of a lease is put into words: what runs, what it is doing, and how it ended."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Sequence
from typing import Any

from leasehold.answers import Command, Lease
from leasehold.commands import filled
from leasehold.model import OVER

Join = Callable[[Sequence[str]], str]


def line(lease: Lease, command: Command, join: Join = shlex.join) -> str:
    """What runs, with the names of the lease's resources in it once it has them."""
    run = command["run"]
    words: Sequence[str] = [run] if isinstance(run, str) else run
    over = lease["state"] in OVER
    granted = [
        (one["item"], one["pool"], one["name"]) for one in lease["resources"] if over or one["state"] != "released"
    ]
    if granted:
        pools = {pool: [name for _, of, name in granted if of == pool] for _, pool, _ in granted}
        words = filled(words, [name for item, _, name in granted if item == 0], pools)
    return words[0] if isinstance(run, str) else join(words)


def doing(command: Command) -> str:
    """What becomes of a command of an active lease: `running on build01`, or why it waits."""
    if command["state"] == "ended":
        return ending(command)
    if command["state"] == "waiting":
        return f"waiting for a runner: {command['reason']}" if command["reason"] else "waiting for a runner"
    again = f", attempt {command['attempt']}" if command["attempt"] > 1 else ""
    return f"{command['state']} on {command['on']}{again}"


def ending(command: Command) -> str:
    """How a command ended; always with whether it had started."""
    code = command["signal"] if command["exit_code"] is None else command["exit_code"]
    return ended(command["result"], code, started=command["started"], detail=command["detail"])


def ended(result: str | None, code: int | None, *, started: bool, detail: str | None) -> str:
    """The same, by what an event tells of it; `code` is the exit status or the signal."""
    why = f": {detail}" if detail else ""
    match result:
        case "exited":
            return f"it ran, and exited with status {code}"
        case "signalled":
            return f"it ran, and was ended by signal {_signal(code)}{why}"
        case "not_started":
            return f"it was not started{why}"
        case "cancelled":
            return f"it had started, and was cancelled{why}" if started else f"it was cancelled before it started{why}"
        case "timed_out":
            late = "it had started, and was stopped at its time limit"
            return f"{late if started else 'its time was over before it started'}{why}"
        case "lost":
            had = "it had started, and was lost with its runner"
            return f"{had if started else 'its runner was lost before it started'}{why}"
        case _:
            return f"it {'had' if started else 'had not'} started; how it ended is not known{why}"


def _signal(number: int | None) -> str:
    try:
        return f"{number} ({signal.Signals(number or 0).name})"
    except ValueError:
        return str(number)


def facts(lease: Lease) -> list[tuple[str, Any]]:
    """What is known of a lease's command, named; nothing where it has none."""
    command = lease["command"]
    if command is None:
        return []
    over = command["state"] == "ended"
    offline = f"offline: {lease['on_end_reason']}" if lease["on_end_reason"] else "offline"
    return [
        ("command", line(lease, command)),
        ("shell", "/bin/sh" if isinstance(command["run"], str) else None),
        ("folder", command["folder"] or "a fresh one"),
        ("wanted runner", ", ".join(filter(None, (command["runner"], *command["labels"])))),
        ("how it stands", ending(command) if over else doing(command)),
        ("ran on" if over else "runs on", command["on"]),
        ("as", command["account"]),
        ("attempt", command["attempt"] if command["attempt"] > 1 or command["retry"] else None),
        ("may be run again", f"{command['retry']} times, if its runner is lost" if command["retry"] else None),
        ("time limit", command["timeout"]),
        ("when it ends", offline if lease["on_end"] == "offline" else None),
        ("output", _kept(command)),
    ]


def _kept(command: Command) -> str | None:
    kept = command["output"]
    if kept["bytes"] is None:
        return None
    dropped = f", {kept['dropped']} of them dropped: its pool keeps {kept['limit']}" if kept["dropped"] else ""
    return f"{kept['bytes']} bytes{dropped}"
