"""A command for a runner, from the request to its end: it is queued once and whole, or not at all, and waited for."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from leasehold.answers import Command, ItemRequest, Lease, Output
from leasehold.cli import commandwords
from leasehold.cli.exits import Exit, of_command
from leasehold.cli.output import note, one_line, print_bytes, print_error, say
from leasehold.cli.progress import progress
from leasehold.cli.request import LeaseRequest
from leasehold.cli.signals import Interrupted
from leasehold.cli.words import name_of, standing
from leasehold.commands import RESERVED
from leasehold.errors import LeaseholdError, NoCommand, Refused, Unavailable, from_code

if TYPE_CHECKING:
    from leasehold.client import Client

Connect = Callable[..., "Client"]

_LAST_PATIENCE = timedelta(seconds=30)
_TICK = timedelta(seconds=1)
_OURS = (*RESERVED, "TEMPORAL_")
"""How variables begin that say where the service is, and as whom one talks to it, or what an outer command has."""
_UNKNOWN = "the command may be queued all the same; leasehold queue search tells"
_LONGEST = 100_000
"""Characters of a variable, at most."""


def items(pool: str, extra: Sequence[str] = ()) -> tuple[ItemRequest, ...]:
    """One resource of a pool, and one of each of the others."""
    return tuple(ItemRequest(pool=name, count=1) for name in (pool, *extra))


def environment(given: Sequence[str]) -> dict[str, str]:
    """What `VAR=VAL` says, and `VAR` alone, which takes its value from here."""
    read = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise typer.BadParameter(f"-E: {text!r} is not of the form VAR or VAR=VALUE")
        if not equals and name not in os.environ:
            raise typer.BadParameter(f"-E: {name} is not set here")
        if name.startswith(RESERVED):
            raise typer.BadParameter(f"-E: {name} cannot be set: LEASEHOLD_… and DCI_QUEUE… tell a command what it has")
        read[name] = value if equals else os.environ[name]
    return read


def whole_environment() -> dict[str, str]:
    """All that is set here, but for what is ours, or could not be sent; this is said."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    lost = [name for name, value in mine.items() if not _is_text(name + value) or len(value) > _LONGEST]
    if lost:
        note(one_line(f"Not passed on: {', '.join(lost)}"))
    return {name: value for name, value in mine.items() if name not in lost}


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)


def command_of(lease: Lease) -> Command:
    """The command of a lease; raise `NoCommand` where it has none."""
    if lease["command"] is None and lease["number"] is None and lease["error"] is not None:
        # Nothing came of the request.
        raise from_code(lease["error"]["code"], lease["error"]["detail"])
    if lease["command"] is None:
        raise NoCommand(f"lease {name_of(lease)} has no command")
    return lease["command"]


def submitted(client: Client, request: LeaseRequest, again: Connect) -> Lease:
    """Queue a command; where a signal comes before the answer, leave nothing behind that nobody knows of.

    `again` makes another connection: the signal may have broken into anything.
    """
    try:
        return client.submit(**request.asked, idempotency_key=request.key)
    except Interrupted:
        note("Interrupted: nothing is queued" if _called_off(request, again) else f"Interrupted: {_UNKNOWN}")
        raise
    except Unavailable as error:
        from leasehold.wire import never_sent

        if not never_sent(error):
            note(f"No answer came: {_UNKNOWN}")
        raise


def _called_off(request: LeaseRequest, again: Connect) -> bool:
    """Cancel what came of a request, if that can be done now: the same key names the same lease."""
    with suppress(LeaseholdError), again(_LAST_PATIENCE) as client:
        lease = client.submit(**request.asked, idempotency_key=request.key)
        # What was there before belongs to somebody who knows of it.
        if not lease.get("duplicate"):
            client.cancel(lease["id"])
        return True
    return False


def say_queued(lease: Lease) -> None:
    """Print the number, and tell if it is that of the same command, which was there before."""
    say(name_of(lease))
    if lease.get("duplicate"):
        _say_twin(lease)


def _say_twin(lease: Lease) -> None:
    note(one_line(f"The same command is there already, as lease {name_of(lease)}: {standing(lease)}"))


