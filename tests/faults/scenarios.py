"""What is played while processes are killed: together the scenarios come to every commit that there is."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from leasehold.errors import Conflict, LeaseNotActive, NotFound
from tests.faults.lane import HANG, Scene, again

STAGES = {"wipe": f"echo wiping\n{HANG}", "deliver": 'echo "key $LEASEHOLD_EPOCH"', "release": ":"}


def handed_over(scene: Scene) -> None:
    """One lease through its stages with another one behind it: extended, released, recycled; then the next one."""
    pool, client = scene.pool(stages=STAGES), scene.client
    first = scene.take(pool, "first", wait=True)
    second = scene.take(pool, "second")
    again(lambda: client.extend(first, by="10m", idempotency_key=f"{scene.name}-extend"), refused=LeaseNotActive)
    _is_delivered(scene, first)
    client.release(first)
    scene.comes_to(second, "active")
    _is_delivered(scene, second)
    client.release(second)

    scene.ends(first, "released")
    scene.ends(second, "released")
    scene.all_free(pool)
    extensions = [e for e in client.events(first) if e["kind"] == "lease_extended"]
    assert len(extensions) == 1, extensions


def _is_delivered(scene: Scene, lease: str) -> None:
    """The holder can read what was delivered for this very grant."""
    (resource,) = scene.client.lease(lease)["resources"]
    (delivered,) = scene.client.delivery(lease)["resources"]
    assert (delivered["data"] or "").strip() == f"key {resource['epoch']}"


def stopped(scene: Scene) -> None:
    """A lease is cancelled while a hook runs for it; the next one is held until it expires."""
    pool, client = scene.pool(stages=STAGES), scene.client
    hanging, waiting = scene.key("hanging"), scene.key("waiting")
    scene.hold("wipe", hanging)
    assert scene.take(pool, "hanging") == hanging
    assert scene.take(pool, "waiting", "1s") == waiting
    scene.until(lambda: scene.hooks.started("wipe", hanging), "the lease is being prepared")
    client.cancel(hanging)

    scene.ends(hanging, "cancelled")
    scene.ends(waiting, "expired")
    scene.all_free(pool)


FAILS_FIRST = (
    'ln -s "$LEASEHOLD_RESOURCE" first 2>/dev/null; test "$(readlink first)" != "$LEASEHOLD_RESOURCE" || exit 1'
)
"""For a hook: fail on the resource on which one of the pool ran first, whenever it runs there."""


def replaced(scene: Scene) -> None:
    """A resource fails its stages, and another takes its place."""
    pool, client = scene.pool(resources=2, stages={"wipe": FAILS_FIRST, "release": ":"}), scene.client
    lease = scene.take(pool, "one")
    scene.comes_to(lease, "active")
    (broken,) = client.resources(pool=pool, state="broken")
    kept = {r["name"]: r["state"] for r in client.lease(lease)["resources"]}
    assert kept.pop(broken["name"]) == "released"
    assert list(kept.values()) == ["ready"]
    assert sum(e["kind"] == "resource_broken" for e in client.resource_events(pool, broken["name"], 100)) == 1
    client.release(lease)
    scene.ends(lease, "released")
    scene.repaired(pool)
    scene.all_free(pool)


def held_for_repair(scene: Scene) -> None:
    """A resource fails its stages, and the lease waits until somebody has repaired it."""
    pool = scene.pool(stages={"wipe": "test -e repaired || exit 1", "release": ":"}, on_failure="hold")
    lease = scene.take(pool, "one")
    scene.until(lambda: list(scene.client.resources(pool=pool, state="broken")), "the resource is broken")
    (scene.hooks.folder / "repaired").touch()
    scene.repaired(pool)
    scene.comes_to(lease, "active")
    scene.client.release(lease)
    scene.ends(lease, "released")
    scene.all_free(pool)


def grown(scene: Scene) -> None:
    """An active lease gets more, and gives back what it had first."""
    pool, client, call = scene.pool(resources=2, stages=STAGES), scene.client, scene.lane.call
    lease = scene.take(pool, "one", wait=True)
    (first,) = client.lease(lease)["resources"]
    body, key = {"items": [{"pool": pool}]}, f"{scene.name}-more"
    again(lambda: call("POST", "leases", lease, "resources", json=body, key=key), refused=LeaseNotActive)
    scene.until(lambda: scene.happened(lease, "lease_resource_ready"), "what was added is ready")
    again(lambda: call("DELETE", "leases", lease, "resources", pool, first["name"]), refused=LeaseNotActive)
    gone, left = client.lease(lease)["resources"]
    assert (gone["name"], gone["state"], left["state"]) == (first["name"], "released", "ready")
    (delivered,) = client.delivery(lease)["resources"]
    assert (delivered["data"] or "").strip() == f"key {left['epoch']}"
    client.release(lease)

    scene.ends(lease, "released")
    scene.all_free(pool)
    assert [scene.happened(lease, f"lease_{what}") for what in ("grown", "shrunk", "resource_ready")] == [1, 1, 1]


def lost(scene: Scene) -> None:
    """A holder is heard of once, and never again, while a hook runs for the lease; the next one gets what it had."""
    pool = scene.pool(stages=STAGES)
    silent = scene.key("silent")
    scene.hold("wipe", silent)
    assert scene.take(pool, "silent", heartbeat="1s") == silent
    next_one = scene.take(pool, "next")
    # Killed and started again the API may be too late to hear of it.
    with suppress(LeaseNotActive):
        scene.lane.call("POST", "leases", silent, "heartbeat")
    scene.ends(silent, "lost")
    scene.comes_to(next_one, "active")
    scene.client.release(next_one)
    scene.ends(next_one, "released")
    scene.all_free(pool)


def waited(scene: Scene) -> None:
    """A lease is reserved, and begins; one that would wait no longer fails; what both waited for comes back."""
    pool = scene.pool(stages={"wipe": ":", "release": ":"})
    start = datetime.now(UTC) + timedelta(seconds=3)
    reserved = scene.take(pool, "reserved", start_at=start.isoformat())
    impatient = scene.take(pool, "impatient", queue_timeout="1s")
    scene.ends(impatient, "failed")
    scene.comes_to(reserved, "active")
    assert datetime.fromisoformat(scene.client.lease(reserved)["active_at"] or "") >= start
    scene.client.release(reserved)
    scene.ends(reserved, "released")
    scene.all_free(pool)
    happened = [scene.happened(reserved, f"lease_{what}") for what in ("reserved", "preparing", "active")]
    assert happened == [1, 1, 1], happened


def reminded(scene: Scene) -> None:
    """A lease is warned, gets its grace, and ends."""
    pool = scene.pool(stages={"release": ":"}, warn_before=["1s"], grace="1s")
    lease = scene.take(pool, "one", "2s")
    scene.ends(lease, "expired")
    scene.all_free(pool)
    happened = {kind: scene.happened(lease, f"lease_{kind}") for kind in ("expiring", "grace", "ended")}
    # Who comes too late for a warning, or for the grace, does without it; nobody gets one twice.
    assert happened["ended"] == 1, happened
    assert max(happened.values()) == 1, happened


def limited(scene: Scene) -> None:
    """Two leases and their recyclings share one slot of a limiter; the one that waits for it is told."""
    slots = f"{scene.name}-slots"
    one_at_a_time = f'exec 3>>running; flock -n 3 || echo "$who ran beside another" >>faults\n{HANG}'
    stages = {"wipe": {"run": one_at_a_time, "limit": slots}, "release": {"run": ":", "limit": slots}}
    pool, client = scene.pool(resources=2, stages=stages, limits={slots: 1}), scene.client
    first = scene.key("first")
    holding = scene.hold("wipe", first)
    assert scene.take(pool, "first") == first
    scene.until(lambda: scene.hooks.started("wipe", first), "the first has the slot")
    second = scene.take(pool, "second")
    scene.until(lambda: client.lease(second)["state"] == "preparing", "the second waits for the slot")
    holding.unlink()
    for lease in (first, second):
        scene.comes_to(lease, "active")
        client.release(lease)
        scene.ends(lease, "released")
    scene.all_free(pool)


def as_a_whole(scene: Scene) -> None:
    """A stage is run once for all that a lease has, after each resource's own stages."""
    stages = {"wipe": ":", "configure": {"run": ":", "scope": "lease"}, "deliver": "echo key", "release": ":"}
    pool = scene.pool(resources=2, stages=stages)
    lease = scene.take(pool, "one", count=2, wait=True)
    done = [entry.stage for entry in scene.hooks.entries if entry.what == "end"]
    assert sorted(done[: done.index("configure")]) == ["wipe", "wipe"], done
    scene.client.release(lease)
    scene.ends(lease, "released")
    scene.all_free(pool)


