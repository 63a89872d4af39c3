"""Commands about resources: `available`, `resource ls`, `show`, `logs`, `add`, `rm`, `offline`, `online`, `repair`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from leasehold.answers import Instance, Lease, Resource
from leasehold.cli import options, story
from leasehold.cli.account import last_words, print_story, with_output
from leasehold.cli.connect import connect
from leasehold.cli.output import note, one_line, print_bytes, print_fields, print_json, print_rows, say
from leasehold.cli.pools import print_applied
from leasehold.cli.words import exact, moment, name_of

_LAST_LEASES = 10


def available(
    pool: options.SomePool = None,
    match: options.Match = None,
    tag: options.Tag = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, max=1000, help="How many to print at most.")] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="DURATION", callback=options.as_duration, help="For how long; by default as pools lend."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Tell what could be leased now, or why not."""
    with connect() as client:
        answer = client.available(pool, count=count, match=match or (), tags=tag or (), limit=limit, duration=duration)
    if as_json:
        print_json(answer)
        return
    _print_resources(answer["resources"])
    note(f"{answer['free']} of {answer['total']} free")
    for promise in answer["promised"]:
        place = f"{promise['pool']}/{promise['name']}"
        note(one_line(f"{place} is promised to lease {promise['lease']} from {moment(promise['begins_at'])}"))
    if not answer["open"]:
        soon = f"; the next one at {moment(answer['next_free_at'])}" if answer["next_free_at"] else ""
        note(one_line(f"Not now: {answer['reason']}{soon}"))


def list_resources(
    pool: options.PoolOption = None,
    state: Annotated[str | None, typer.Option("--state", help="Only resources in this state.")] = None,
    match: options.Match = None,
    tag: options.Tag = None,
    as_json: options.Json = False,
) -> None:
    """List resources."""
    with connect() as client:
        found = list(client.resources(pool=pool, state=state, match=match or (), tags=tag or ()))
    if as_json:
        print_json({"items": found, "next_cursor": None})
    else:
        _print_resources(found)


def show(
    resource: options.ResourceName,
    last: Annotated[int, typer.Option("--last", min=1, max=1000, help="So much of its history.")] = 200,
    as_json: options.Json = False,
) -> None:
    """Tell a resource's story: what it is, who has it, who had it, what failed on it, and what operators did."""
    pool, name = options.split_resource(resource)
    with connect() as client:
        found = client.resource(pool, name)
        leases = client.lease_page(limit=_LAST_LEASES, resource=f"{pool}/{name}")["items"]
        events, runs = client.resource_events(pool, name, last), client.resource_runs(pool, name, last)
        outputs = last_words(client, runs)
    if as_json:
        print_json({**found, "leases": leases, "events": events, "runs": with_output(runs, outputs)})
        return
    say(one_line(f"Resource {pool}/{name}: {', '.join(filter(None, (found['state'], found['stage'])))}"))
    print_fields(_facts(found, leases), indent=2)
    if leases:
        say("Last leases")
        rows = [
            (f"  {name_of(one)}", one["owner"], one["outcome"] or one["state"], exact(one["created_at"]))
            for one in leases
        ]
        print_rows(("  LEASE", "OWNER", "STATE", "CREATED"), rows)
    say("What happened")
    print_story(story.of_resource(events, runs, outputs, story.leases_by_id(leases)))
    well = sum(run["ok"] is True for run in runs)
    if runs:
        say(f"  {well} of its last {len(runs)} runs of hooks went well")


def _facts(resource: Resource, leases: Sequence[Lease]) -> list[tuple[str, Any]]:
    offline, broken = resource["offline"], resource["broken"]
    holder = next((one for one in leases if one["id"] == resource["lease"]), None)
    return [
        ("leased to", f"lease {name_of(holder)} of {holder['owner']}" if holder else resource["lease"]),
        ("offline", offline and f"{offline['reason']} (by {offline['by']}, since {exact(offline['since'])})"),
        ("broken", broken and f"{broken['reason']} (since {exact(broken['since'])})"),
        ("suspect", "its last livecheck failed: nobody is given it" if resource["suspect"] else None),
        ("kept until", moment(resource["kept_until"])),
        ("epoch", resource["epoch"]),
        ("tags", resource["tags"]),
        ("properties", resource["properties"]),
        *(_facts_of_instance(resource["instance"]) if resource["instance"] else ()),
    ]


