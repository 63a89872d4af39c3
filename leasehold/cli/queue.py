"""`leasehold queue …`: commands that wait for resources, and run on them."""

from __future__ import annotations

import os
import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leasehold.answers import Lease, Runner
from leasehold.cli import commandwords, options, queued, queuelist
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit, of_error
from leasehold.cli.output import note, one_line, print_bytes, print_error, print_fields, print_json, print_rows, say
from leasehold.cli.progress import progress
from leasehold.cli.request import LeaseRequest
from leasehold.cli.signals import Interrupted, Signals
from leasehold.cli.trailing import Trailing
from leasehold.cli.words import exact, held, moment, name_of, parting, resource_name, standing, wanted
from leasehold.errors import LeaseholdError

if TYPE_CHECKING:
    from leasehold.client import Client

Ref = Annotated[str, typer.Argument(metavar="ID", help="The number or id of its lease.", show_default=False)]
Words = Annotated[
    list[str] | None, typer.Argument(metavar="[--] COMMAND", help="What runs, word by word.", show_default=False)
]
Env = Annotated[
    list[str] | None,
    typer.Option("-E", metavar="VAR[=VALUE]", help="In its environment; without a value, that from here. Repeatable."),
]
Label = Annotated[
    list[str] | None, typer.Option("--label", metavar="L", help="On a runner that has this label; repeatable.")
]
RunnerName = Annotated[str | None, typer.Option("--runner", metavar="NAME", help="On this runner.")]


class Stream(StrEnum):
    """What a command prints to."""

    STDOUT = "stdout"
    STDERR = "stderr"


def add(
    pool: options.PoolName,
    command: Words = None,
    wait: Annotated[bool, typer.Option("--wait", "-b", help="Wait for its end, and exit with its status.")] = False,
    output: Annotated[bool, typer.Option("--output", "-C", help="Wait, and show what it prints meanwhile.")] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also if the same command is queued or running in the same folder.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", "-r", help="Mark the resource offline when the command ends, however it does.")
    ] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why it is removed, for everyone to see.")] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", "-p", help="Higher goes first; below 0 it is held.")
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option("--extra", "-e", metavar="POOL", help="One resource of this pool as well; repeatable."),
    ] = None,
    shell: Annotated[bool, typer.Option("--shell", help="The command is a line for /bin/sh.")] = False,
    folder: Annotated[
        str | None, typer.Option("--folder", "-d", metavar="DIR", help="Where it runs; by default here.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="It runs in an empty folder, which is removed then.")] = False,
    env: Env = None,
    secret: options.Secret = None,
    runner: RunnerName = None,
    label: Label = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout", metavar="DURATION", callback=options.as_duration, help="How long the command may run."
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration",
            metavar="DURATION",
            callback=options.as_duration,
            help="How long its lease may last; by default what the pool says.",
        ),
    ] = None,
    retry: Annotated[
        int, typer.Option("--retry", min=0, help="It may be run so often again if its runner is lost meanwhile.")
    ] = 0,
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
    as_json: options.Json = False,
) -> None:
    """Queue a command for a resource of a pool, whose name it has for @RESOURCE, and print its number.

    With --wait the status is the command's own; 128+n: signal n ended it; 124: its time was over; 125: it was lost, or
    Leasehold itself failed; 126: it was not started; 5: it was cancelled. Ctrl-C ends only the waiting.
    """
    if not command:
        raise typer.BadParameter("say what to run: leasehold queue add POOL [OPTION...] -- COMMAND [ARG...]")
    if reason is not None and not remove:
        raise typer.BadParameter("--reason goes with --remove")
    if folder is not None and fresh:
        raise typer.BadParameter("give one of --folder and --fresh")
    if output and as_json:
        raise typer.BadParameter("give one of --output and --json")
    request = LeaseRequest(
        items=queued.items(pool, extra or ()),
        duration=duration,
        priority=priority,
        description=description,
        command=queued.spec(
            command,
            shell=shell,
            folder=None if fresh else os.path.abspath(folder or ""),
            env=queued.environment(env or ()),
            runner=runner,
            labels=label,
            timeout=timeout,
            retry=retry,
            unique=not force,
        ),
        on_end="offline" if remove else None,
        on_end_reason=reason,
        secrets=options.read_secrets(secret),
    )
    if wait or output:
        with queued.told_apart(as_json):
            raise typer.Exit(_add_and_wait(request, output, as_json))
    with Signals(), connect() as client:
        lease = queued.submitted(client, request, connect)
        if as_json:
            print_json(lease)
        else:
            queued.say_queued(lease)