def ahead(scene: Scene) -> None:
    """A resource is prepared before anybody asks, and again after each lease."""
    pool = scene.pool(stages={"wipe": ":", "deliver": "echo key", "release": ":"}, prepare="ahead")
    scene.all_free(pool)
    lease = scene.take(pool, "one", wait=True)
    scene.client.release(lease)
    scene.ends(lease, "released")
    scene.all_free(pool)
    done = [entry.stage for entry in scene.hooks.entries if entry.what == "end"]
    assert list(dict.fromkeys(done)) == ["wipe", "deliver", "release"], done
    assert done[-1] == "wipe", done


def unserved(scene: Scene) -> None:
    """A lease shows that no worker is there for its site, until it is cancelled."""
    pool = scene.pool(stages={"wipe": ":"}, site=f"{scene.name}-site")
    lease = scene.take(pool, "one")
    scene.until(lambda: scene.happened(lease, "lease_blocked"), "the lease shows what it waits for")
    scene.client.cancel(lease)
    scene.ends(lease, "cancelled")
    scene.all_free(pool)


def inventory(scene: Scene) -> None:
    """What operators do to pools and resources."""
    pool, client = f"{scene.name}-by-hand", scene.client
    failing = scene.pool(stages={"wipe": "exit 1"})
    again(lambda: client.put_pool(pool, {"name": pool, "resources": [{"name": "r0"}]}))
    again(lambda: client.put_resource(pool, "r1", tags=["new"]))
    again(lambda: client.offline(pool, "r1", "moving"))
    again(lambda: client.online(pool, "r1"))
    again(lambda: client.pause(pool, "new switch"))
    again(lambda: client.resume(pool))
    scene.ends(scene.take(failing, "fails"), "failed")
    again(lambda: client.repair(failing, "r0"), done=Conflict)
    again(lambda: client.delete_resource(pool, "r0"), done=NotFound)

    scene.all_free(failing)
    (left,) = client.resources(pool=pool)
    assert (left["name"], left["tags"], left["offline"]) == ("r1", ["new"], None)
    again(lambda: client.delete_pool(pool), done=NotFound)
    assert pool not in {one["name"] for one in client.pools()}