def awaited(client: Client, lease: Lease, request: LeaseRequest, *, output: bool, quiet: bool = False) -> Lease:
    """Wait for the end of a lease's command, and show its output meanwhile; a signal ends only the waiting.

    Where no worker was there to look at the request, what becomes of it is known later: raises what refused it, or
    waits for the same command that was there before.
    """
    ref = lease["id"]
    try:
        with progress(quiet=quiet) as show:
            show(lease)
            for lease in client.watch(ref, "active" if output else "ended", tick=_TICK):
                show(lease)
        if lease["command"] is not None:
            if output:
                try:
                    print_output(client, ref)
                except Refused as error:
                    # It was merged into somebody else's.
                    note(one_line(f"What it prints cannot be shown: {error.detail}"))
            return client.wait_for(ref, "ended")
    except (Interrupted, LeaseholdError):
        name = name_of(lease)
        note(f"The command goes on: leasehold queue wait {name} waits for its end, leasehold queue rm {name} stops it")
        raise
    # Asked again, the answer is the refusal itself, or the lease of which it is a duplicate.
    twin = client.submit(**request.asked, idempotency_key=request.key)
    command_of(twin)
    _say_twin(twin)
    return awaited(client, twin, request, output=output, quiet=quiet)


def print_output(client: Client, ref: str) -> None:
    """Print what a command prints until it ends: its standard output here, all else to standard error."""
    attempt = 1
    for piece in client.follow_output(ref):
        if piece["attempt"] > attempt:
            attempt = piece["attempt"]
            note(f"It is run again: attempt {attempt}")
        if (data := _printed(piece)) is not None:
            print_bytes(data, err=piece["stream"] == "stderr")


def logged(
    client: Client,
    ref: str,
    *,
    follow: bool,
    stream: str | None = None,
    tail: int | None = None,
    attempt: int | None = None,
) -> Iterator[bytes]:
    """What a command printed, every byte; what Leasehold says of it, that a bound was reached say, goes to people."""
    if follow and stream is None:
        for piece in client.follow_output(ref, {"tail": tail, "attempt": attempt}):
            if (data := _printed(piece)) is not None:
                yield data
        return
    yield from client.output(ref, follow=follow, stream=stream, tail=tail, attempt=attempt)
    _pass_on(b"".join(client.output(ref, stream="service", attempt=attempt)))


def _printed(piece: Output) -> bytes | None:
    """What a command printed in a piece of output; what Leasehold says there is passed on to people."""
    data = base64.b64decode(piece["data_base64"])
    if piece["stream"] != "service":
        return data
    _pass_on(data)
    return None


def _pass_on(words: bytes) -> None:
    for line in words.decode(errors="replace").splitlines():
        note(one_line(line))


def tell_end(lease: Lease) -> int:
    """Tell how a command ended, and return the exit status that passes this on."""
    command = command_of(lease)
    # Of one that nothing ran the lease knows more.
    how = commandwords.ending(command) if command["result"] else standing(lease)
    note(one_line(f"lease {name_of(lease)}: {how}"))
    return of_command(command)


@contextmanager
def told_apart(as_json: bool = False) -> Iterator[None]:
    """Have what goes wrong with Leasehold itself end with a status of its own, as the others are the command's."""
    try:
        yield
    except LeaseholdError as error:
        print_error(error, as_json)
        raise typer.Exit(Exit.LEASEHOLD_FAILED) from error


def spec(
    argv: Sequence[str],
    *,
    folder: str | None,
    env: Mapping[str, str],
    shell: bool = False,
    runner: str | None = None,
    labels: Sequence[str] | None = None,
    timeout: str | None = None,
    retry: int = 0,
    unique: bool = False,
) -> Mapping[str, Any]:
    """A command as the API wants it; with `unique` the same one is not queued twice."""
    return {
        "run": " ".join(argv) if shell else list(argv),
        "folder": folder,
        "env": dict(env),
        "runner": runner,
        "labels": list(labels or ()),
        "timeout": timeout,
        "retry": retry,
        "duplicates": "drop" if unique else "allow",
    }
