"""Commands about leases that exist, from `ls` to `logs`, but for those that make them larger or smaller."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leasehold.answers import Lease
from leasehold.cli import commandwords, options, story
from leasehold.cli.account import last_words, print_story, with_output
from leasehold.cli.connect import connect
from leasehold.cli.exits import Exit, of_error, of_wait
from leasehold.cli.output import (
    note,
    one_line,
    print_bytes,
    print_error,
    print_fields,
    print_json,
    print_rows,
    say,
)
from leasehold.cli.progress import progress
from leasehold.cli.take import print_alternatives, print_delivery
from leasehold.cli.words import degraded, held, moment, name_of, parting, resource_name, standing, step, wanted
from leasehold.errors import LeaseholdError, NotFound
from leasehold.model import LeaseState

if TYPE_CHECKING:
    from leasehold.client import Client

_NOT_ENDED = ",".join(state for state in LeaseState if state is not LeaseState.ENDED)
_FIRST_WAIT = timedelta(seconds=1)


class Until(StrEnum):
    """What can be waited for."""

    ACTIVE = "active"
    ENDED = "ended"


def list_leases(
    state: Annotated[
        str | None, typer.Option("--state", help="Only leases in this state, or in one of several with commas between.")
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Only leases of this owner.")] = None,
    pool: Annotated[str | None, typer.Option("--pool", "-p", help="Only leases on this pool.")] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")] = 100,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where an earlier list ended.")] = None,
    as_json: options.Json = False,
) -> None:
    """List leases; without --all or --state those that have not ended."""
    states = state if state or everything else _NOT_ENDED
    with connect() as client:
        page = client.lease_page(limit=limit, cursor=cursor, state=states, owner=owner, pool=pool)
    if as_json:
        print_json(page)
        return
    rows = [
        (name_of(one), one["owner"], _where(one), _what(one), one["description"], one["created_at"])
        for one in page["items"]
    ]
    print_rows(("LEASE", "OWNER", "STATE", "RESOURCES", "DESCRIPTION", "CREATED"), rows)
    if page["next_cursor"] is not None:
        note(f"There are more: --cursor {page['next_cursor']}")


def show(lease: options.LeaseRef, as_json: options.Json = False) -> None:
    """Tell a lease's story: what it is, its resources, and what happened to it, each run of a hook included."""
    with connect() as client:
        found = client.lease(lease)
        events, runs = list(client.events(found["id"])), list(client.runs(found["id"]))
        outputs = last_words(client, runs)
    if as_json:
        print_json({**found, "events": events, "runs": with_output(runs, outputs)})
        return
    say(one_line(f"Lease {name_of(found)}: {standing(found)}"))
    print_fields(_facts(found), indent=2)
    print_alternatives(found)
    if found["resources"]:
        say("Resources")
        print_rows(
            ("  RESOURCE", "ROLE", "STATE", "EPOCH"),
            [(f"  {resource_name(one)}", one["role"], step(one), one["epoch"]) for one in found["resources"]],
        )
    say("What happened")
    print_story(story.of_lease(found, events, runs, outputs))
    if not events:
        say("  nothing yet: no worker has admitted it")
    if any(map(story.failed, runs)):
        note(f"All that a run printed: leasehold logs {name_of(found)} --run RUN")


def wait(
    lease: options.LeaseRef,
    until: Annotated[Until, typer.Option("--for", help="What to wait for.")] = Until.ACTIVE,
    timeout: options.Timeout = None,
    as_json: options.Json = False,
) -> None:
    """Wait until a lease is active, or has ended, and print its resources."""
    with connect() as client, progress(quiet=as_json) as report:
        for found in client.watch(lease, until, timeout=options.read_duration(timeout), tick=_FIRST_WAIT):
            report(found)
    if as_json:
        print_json(found)
    elif found["state"] == until:
        for resource in held(found):
            say(resource_name(resource))
    raise typer.Exit(of_wait(found, until))


def delivery(
    lease: options.LeaseRef,
    resource: Annotated[str | None, typer.Argument(metavar="POOL[/NAME]", help="The data of this one alone.")] = None,
    as_json: options.Json = False,
) -> None:
    """Print what is needed to connect; with POOL/NAME the bytes of that resource, with POOL those for all, exactly."""
    with connect() as client:
        delivered = client.delivery(lease)
    if as_json:
        print_json(delivered)
    elif resource is None:
        print_delivery(delivered)
    else:
        printed = {shared["pool"]: shared["data_base64"] for shared in delivered["shared"]}
        printed |= {resource_name(one): one["data_base64"] for one in delivered["resources"]}
        if resource not in printed:
            raise NotFound(f"lease {lease} has no resource {resource}")
        print_bytes(base64.b64decode(printed[resource]))