def handed_on(scene: Scene) -> None:
    """A lease goes to another owner while it is held, and self-service is closed and opened beside it."""
    pool, client = scene.pool(stages=STAGES), scene.client
    lease = scene.take(pool, "one")
    scene.comes_to(lease, "active")
    again(lambda: client.force_self_service("off", "moved", pool))
    again(lambda: client.transfer(lease, "tom"))
    again(lambda: client.force_self_service("auto", "moved", pool))
    assert client.lease(lease)["owner"] == "tom"
    _is_delivered(scene, lease)
    client.release(lease)
    scene.ends(lease, "released")
    scene.all_free(pool)


def commanded(scene: Scene) -> None:
    """Two commands want one resource; what is requested again while it runs is answered with its lease."""
    pool, client = scene.pool(stages={"release": ":"}), scene.client
    holding = [scene.hold("command", scene.key(key)) for key in ("first", "again", "second")]
    first = scene.take(pool, "first", command=scene.command(3))
    same = scene.take(pool, "again", command=scene.command(3, duplicates="drop"))
    # Whoever asks while no worker is there learns by asking again which lease it is.
    scene.until(lambda: client.lease(same)["state"] != "submitted", "a worker has seen the request")
    same = scene.take(pool, "again", command=scene.command(3, duplicates="drop"))
    second = scene.take(pool, "second", command=scene.command(4))
    # With everything killed the first one may have been over by then.
    assert same == first or not scene.spares_runner
    for file in holding:
        file.unlink()

    for lease in {first, same}:
        _runs(scene, lease, 3)
    _runs(scene, second, 4)
    scene.all_free(pool)
    assert scene.commanded == []