def _facts_of_instance(instance: Instance) -> list[tuple[str, Any]]:
    found = instance["id"] is None
    return [
        ("id", "none: a listing found it" if found else f"{instance['id']}, {instance['id_in_pool']} in its pool"),
        ("counters", instance["counters"]),
        ("created", exact(instance["created_at"])),
        ("ready", exact(instance["ready_at"])),
        ("leases so far", instance["uses"]),
        ("not deleted yet", instance["trouble"]),
    ]


def logs(
    resource: options.ResourceName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the resource is gone, or the run that --run names ends.")
    ] = False,
    run: options.Run = None,
    stage: options.Stage = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Only this attempt.")] = None,
    tail: options.Tail = None,
    as_json: options.Json = False,
) -> None:
    """Print what hooks printed on a resource while no lease was involved: its creation, livechecks, its deletion.

    What they printed for a lease: leasehold logs LEASE. It is text, with --json too.
    """
    part: dict[str, Any] = {"run": run, "stage": stage, "attempt": attempt, "tail": tail}
    with connect() as client:
        for piece in client.resource_log(*options.split_resource(resource), follow=follow, **part):
            print_bytes(piece)


def add(
    resource: options.ResourceName,
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", metavar="TAG", help="A tag; repeatable.")] = None,
    prop: Annotated[
        list[str] | None,
        typer.Option(
            "--property", metavar="K=V", help="A property: V is JSON if it can be read as such, else text. Repeatable."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Register a resource, or replace its tags and properties."""
    properties = dict(_read_property(text) for text in prop or ())
    with connect() as client:
        applied = client.put_resource(*options.split_resource(resource), tags=tag or (), properties=properties)
    print_applied(applied, as_json)


def remove(resource: options.ResourceName, as_json: options.Json = False) -> None:
    """Take a resource out of its pool; one that is leased goes when it is released."""
    with connect() as client:
        applied = client.delete_resource(*options.split_resource(resource))
    print_applied(applied, as_json)


def offline(
    resource: options.ResourceName,
    reason: options.Reason,
    as_json: options.Json = False,
) -> None:
    """Keep a resource from new leases; the one that has it keeps it."""
    with connect() as client:
        _report(client.offline(*options.split_resource(resource), reason), as_json)


def online(resource: options.ResourceName, as_json: options.Json = False) -> None:
    """Allow new leases of a resource again."""
    with connect() as client:
        _report(client.online(*options.split_resource(resource)), as_json)


def repair(resource: options.ResourceName, as_json: options.Json = False) -> None:
    """Put a broken resource through its cleaning again."""
    with connect() as client:
        _report(client.repair(*options.split_resource(resource)), as_json)


def _report(resource: Resource, as_json: bool) -> None:
    if as_json:
        print_json(resource)
    else:
        say(one_line(f"{resource['pool']}/{resource['name']}: {_standing(resource)}"))


def _print_resources(resources: list[Resource]) -> None:
    rows = [(f"{one['pool']}/{one['name']}", _standing(one), one["lease"], one["tags"]) for one in resources]
    print_rows(("RESOURCE", "STATE", "LEASE", "TAGS"), rows)


def _standing(resource: Resource) -> str:
    marks = [("broken", resource["broken"]), ("offline", resource["offline"])]
    said = [f"{name}: {mark['reason']}" for name, mark in marks if mark]
    instance = resource["instance"]
    if instance and instance["trouble"]:
        said.append(instance["trouble"])
    if resource["suspect"]:
        said.append("its livecheck fails")
    if resource["kept_until"]:
        said.append(f"kept until {exact(resource['kept_until'])}")
    state = resource["state"] if resource["stage"] is None else f"{resource['state']} ({resource['stage']})"
    return ", ".join([state, *said])


def _read_property(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"--property: {text!r} is not of the form K=V")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
