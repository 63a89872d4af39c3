"""How pools are put into words: what they are, how they stand, and how those that make their resources come along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from leasehold.cli.output import written
from leasehold.cli.words import exact, moment, span

Pool = Mapping[str, Any]
Facts = list[tuple[str, Any]]


def standing(pool: Pool) -> str:
    """How a pool stands: `lending, 2 of 3 free, 1 waiting`."""
    return f"{_lending(pool)}, {pool['free']} of {pool['total']} free, {pool['waiting']} waiting"


def _lending(pool: Pool) -> str:
    paused = pool["paused"]
    if paused is None:
        return "lending"
    drained = ", and what it has made is deleted" if pool["drain"] else ""
    return f"paused by {paused['by']}: {paused['reason']}{drained}"


def creating(pool: Pool) -> int | None:
    """How many resources a dynamic pool is creating."""
    return pool["states"].get("creating", 0) if pool["dynamic"] else None


def most(pool: Pool) -> int | None:
    """How many resources a dynamic pool has at most."""
    return pool["size"]["max"] if pool["size"] else None


def facts(pool: Pool) -> Facts:
    """What a pool is, as far as it says so."""
    size, livecheck, listing = pool["size"], pool["livecheck"], pool["list"]
    return [
        ("description", pool["description"]),
        ("file", pool["file"]),
        ("leaves its file", "once nobody has anything of it" if pool["draining"] else None),
        ("folder", pool["folder"]),
        ("site", pool["site"]),
        ("priority", pool["priority"] or None),
        ("resources", ", ".join(f"{many} {state}" for state, many in pool["states"].items())),
        ("size", _size(size) if size else None),
        ("free ones", _surplus(size) if size else None),
        ("broken ones", _broken(size) if size else None),
        ("tags", _tags(pool["tags"])),
        ("tags on demand", _tags(pool["tags_on_demand"])),
        ("properties", pool["properties"]),
        ("names", pool["name_pattern"]),
        ("counters", pool["named_counters"]),
        ("livecheck", livecheck and f"every {livecheck['every']}, dead after {_failures(livecheck['attempts'])}"),
        ("listed", listing and f"every {listing['every']}"),
        ("cost", _cost(pool)),
    ]


def _size(size: Mapping[str, Any]) -> str:
    said = f"at most {size['max']}, {size['min_free']} kept free, {size['max_creating']} created at once"
    return f"{said}, {size['create_delay']} apart" if size["create_delay"] else said


def _surplus(size: Mapping[str, Any]) -> str:
    idle = f"after {size['idle']}" if size["idle"] else "at once"
    old = f", and whatever is older than {size['age']}" if size["age"] else ""
    return f"those that nobody needs are deleted {idle}{old}"


def _broken(size: Mapping[str, Any]) -> str:
    if not size["keep_broken"]:
        return "deleted at once"
    return f"the last {size['keep_broken']} are kept for {size['keep_broken_for']}"


def _tags(tags: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{tag['name']} ({tag['priority']})" if tag["priority"] else tag["name"] for tag in tags]


def _failures(many: int) -> str:
    return "one failure" if many == 1 else f"{many} failures in a row"


def _cost(pool: Pool) -> str | None:
    if pool["cost_per_hour"] is None:
        return None
    statistics = pool["statistics"]
    now = f", {statistics['cost_per_hour']:g} for all there is" if statistics else ""
    return f"{pool['cost_per_hour']:g} an hour for each{now}"


def creations(statistics: Mapping[str, Any]) -> Facts:
    """How a dynamic pool has made its resources so far, and whether it goes on."""
    first = statistics["first_grant_seconds"]
    strays = statistics["strays"]
    return [
        ("circuit", _circuit(statistics)),
        ("so far", _so_far(statistics)),
        ("last begun", exact(statistics["last_attempt_at"])),
        ("last success", exact(statistics["last_success_at"])),
        ("last failure", statistics["trouble"]),
        ("first lease", None if first is None else f"{span(first)} after it was made, on average"),
        ("unknown", f"{strays} that a listing found" if strays else None),
        ("listing fails", statistics["list_trouble"]),
    ]


def _circuit(statistics: Mapping[str, Any]) -> str:
    failures = statistics["failures"]
    if not failures:
        return str(statistics["circuit"])
    return f"{statistics['circuit']}: {_failures(failures)}, the next one is tried at {moment(statistics['retry_at'])}"


def _so_far(statistics: Mapping[str, Any]) -> str:
    if not statistics["starts"]:
        return "none has ended"
    took = statistics["start_seconds"]
    each = "" if took is None else f", {span(took)} each on average"
    well = f"{statistics['successes']} of {statistics['starts']} went well ({statistics['success_rate']:.0%})"
    return f"{well}{each}"


def hooks(stages: Mapping[str, Iterable[Mapping[str, Any]]]) -> Facts:
    """The hooks of a pool, each with what it does and how long it may take."""
    return [(stage, _hook(hook)) for stage, those in stages.items() for hook in those]


def _hook(hook: Mapping[str, Any]) -> str:
    does = next((hook[driver] for driver in ("run", "http", "redfish") if driver in hook), "")
    what = " ".join(does) if isinstance(does, list) else written(does)
    more = [f"at most {hook['timeout']}"]
    more += [f"{hook['attempts']} attempts"] if hook["attempts"] > 1 else []
    more += ["once for a lease"] if hook["scope"] == "lease" else []
    more += [f"a slot of {hook['limit']}"] if hook["limit"] else []
    return f"{what} ({', '.join(more)})"