def commanded_again(scene: Scene) -> None:
    """A command that may run again does so, whenever its runner is killed, or stopped, under it."""
    pool, lease, begun = scene.pool(stages={"release": ":"}), scene.key("one"), 0

    def latest() -> int:
        return max(scene.hooks.attempts("start", lease), default=0)

    holding = scene.hold("command", lease)
    # Once more for the runner that is killed with everything.
    assert scene.take(pool, "one", command=scene.command(retry=3)) == lease
    for number in (signal.SIGKILL, signal.SIGTERM, None):
        scene.until(lambda begun=begun: latest() > begun, "it runs again")  # type: ignore[misc]
        begun = latest()
        if number is not None:
            scene.end_runner(number)
    holding.unlink()

    assert _ended(scene, lease) == ("exited", 0)
    scene.all_free(pool)
    assert scene.commanded == []
    assert len(scene.hooks.attempts("start", lease)) >= 3


def _runs(scene: Scene, lease: str, status: int) -> None:
    """Wait until a command has ended: it has run once, to its end, unless it had begun when all was killed."""
    result = _ended(scene, lease)
    assert result == ("exited", status) or (result == ("lost", None) and not scene.spares_runner), result
    begun = scene.hooks.attempts("start", lease)
    assert len(begun) == 1 or (result == ("lost", None) and not begun), begun


def _ended(scene: Scene, lease: str) -> tuple[str | None, int | None]:
    """Wait until a command has ended, and return how; of one that came to its end all that it printed is there."""
    command = scene.ended_command(lease)
    assert command["started"], command
    if command["result"] == "exited":
        assert command["attempt"] in scene.hooks.attempts("end", lease)
        printed = b"".join(scene.client.output(lease, attempt=command["attempt"]))
        assert printed == scene.words(lease), printed
        assert command["output"]["bytes"] == len(printed), command
    return command["result"], command["exit_code"]


def made(scene: Scene) -> None:
    """A pool makes what somebody takes, checks and lists it, makes another, and in the end has nothing any more."""
    folder, client = scene.hooks.folder, scene.client
    looks = {
        "livecheck": {"run": f"touch {folder}/checked; test -e {folder}/made/$LEASEHOLD_RESOURCE", "every": "1s"},
        "list": {"run": f"touch {folder}/listed; ls {folder}/made", "every": "1s"},
    }
    pool = scene.dynamic_pool({"max": 2, "min_free": 1}, **looks)
    lease = scene.take(pool, "one", wait=True)
    (delivered,) = client.delivery(lease)["resources"]
    assert delivered["data"] == "key\n"
    scene.until(lambda: (folder / "checked").exists() and (folder / "listed").exists(), "it is looked after")
    client.release(lease)
    scene.ends(lease, "released")
    scene.all_free(pool)
    assert {one["name"] for one in client.resources(pool=pool)} == scene.made

    scene.applied()
    scene.until(lambda: pool not in {one["name"] for one in client.pools()}, "the pool is gone")
    assert scene.made == set()


SCENARIOS = (
    handed_over,
    reminded,
    stopped,
    replaced,
    held_for_repair,
    grown,
    lost,
    waited,
    limited,
    as_a_whole,
    ahead,
    unserved,
    handed_on,
    commanded,
    commanded_again,
    made,
    inventory,
)
ALL: Mapping[str, Callable[[Scene], None]] = {s.__name__: s for s in SCENARIOS}
"""In this order: a commit that one comes to needs no kill in a later one."""

_SWEEP = "made by a pass of the sweep, each minute, or by reconcile; tests/workflows plays what they meet"
_TOKENS = "one row about a token, which no lease depends on; tests/e2e/test_tokens.py"

NOT_REACHED: Mapping[str, str] = {
    **dict.fromkeys(("open_pass", "close_pass", "recycle_again", "check_temporal", "rebuild", "prune"), _SWEEP),
    **dict.fromkeys(("create", "revoke", "used"), _TOKENS),
    "outbox_failed": "made where Temporal does not answer: one note, which the next delivery outdates",
    "try_admission": "undone whatever happens: a dry run writes nothing",
    "letter_lost": "made where an address is refused, or after a day; run again it notes the same once more",
    "channel_trouble": "an alert, which the next letter puts right",
    "close_forgotten": "the transaction of close_lease, for a lease whose workflow somebody has terminated in Temporal",
    "forget": "made for a workflow that is closed and no lease's: a recycling that somebody has terminated in Temporal",
}
"""Writing methods of the ports that no scenario comes to, and why that is right."""
