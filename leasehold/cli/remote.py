"""`leasehold remote`: a command as if it ran here, on a host that has its turns."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import typer

from leasehold.answers import Command
from leasehold.cli import daemon, queued
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit, of_command
from leasehold.cli.output import note, one_line, print_error, say
from leasehold.cli.queue import Env, Label, RunnerName
from leasehold.cli.request import LeaseRequest
from leasehold.cli.signals import Signals
from leasehold.cli.words import name_of
from leasehold.errors import LeaseholdError

_ANY_OUTAGE = timedelta(days=365)

Words = Annotated[list[str], typer.Argument(metavar="COMMAND", show_default=False)]
Pool = Annotated[
    str | None,
    typer.Option("--pool", metavar="POOL", help="Whose turns; by default LEASEHOLD_CQ_POOL, or else cq."),
]
Log = Annotated[
    str | None, typer.Option("--log", metavar="FILE", help="Detached, what is printed goes to the end of this file.")
]
Syslog = Annotated[bool, typer.Option("--syslog", help="Detached, it goes to the system's log, as it does by itself.")]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command that is sent from here. `then` is told how it ended; a detached one is waited for in the background.

    `url` is where Leasehold's API is, None being where it is for all commands; `log` a file for what is printed.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    pool: str | None = None
    runner: str | None = None
    labels: Sequence[str] = ()
    then: str | None = None
    detached: bool = False
    log: str | None = None
    url: str | None = None

    def request(self) -> LeaseRequest:
        """What it asks for, each time anew."""
        pool = self.pool or os.environ.get("LEASEHOLD_CQ_POOL") or "cq"
        command = queued.spec(
            self.argv, folder=os.getcwd(), env=self.env, runner=self.runner, labels=self.labels or None
        )
        return LeaseRequest(items=queued.items(pool), command=command)


def remote(
    command: Words,
    env: Env = None,
    pool: Pool = None,
    runner: RunnerName = None,
    label: Label = None,
    then: Annotated[
        str | None,
        typer.Option("--then", "-P", metavar="SCRIPT", help="Run this afterwards, with two numbers."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print its number as soon as it is queued, and wait in the background.")
    ] = False,
    log: Log = None,
    syslog: Syslog = False,
    only_given: Annotated[
        bool, typer.Option("--only-given", help="Pass on only what -E names, and not the whole environment.")
    ] = False,
) -> None:
    """Run a command on another host, in this folder and with this environment, as soon as it is its turn there.

    Its output is shown and its status passed on, as by `queue add -C`. SCRIPT is told first 0, if the command ran
    and ended by itself, or else the status that says what went wrong (124, 125, 126 or 5), and then its own status.
    """
    job = Job(
        argv=command,
        env={**({} if only_given else queued.whole_environment()), **queued.environment(env or ())},
        pool=pool,
        runner=runner,
        labels=label or (),
        then=then,
        detached=detach,
        log=log,
    )
    if (log is not None or syslog) and not detach:
        raise typer.BadParameter("--log and --syslog go with --detach")
    if log is not None and syslog:
        raise typer.BadParameter("give one of --log and --syslog")
    raise typer.Exit(send(job))


def send(job: Job) -> int:
    """Queue a job, wait for its end, here or in the background, and return the exit status."""
    log = None if job.log is None else _opened(job.log)
    script = None if job.then is None else _found(job.then)
    request = job.request()
    with Signals():
        with queued.told_apart(), connect(url=job.url) as client:
            lease = queued.submitted(client, request, lambda patience: connect(patience, url=job.url))
        if job.detached:
            say(name_of(lease))
            if not daemon.go_to_background(log):
                return Exit.DONE
        command = _attended(job, request, lease["id"])
        internal, status = (Exit.LEASEHOLD_FAILED, 0) if command is None else told(command)
        if script is not None:
            _run(script, internal, status, command)
        return internal or status


def _attended(job: Job, request: LeaseRequest, ref: str) -> Command | None:
    """Wait for the end of a command; None where that cannot be learned."""
    try:
        with connect(url=job.url) as client:
            if job.detached:
                # Nobody is there who could do it later.
                client.outage = _ANY_OUTAGE
            ended = queued.awaited(client, client.lease(ref), request, output=True)
            queued.tell_end(ended)
    except LeaseholdError as error:
        print_error(error, as_json=False)
        return None
    return queued.command_of(ended)


def told(command: Command) -> tuple[int, int]:
    """What went wrong, 0 being nothing, and the status of the command, 0 where it has none."""
    if command["result"] in ("exited", "signalled"):
        return 0, of_command(command)
    return of_command(command), command["exit_code"] or 0


def _opened(path: str) -> int:
    try:
        return daemon.open_log(path)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written: {error.strerror}") from error


def _found(script: str) -> str:
    """Where a script is, whatever the folder will be then."""
    return os.path.abspath(script) if os.sep in script else script


def _run(script: str, internal: int, status: int, command: Command | None) -> None:
    facts: dict[str, str] = {}
    if command is not None:
        facts = {"LEASEHOLD_RESULT": command["result"] or "", "LEASEHOLD_STARTED": str(int(command["started"]))}
        if command["signal"] is not None:
            facts["LEASEHOLD_SIGNAL"] = str(command["signal"])
    try:
        subprocess.run([script, str(internal), str(status)], check=False, env={**os.environ, **facts})
    except OSError as error:
        note(one_line(f"{script} cannot be run: {error.strerror}"))