def extend(
    lease: options.LeaseRef,
    by: Annotated[
        str | None, typer.Option("--by", metavar="DURATION", callback=options.as_duration, help="Longer by this.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", callback=options.as_time, help="RFC 3339, or local time."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Keep an active lease for longer."""
    if (by is None) == (until is None):
        raise typer.BadParameter("give one of --by and --until")
    with connect() as client:
        _report([client.extend(lease, by=by, until=until)], as_json)


def heartbeat(lease: options.LeaseRef, as_json: options.Json = False) -> None:
    """Say that a lease is still wanted, one that was asked for with heartbeats."""
    with connect() as client:
        found = client.heartbeat(lease)
    _report([found], as_json, _where)
    if found["heartbeat_by"] is None and not as_json:
        note("It expects no heartbeats")


def release(leases: options.LeaseRefs, reason: options.WhyEnd = None, as_json: options.Json = False) -> None:
    """Give leases back; releasing one twice does no harm."""
    _steer(leases, lambda client, ref: client.release(ref, reason), as_json)


def cancel(leases: options.LeaseRefs, reason: options.WhyEnd = None, as_json: options.Json = False) -> None:
    """Cancel leases in whatever state they are."""
    _steer(leases, lambda client, ref: client.cancel(ref, reason), as_json)


def transfer(
    lease: options.LeaseRef,
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="The user who has it from now on.")],
    as_json: options.Json = False,
) -> None:
    """Give a lease to another owner, with all that it has; its token is replaced."""
    with connect() as client:
        _report([client.transfer(lease, owner)], as_json, lambda found: f"belongs to {found['owner']}")


def logs(
    lease: options.LeaseRef,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the lease has ended, or the run that --run names.")
    ] = False,
    run: options.Run = None,
    stage: options.Stage = None,
    resource: Annotated[
        str | None, typer.Option("--resource", metavar="[POOL/]NAME", help="Only on this resource.")
    ] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Only this attempt.")] = None,
    tail: options.Tail = None,
    as_json: options.Json = False,
) -> None:
    """Print what a lease's stages printed, or a part of it. It is text, with --json too."""
    part: dict[str, Any] = {"run": run, "stage": stage, "resource": resource, "attempt": attempt, "tail": tail}
    with connect() as client:
        for piece in client.log(lease, follow=follow, **part):
            print_bytes(piece)


def _steer(refs: list[str], call: Callable[[Client, str], Lease], as_json: bool) -> None:
    """Do `call` to every lease, whatever becomes of the others; the first failure gives the exit status."""
    done, status = [], Exit.DONE
    with connect() as client:
        for ref in refs:
            try:
                done.append(call(client, ref))
            except LeaseholdError as error:
                print_error(error, as_json)
                status = status or of_error(error)
    if done:
        _report(done, as_json, parting)
    raise typer.Exit(status)


def _report(leases: list[Lease], as_json: bool, describe: Callable[[Lease], str] = standing) -> None:
    if as_json:
        print_json(leases[0] if len(leases) == 1 else {"items": leases, "next_cursor": None})
        return
    for lease in leases:
        say(one_line(f"Lease {name_of(lease)}: {describe(lease)}"))


def _where(lease: Lease) -> str:
    expected = moment(lease["heartbeat_by"])
    return f"{standing(lease)}, heartbeat by {expected}" if expected else standing(lease)


def _what(lease: Lease) -> str:
    return " ".join(map(resource_name, held(lease))) or wanted(lease["items"])


def _facts(lease: Lease) -> list[tuple[str, Any]]:
    times = [
        (name, moment(value))
        for name, value in (
            ("created", lease["created_at"]),
            ("reserved from", lease["start_at"]),
            ("active about", lease["queue"] and lease["queue"]["eta"]),
            ("active", lease["active_at"]),
            ("expires", None if lease["ended_at"] else lease["expires_at"]),
            ("heartbeat by", lease["heartbeat_by"]),
            ("ended", lease["ended_at"]),
        )
    ]
    fields = [("id", lease["id"]), ("owner", lease["owner"]), ("cc", lease["cc"]), ("for", lease["description"])]
    wants = [
        ("asked for", wanted(lease["items"])),
        ("priority", lease["priority"] or None),
        ("share key", lease["share_key"]),
        ("ticket", lease["ticket"]),
    ]
    dead = [("degraded", degraded(one)) for one in lease["degraded"]]
    return [*fields, *wants, *commandwords.facts(lease), *times, *dead, ("Temporal", lease["temporal_url"])]
