"""cq's client: a command goes to a build host, and a script is told here how it ended."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from leasehold.cli import queued
from leasehold.cli.remote import Job, Log, Pool, Syslog, Words, send


def cq_client(
    command: Words,
    host: Annotated[
        str | None,
        typer.Option("-h", metavar="HOST", help="Where the API is, if LEASEHOLD_URL does not say it."),
    ] = None,
    port: Annotated[int | None, typer.Option("-p", metavar="PORT", min=1, max=65535, help="And on which port.")] = None,
    script: Annotated[
        str | None, typer.Option("-P", metavar="SCRIPT", help="Run this afterwards, with two numbers.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("-E", metavar="VAR=VAL", help="In its environment, beside all that is set here; repeatable."),
    ] = None,
    pool: Pool = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", "-f", help="Wait here, show what it prints, and exit with its status.")
    ] = False,
    log: Log = None,
    syslog: Syslog = False,
) -> None:
    """Send a command with this environment, print its number, and wait for its end in the background.

    SCRIPT is told first 0 if the command ran and ended by itself, and then its status; or else what went wrong.
    """
    if log is not None and (syslog or foreground):
        raise typer.BadParameter("give one of --log, --syslog and --foreground")
    url = None if os.environ.get("LEASEHOLD_URL") or (host is None and port is None) else _url(host, port)
    job = Job(
        argv=command,
        env={**queued.whole_environment(), **queued.environment(env or ())},
        pool=pool,
        then=script,
        detached=not foreground,
        log=log,
        url=url,
    )
    raise typer.Exit(send(job))


def _url(host: str | None, port: int | None) -> str:
    from httpx import URL, InvalidURL

    try:
        return str(URL(scheme="http", host=host or "127.0.0.1", port=port or 8700))
    except InvalidURL as error:
        raise typer.BadParameter(f"-h: {host!r} is no host's name; its port is for -p") from error
