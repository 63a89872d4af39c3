"""What is played while processes are killed: together the scenarios come to every commit that there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


def inventory(scene: Scene) -> None:
    """What operators do to pools and resources."""
    pool, client = f"{scene.name}-by-hand", scene.client
    failing = scene.pool(stages={"wipe": "exit 1"})
    again(lambda: client.put_pool(pool, {"name": pool, "resources": [{"name": "r0"}]}))
    again(lambda: client.put_resource(pool, "r1", tags=["new"]))
    again(lambda: client.offline(pool, "r1", "moving"))
    again(lambda: client.online(pool, "r1"))
    scene.ends(scene.take(failing, "fails"), "failed")
    again(lambda: client.repair(failing, "r0"), done=Conflict)
    again(lambda: client.delete_resource(pool, "r0"), done=NotFound)

    scene.all_free(failing)
    (left,) = client.resources(pool=pool)
    assert (left["name"], left["tags"], left["offline"]) == ("r1", ["new"], None)


ALL: Mapping[str, Callable[[Scene], None]] = {s.__name__: s for s in (handed_over, stopped, inventory)}
"""In this order: a commit that one comes to needs no kill in a later one."""

NOT_REACHED: Mapping[str, str] = {}
"""Writing methods of the ports that no scenario comes to, and why that is right."""