def _add_and_wait(request: LeaseRequest, output: bool, as_json: bool) -> int:
    with Signals(), connect() as client:
        lease = queued.submitted(client, request, connect)
        if not as_json:
            queued.say_queued(lease)
        ended = queued.awaited(client, lease, request, output=output, quiet=as_json)
    if as_json:
        print_json(ended)
    return queued.tell_end(ended)


def ls(pool: options.SomePool = None, as_json: options.Json = False) -> None:
    """List a pool's resources and the commands on it; without a pool, list the pools."""
    with connect() as client:
        if pool is None:
            _list_pools(list(client.pools()), as_json)
            return
        found = queuelist.read(client, pool)
    if as_json:
        leases = {"executing": found.executing, "queued": found.queued}
        print_json({"pool": pool, "resources": found.resources, **leases})
    else:
        queuelist.print_list(found)


def _list_pools(pools: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"items": pools, "next_cursor": None})
        return
    for one in pools:
        say(one_line(one["name"]))
    note("The commands of one: leasehold queue ls POOL" if pools else "There is no pool yet")


def show(lease: Ref, as_json: options.Json = False) -> None:
    """Tell everything about one command: what it is, where it runs, how it stands or how it ended."""
    with connect() as client:
        found = client.lease(lease)
    command = queued.command_of(found)
    if as_json:
        print_json(found)
        return
    over = command["result"] is not None
    say(one_line(f"Command {name_of(found)}: {commandwords.ending(command) if over else standing(found)}"))
    print_fields(
        [
            *commandwords.facts(found),
            ("owner", found["owner"]),
            ("for", found["description"]),
            ("needs", wanted(found["items"])),
            ("resources", " ".join(map(resource_name, held(found)))),
            ("priority", found["priority"] or None),
            ("lease", standing(found)),
            ("queued", exact(found["created_at"])),
            ("active about", moment(found["queue"] and found["queue"]["eta"])),
            ("started", exact(command["started_at"]) if command["started"] else "not"),
            ("ended", exact(command["ended_at"])),
            ("lease expires", None if found["ended_at"] else moment(found["expires_at"])),
        ],
        indent=2,
    )
    note(f"What it printed: leasehold queue log {name_of(found)}; its story: leasehold show {name_of(found)}")


def log(
    lease: Ref,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the command has ended.")] = False,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=0, help="Only so many of the last lines.")] = None,
    stream: Annotated[Stream | None, typer.Option("--stream", help="Only what it printed to this one.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Only this attempt.")] = None,
    as_json: options.Json = False,
) -> None:
    """Print what a command printed, every byte as it is, with --json too."""
    with connect() as client:
        for piece in queued.logged(client, lease, follow=follow, stream=stream, tail=lines, attempt=attempt):
            print_bytes(piece)


def remove(
    leases: Annotated[list[str], typer.Argument(metavar="ID", help="Numbers or ids.", show_default=False)],
    reason: options.WhyEnd = None,
    as_json: options.Json = False,
) -> None:
    """Cancel commands, queued or running, and wait until they have really ended."""
    done, status = list[Lease](), Exit.DONE
    with Signals(), connect() as client:
        for ref in leases:
            try:
                done.append(ended := cancelled(client, ref, reason))
            except LeaseholdError as error:
                print_error(error, as_json)
                status = status or of_error(error)
            else:
                if not as_json:
                    say(one_line(f"Command {name_of(ended)}: {commandwords.ending(queued.command_of(ended))}"))
    if as_json and done:
        print_json(done[0] if len(done) == 1 else {"items": done, "next_cursor": None})
    raise typer.Exit(status)


