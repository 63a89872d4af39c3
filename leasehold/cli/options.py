"""The options that commands share, each with its help, and how their values are read."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from leasehold import durations
from leasehold.errors import Invalid

_JSON_WANTED = "leasehold.cli.json"
_SHORTEST_HEARTBEAT = timedelta(seconds=10)
"""Where no worker is there the answer to a request takes as long, and only then is it known for which lease to beat."""


def _remember(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON_WANTED] = value
    return value


def wants_json(ctx: Any) -> bool:
    """Whether `--json` was given to the command of this context."""
    return bool(ctx.meta.get(_JSON_WANTED))


def as_duration(text: str | None) -> str | None:
    """Let a duration pass as it was written, or tell that it is none."""
    read_duration(text)
    return text


def read_duration(text: str | None) -> timedelta | None:
    """Read a duration such as `90s` or `4h`."""
    try:
        return None if text is None else durations.parse(text)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from error


def read_notify(who: list[str] | None, nobody: bool) -> list[str] | Literal[False]:
    """Read who else is told; False: no person is."""
    if who and nobody:
        raise typer.BadParameter("give one of --notify and --no-notify")
    return False if nobody else who or []


def read_secrets(given: list[str] | None) -> dict[str, str] | None:
    """Read secrets: `NAME` from the environment, `NAME=@FILE` from a file, without the line break that ends it."""
    read: dict[str, str] = {}
    for text in given or ():
        name, _, path = text.partition("=@")
        if path:
            read[name] = _read_secret(path)
        elif "=" not in text and name in os.environ:
            read[name] = os.environ[name]
        else:
            # Not quoted: this may be the secret.
            raise typer.BadParameter(
                "--secret: it is NAME, and the variable of that name is set here, or NAME=@FILE; a value on the command"
                " line could be read by everybody on this machine"
            )
    return read or None


def _read_secret(path: str) -> str:
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise typer.BadParameter(f"--secret: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"--secret: {path}: this is no text") from error
    return text.removesuffix("\n").removesuffix("\r")


def as_heartbeat(text: str | None) -> str | None:
    """Let a duration pass that leaves time for a heartbeat, or tell what is wrong with it."""
    every = read_duration(text)
    if every is not None and every < _SHORTEST_HEARTBEAT:
        raise typer.BadParameter(f"{text!r} is less than the {durations.render(_SHORTEST_HEARTBEAT)} that it takes")
    return text


def as_time(text: str | None) -> str | None:
    """Write a time as the API wants it, in UTC: RFC 3339, or local time where it names no zone."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is not a time such as 2026-03-01T18:00:00Z") from error


def split_resource(text: str) -> tuple[str, str]:
    """Read `POOL/NAME`."""
    pool, _, name = text.partition("/")
    if not pool or not name or "/" in name:
        raise typer.BadParameter(f"{text!r} is not of the form POOL/NAME")
    return pool, name


Json = Annotated[
    bool, typer.Option("--json", callback=_remember, help="Print the API's JSON; errors as problem details.")
]
LeaseRef = Annotated[str, typer.Argument(metavar="LEASE", help="A lease's id or number.", show_default=False)]
LeaseRefs = Annotated[list[str], typer.Argument(metavar="LEASE", help="Ids or numbers.", show_default=False)]
PoolName = Annotated[str, typer.Argument(metavar="POOL", show_default=False)]
SomePool = Annotated[str | None, typer.Argument(metavar="POOL", help="Any pool, if none is named.")]
PoolOption = Annotated[str | None, typer.Option("--pool", "-p", help="Any pool, if none is named.")]
ResourceName = Annotated[str, typer.Argument(metavar="POOL/NAME", show_default=False)]
Match = Annotated[
    list[str] | None,
    typer.Option("--match", "-m", metavar="K=V", help="A property, as k=v or k__op=v; repeat it, and all must hold."),
]
Tag = Annotated[list[str] | None, typer.Option("--tag", "-t", metavar="TAG", help="A tag it must have; repeatable.")]
Count = Annotated[
    int | None, typer.Option("--count", "-n", min=1, help="How many; by default 1, or all that --name names.")
]
Name = Annotated[list[str] | None, typer.Option("--name", metavar="NAME", help="This very resource; repeatable.")]
Role = Annotated[str | None, typer.Option("--role", metavar="ROLE", help="What it is for among the others.")]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        "--skip",
        metavar="STAGE",
        help="Leave this stage out, such as provision; wipe only where the last holder was the same. Repeatable.",
    ),
]
ItemOption = Annotated[
    list[str] | None,
    typer.Option(
        "--item",
        "-i",
        metavar="ITEM",
        help="One of several things to lease together: pool=lab,count=2 and so on, or a JSON object as in the API.",
    ),
]
Duration = Annotated[
    str | None,
    typer.Option(
        "--for", metavar="DURATION", callback=as_duration, help="How long, such as 4h; by default what the pool says."
    ),
]
Priority = Annotated[int | None, typer.Option("--priority", help="Higher goes first.")]
Description = Annotated[str | None, typer.Option("--description", "-d", help="What it is for.")]
Cc = Annotated[list[str] | None, typer.Option("--cc", metavar="WHO", help="Who else should know; repeatable.")]
Heartbeat = Annotated[
    str | None,
    typer.Option(
        "--heartbeat",
        metavar="DURATION",
        callback=as_heartbeat,
        help="The lease is lost when no heartbeat comes for so long, from the request on; 10s or more.",
    ),
]
StartAt = Annotated[
    str | None,
    typer.Option(
        "--start-at",
        metavar="TIME",
        callback=as_time,
        help="A reservation: promised now, or refused, and granted then. RFC 3339, or local time.",
    ),
]
QueueTimeout = Annotated[
    str | None,
    typer.Option(
        "--queue-timeout",
        metavar="DURATION",
        callback=as_duration,
        help="The lease fails if it has waited so long, whoever is there to see it.",
    ),
]
Notify = Annotated[
    list[str] | None,
    typer.Option("--notify", metavar="WHO", help="Who else is told what happens to it; repeatable."),
]
NoNotify = Annotated[bool, typer.Option("--no-notify", help="No person is told what happens to it.")]
WaitForSupply = Annotated[
    bool, typer.Option("--wait-for-supply", help="Wait also for what does not exist yet, instead of being refused.")
]
Secret = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME[=@FILE]",
        help="A secret for its hooks and its command, from the environment or a file; never shown again. Repeatable.",
    ),
]
ShareKey = Annotated[
    str | None,
    typer.Option(
        "--share-key",
        metavar="KEY",
        help="What you give back is kept for a while for your next lease with this key, where the pool says so.",
    ),
]
Stage = Annotated[str | None, typer.Option("--stage", help="Only this stage.")]
Run = Annotated[int | None, typer.Option("--run", min=1, help="Only what this run printed; show has them.")]
Tail = Annotated[int | None, typer.Option("--tail", min=0, help="Only so many of the last lines.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for everyone to see.")]
WhyEnd = Annotated[str | None, typer.Option("--reason", "-r", help="Why; a holder whose lease you end is told.")]
Key = Annotated[
    str | None, typer.Option("--key", help="Idempotency key: the same key again gives the same lease, never a second.")
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="DURATION", callback=as_duration, help="How long to wait at most.")
]