def cancelled(client: Client, ref: str, reason: str | None = None) -> Lease:
    """Cancel a command, and return its lease once that has ended; one that had ended before is left alone."""
    found = client.lease(ref)
    queued.command_of(found)
    stopped = client.cancel(found["id"], reason)
    try:
        return client.wait_for(found["id"], "ended")
    except Interrupted:
        note(one_line(f"Lease {name_of(found)} {parting(stopped)}"))
        raise


def search(
    pool: options.SomePool = None,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[--] COMMAND", help="This very command.", show_default=False)
    ] = None,
    like: Annotated[str | None, typer.Option("--like", metavar="TEXT", help="With this in the command.")] = None,
    folder: Annotated[str | None, typer.Option("--dir", metavar="DIR", help="That run in this folder.")] = None,
    shell: Annotated[bool, typer.Option("--shell", help="The command is a line for /bin/sh.")] = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Print the numbers of commands that are queued or running; 1 where there is none."""
    if not command and like is None and folder is None:
        raise typer.BadParameter("say which: -- COMMAND [ARG...], --like TEXT or --dir DIR")
    line = (" ".join(command) if shell else shlex.join(command)) if command else None
    with connect() as client:
        found = searched(
            client,
            pool,
            everything=everything,
            command=line,
            command_like=like,
            folder=None if folder is None else os.path.abspath(folder),
        )
    if as_json:
        print_json({"items": found, "next_cursor": None})
    else:
        for lease in found:
            say(name_of(lease))
    raise typer.Exit(Exit.DONE if found else Exit.ERROR)


def searched(client: Client, pool: str | None, *, everything: bool = False, **which: str | None) -> list[Lease]:
    """The leases with such commands, the oldest first."""
    state = None if everything else queuelist.NOT_ENDED
    found = client.leases(commands=True, pool=pool, state=state, **which)
    return sorted(found, key=lambda lease: lease["number"] or 0)


def wait(lease: Ref, timeout: options.Timeout = None, as_json: options.Json = False) -> None:
    """Wait for the end of a command, and exit with its status, as `queue add -b` does; 4 at the --timeout."""
    patience = options.read_duration(timeout)
    with queued.told_apart(as_json), Signals(), connect() as client, progress(quiet=as_json) as show:
        queued.command_of(client.lease(lease))
        for found in client.watch(lease, "ended", timeout=patience):
            show(found)
    if as_json:
        print_json(found)
    if found["state"] != "ended":
        note(one_line(f"lease {name_of(found)}: {standing(found)}"))
        raise typer.Exit(Exit.NOT_YET)
    raise typer.Exit(queued.tell_end(found))


def runners(as_json: options.Json = False) -> None:
    """List the runners of commands."""
    with connect() as client:
        found = list(client.runners())
    if as_json:
        print_json({"items": found, "next_cursor": None})
    else:
        print_rows(("RUNNER", "STATE", "USED", "SLOTS", "LABELS", "HOSTS"), map(_row, found))


def _row(runner: Runner) -> tuple[object, ...]:
    hosts = [one["host"] for one in runner["hosts"]]
    return (runner["name"], "up" if runner["up"] else "down", runner["used"], runner["slots"], runner["labels"], hosts)


app = typer.Typer(help="Commands that wait for resources, and run on them.", no_args_is_help=True)
app.command("add", cls=Trailing)(add)
app.command("ls")(ls)
app.command("show")(show)
app.command("log")(log)
app.command("rm")(remove)
app.command("search", cls=Trailing)(search)
app.command("wait")(wait)
app.command("runners")(runners)
