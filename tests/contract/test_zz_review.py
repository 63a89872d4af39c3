from __future__ import annotations
from dataclasses import replace
from datetime import timedelta
from typing import Any
import pytest, traceback
from sqlalchemy import select
from leasehold.messages import *
from leasehold.model import *
from leasehold.store import healing
from leasehold.store import tables as t
from tests.contract.dynamic_lab import LISTING, LIVECHECK, Cloud, planned, vm
from tests.contract.store_lab import HOST, Lab, file, run_of, spec, hosts

@pytest.fixture
def cloud(lab: Lab) -> Cloud:
    return Cloud(lab)

KEPT = Policy(reuse_window=timedelta(minutes=5))

async def show(cloud, what=""):
    print("   ", what, [(r.pool, r.name[:14], str(r.state), r.suspect, bool(r.kept_until), r.lease) for r in await cloud.resources()])

async def guard(co, label):
    try:
        r = await co
        print("   ok", label, r)
        return r
    except BaseException as e:
        print("   RAISED", label, type(e).__name__, e)

async def test_hold(cloud):
    print("\n== HOLD: broken resource awaited by a lease is deleted")
    await cloud.apply(vm("vm", "validate", policy=Policy(on_failure=OnFailure.HOLD)))
    await cloud.lab.submit("a", pool="vm")
    await cloud.settle()
    print("   state", await cloud.lab.state("a"))
    claims = (await cloud.lab.store.standing("a")).claims
    await cloud.lab.report("a", *claims)
    await show(cloud, "after report")
    await cloud.settle()
    await show(cloud, "after settle"); print("   there", cloud.there, await cloud.lab.state("a"))
    await guard(cloud.lab.store.repair("vm", claims[0].resource, "op"), "repair")
    await guard(cloud.lab.close("a", Outcome.CANCELLED), "close")
    print("   state", await cloud.lab.state("a"))

async def test_tags_change(cloud):
    print("\n== tags changed at max")
    await cloud.apply(vm(size=Size(max=2, min_free=2, max_creating=2), tags={"x86_64": 0}))
    await cloud.settle(); await show(cloud)
    await cloud.apply(vm(size=Size(max=2, min_free=2, max_creating=2), tags={"x86_64": 0, "f40": 0}))
    await cloud.lab.submit("a", Item(tags=("f40",)))
    for _ in range(5):
        await cloud.settle(); cloud.lab.clock.forward(hours=1); print("   tend", await cloud.tend())
    await show(cloud); print("   lease", await cloud.lab.state("a"))

async def test_suspect_no_livecheck(cloud):
    print("\n== static suspect, livecheck removed")
    s = spec("r640", "livecheck")
    s = replace(s, livecheck=LIVECHECK)
    await cloud.lab.store.apply(file((s, hosts(1))), "op")
    cloud.lives = lambda n: False
    await cloud.settle()
    await show(cloud)
    await cloud.lab.store.apply(file((spec("r640"), hosts(1))), "op")
    for _ in range(3):
        await cloud.settle(); cloud.lab.clock.forward(hours=3); await guard(cloud.tend("r640"), "tend")
    await cloud.lab.submit("a"); await show(cloud); print("   lease", await cloud.lab.state("a"))
    await guard(cloud.lab.store.repair("r640", "host01", "op"), "repair")

async def test_kept_static_window_removed(cloud):
    print("\n== static kept, reuse_window removed")
    await cloud.lab.store.apply(file((spec("r640", policy=KEPT), hosts(1))), "op")
    await cloud.lab.take("a", share_key="k")
    await cloud.lab.close("a"); await cloud.settle(); await show(cloud)
    await cloud.lab.store.apply(file((spec("r640"), hosts(1))), "op")
    for _ in range(3):
        await cloud.settle(); cloud.lab.clock.forward(hours=3); await guard(cloud.tend("r640"), "tend")
    await cloud.lab.submit("b", owner="bob", principal="b"); await show(cloud); print("   lease", await cloud.lab.state("b"))

async def test_repair_used(cloud):
    print("\n== repair of a used broken dynamic resource -> anyone")
    await cloud.apply(vm(size=Size(max=2, keep_broken=1)))
    await cloud.lab.submit("a", pool="vm"); await cloud.settle()
    await cloud.lab.store.activate("a")
    await cloud.lab.close("a", broken="it is odd"); await cloud.settle(); await show(cloud)
    name = (await cloud.resources())[0].name
    await cloud.lab.submit("b", pool="vm", owner="bob", principal="b")
    await guard(cloud.lab.store.repair("vm", name, "op"), "repair")
    await show(cloud); print("   b holds", await cloud.lab.held("b"), "alice had", name)

async def test_repair_used_sharekey(cloud):
    print("\n== repair -> kept for the old lease's key, stages")
    await cloud.apply(vm("vm", "release", policy=KEPT, size=Size(max=2, keep_broken=1)))
    await cloud.lab.submit("a", pool="vm", share_key="k"); await cloud.settle()
    await cloud.lab.close("a", broken="it is odd"); await cloud.settle()
    name = (await cloud.resources())[0].name
    cloud.lab.clock.forward(hours=5)
    await guard(cloud.lab.store.repair("vm", name, "op"), "repair"); await cloud.settle(); await show(cloud)

async def test_prepare_ahead_kept(cloud):
    print("\n== apply with changed preparation gives kept to anyone")
    pol = Policy(reuse_window=timedelta(minutes=5), prepare=Prepare.AHEAD)
    a = vm("vm", "wipe", policy=pol)
    await cloud.apply(a)
    await cloud.lab.submit("a", pool="vm", share_key="k"); await cloud.settle()
    if await cloud.lab.state("a") != "active": await cloud.lab.store.activate("a")
    await cloud.lab.close("a"); await cloud.settle(); await show(cloud)
    b = replace(a, stages={**a.stages, StageName.WIPE: (Hook(run="./other.sh"),)})
    await cloud.apply(b); 
    await cloud.lab.submit("b", pool="vm", owner="bob", principal="b")
    await cloud.settle(); await show(cloud, "after"); print("   b holds", await cloud.lab.held("b"))

async def test_quota_churn(cloud):
    print("\n== quota churn")
    await cloud.apply(vm(size=Size(max=10, max_creating=10), policy=Policy(per_owner=Quota(resources=2))))
    for n in range(12):
        await cloud.lab.submit(f"l{n}", pool="vm"); await cloud.settle()
    g=(await cloud.lab.store.pools("vm"))[0].growth; print("   starts", g.starts, await cloud.states(), "most", cloud.most)
    active=[f"l{n}" for n in range(12)]
    for k in range(4):
        for l in active:
            if await cloud.lab.state(l)=="active":
                await cloud.lab.close(l); break
        await cloud.settle()
        g=(await cloud.lab.store.pools("vm"))[0].growth; print("   after a close: starts", g.starts, await cloud.states())

async def test_barred_any_pool(cloud):
    print("\n== any-pool wish, barred in the cheap pool")
    tags={"x86_64":0}
    await cloud.apply(vm("cheap", tags=tags, priority=1, policy=Policy(per_owner=Quota(resources=1))), vm("dear", tags=tags, priority=2))
    for l in "ab":
        await cloud.lab.submit(l, Item(tags=("x86_64",))); await cloud.settle()
    for _ in range(5):
        cloud.lab.clock.forward(minutes=10); await cloud.tend("cheap"); await cloud.tend("dear"); await cloud.settle()
    await show(cloud); print("   ", [await cloud.lab.state(l) for l in "ab"])

async def test_stray_name_collision(cloud):
    print("\n== stray of a name with id_in_pool blocks creation")
    await cloud.apply(vm(size=Size(max=4, max_creating=4), name_pattern="{pool_name}-{id_in_pool}", listing=LISTING))
    cloud.there={"vm-0"}; cloud.deletes=lambda c: False
    await cloud.settle(); cloud.lab.clock.forward(hours=1); await cloud.tend(); await cloud.settle(); await show(cloud)
    await cloud.lab.submit("a", pool="vm")
    await guard(cloud.tend(), "tend")
    await guard(cloud.tend(), "tend")

async def test_static_name_collision(cloud):
    print("\n== static vm-0 while the pool became dynamic")
    s = replace(spec("vm"), )
    await cloud.lab.store.apply(file((s, (ResourceSpec(name="vm-0"),))), "op")
    await cloud.lab.take("a", pool="vm")
    await cloud.apply(vm(size=Size(max=4, min_free=1), name_pattern="{pool_name}-{id_in_pool}"))
    await guard(cloud.tend(), "tend")

async def test_restore_counter(cloud):
    print("\n== suspend: instance counter")
    from sqlalchemy import update
    await cloud.apply(vm(size=Size(max=9,max_creating=9,min_free=2), name_pattern="{pool_name}-{id}"))
    await cloud.settle()
    await cloud.lab.store.database.write(lambda tx: healing.suspend(tx, "old"))
    print("   counters", await cloud.lab.store.database.read(lambda c: c.execute(select(t.counters)).all()))

async def test_drain_anyone(cloud):
    print("\n== draining pool with anyone goes on lending")
    await cloud.apply(vm(policy=Policy(reuse=Reuse.ANYONE), size=Size(max=1)))
    await cloud.lab.submit("a", pool="vm"); await cloud.lab.submit("b", pool="vm"); await cloud.settle()
    await cloud.apply()
    await cloud.settle()
    print("   pools", [(p.spec.name,p.draining) for p in await cloud.lab.store.pools()])
    await guard(cloud.lab.submit("c", pool="vm"), "submit c to a draining pool")
    await cloud.lab.close("a"); await cloud.settle()
    await show(cloud); print("   ", [await cloud.lab.state(l) for l in "ab"])

async def test_shrunk_total(cloud):
    print("\n== total after shrinking")
    await cloud.apply(vm(size=Size(max=6, max_creating=6, min_free=6))); await cloud.settle()
    await cloud.apply(vm(size=Size(max=2, max_creating=6, min_free=2))); await cloud.settle()
    print("   ", await cloud.states())
    r = await cloud.lab.submit("a", Item(pool="vm", count=5)); print("   ", r.state, r.refusal)

async def test_selfservice(cloud):
    print("\n== self-service share with a dynamic pool")
    await cloud.apply(vm(policy=Policy(self_service=SelfService(free=0.3)), size=Size(max=10)))
    r = await guard(cloud.lab.submit("a", pool="vm", self_service=True), "submit")

async def test_selfservice_lab(cloud):
    s = spec("r640")
    f = Inventory(name="default", lab=Lab_(self_service=SelfService(free=0.3)), pools=((s, hosts(10)), (vm(size=Size(max=100)), ())))
    print("\n== self-service of the lab")
    await cloud.lab.store.apply(f, "op"); await cloud.settle()
    await guard(cloud.lab.submit("a", self_service=True), "submit to r640 with all 10 free")

async def test_reservation(cloud):
    print("\n== reservation")
    await cloud.apply(vm(size=Size(max=4)))
    await cloud.settle()
    at = cloud.lab.clock.now + timedelta(hours=1)
    await guard(cloud.lab.submit("a", pool="vm", start_at=at), "reserve empty")
    await cloud.apply(vm(size=Size(max=4, min_free=1)))
    await cloud.settle()
    await guard(cloud.lab.submit("b", pool="vm", start_at=at, duration="30m"), "reserve 1 with one there")
    await guard(cloud.lab.submit("c", pool="vm", start_at=at, duration="30m"), "reserve a second")
    await cloud.settle()
    # lose it
    cloud.lives=lambda n: False
    name=(await cloud.resources())[0].name
    await guard(cloud.lab.store.delete_resource("vm", name, "op"), "delete promised")
    await cloud.apply(vm(size=Size(max=4))); await cloud.settle()
    cloud.lab.clock.forward(hours=1, seconds=1)
    await guard(cloud.lab.store.wake("b"), "wake")
    print("   outbox after wake:", [p.start or p.lease for p in await cloud.lab.store.outbox_due()])
    await show(cloud)

async def test_promised_starves(cloud):
    print("\n== promised free one counts as supply")
    await cloud.apply(vm(size=Size(max=4, idle=timedelta(days=2), min_free=1)))
    await cloud.settle()
    at = cloud.lab.clock.now + timedelta(hours=10)
    await guard(cloud.lab.submit("r", pool="vm", start_at=at), "reserve")
    await cloud.apply(vm(size=Size(max=4, idle=timedelta(days=2))))
    await guard(cloud.lab.submit("a", pool="vm", duration="20h"), "a")
    for _ in range(3):
        await cloud.settle(); await cloud.tend()
    await show(cloud); print("   a", await cloud.lab.state("a"))

async def test_reuse_time(cloud):
    print("\n== reuse_time of ANYONE and kept")
    await cloud.apply(vm(policy=Policy(reuse=Reuse.ANYONE, reuse_time=timedelta(hours=1)), size=Size(max=1, min_free=1, idle=timedelta(days=1))))
    await cloud.settle(); await cloud.lab.submit("a", pool="vm"); await cloud.settle(); await cloud.lab.close("a"); await cloud.settle()
    n=(await cloud.resources())[0].name
    cloud.lab.clock.forward(hours=20); await cloud.tend(); await cloud.settle()
    await cloud.lab.submit("b", pool="vm"); print("   b has the same after 20h:", await cloud.lab.held("b")==[n])

async def test_offline_kept(cloud):
    print("\n== offline kept resource is deleted")
    await cloud.apply(vm(policy=KEPT)); await cloud.lab.submit("a", pool="vm", share_key="k"); await cloud.settle(); await cloud.lab.close("a"); await cloud.settle()
    n=(await cloud.resources())[0].name
    await cloud.lab.store.offline("vm", n, "look at it", "op")
    cloud.lab.clock.forward(minutes=6); await cloud.tend(); await cloud.settle(); await show(cloud)

async def test_offline_wake(cloud):
    print("\n== offline posts no tend")
    await cloud.apply(vm(size=Size(max=4, min_free=1))); await cloud.settle()
    n=(await cloud.resources())[0].name
    await cloud.lab.store.offline("vm", n, "x", "op"); print("   outbox", await cloud.lab.store.outbox_due())

async def test_degraded_given_back(cloud):
    print("\n== degraded stays after give back")
    await cloud.apply(vm(size=Size(max=4,max_creating=4), livecheck=LIVECHECK))
    await cloud.lab.submit("a", Item(pool="vm", count=2)); await cloud.settle()
    held=await cloud.lab.held("a"); bad=held[0]
    cloud.lives=lambda n: n!=bad
    for _ in range(3):
        cloud.lab.clock.forward(minutes=6); await cloud.tend(); await cloud.settle()
    print("   degraded", [d.name for d in (await cloud.lab.lease("a")).degraded])
    await cloud.lab.give_back("a", bad, "vm"); await cloud.settle()
    print("   degraded after", [d.name for d in (await cloud.lab.lease("a")).degraded])

async def test_replace_no_free(cloud):
    print("\n== REPLACE where nothing is free makes nothing")
    await cloud.apply(vm(size=Size(max=4,max_creating=4), livecheck=LIVECHECK, policy=Policy(on_degraded=OnDegraded.REPLACE)))
    await cloud.lab.submit("a", pool="vm"); await cloud.settle()
    held=await cloud.lab.held("a"); bad=held[0]
    cloud.lives=lambda n: n!=bad
    for _ in range(6):
        cloud.lab.clock.forward(minutes=6); await cloud.tend(); await cloud.settle()
    print("   still", await cloud.lab.held("a")==[bad], (await cloud.lab.kinds("a")).count("not_replaced"))

async def test_checks_pile(cloud):
    print("\n== check rounds pile up when slow")
    lc=Cadence(every=timedelta(minutes=5), attempts=3, parallel=2)
    s=replace(spec("r640"), livecheck=lc, stages={StageName.LIVECHECK:(Hook(run="x", timeout=timedelta(minutes=1)),)})
    await cloud.lab.store.apply(file((s, hosts(40))), "op")
    rounds=[]
    for _ in range(6):
        tended=await cloud.tend("r640")
        for p in await cloud.lab.store.outbox_due():
            if isinstance(p.start, CheckRound): rounds.append(p.start)
            await cloud.lab.store.outbox_delivered([p.id])
        cloud.lab.clock.forward(seconds=(tended.left_s or 0)+1)
    print("   rounds under way after", cloud.lab.clock.now, [len(r.resources) for r in rounds], "a round takes", 40/2*1, "minutes")

async def test_particular(cloud):
    print("\n== a named/identified wish makes useless ones")
    await cloud.lab.store.apply(file((spec("r640"), (ResourceSpec(name="h1", properties={"serial":"s1"}),)), (vm(size=Size(max=4,max_creating=4)),())), "op")
    await cloud.lab.take("z", pool="r640", owner="zed")
    for l,o in (("a","a"),("b","b"),("c","c")):
        await guard(cloud.lab.submit(l, Item(match=("serial=s1",)), owner=o, principal=o), l)
    await cloud.settle(); await show(cloud)

async def test_share_key_colon(cloud):
    from leasehold import sharing
    print("\n== key collision", sharing.key_of("a","b:c")==sharing.key_of("a:b","c"))

async def test_deleting_promised(cloud):
    print("\n== a deleting one is promised to a reservation")
    await cloud.apply(vm(size=Size(max=4, min_free=1))); await cloud.settle()
    n=(await cloud.resources())[0].name
    cloud.deletes=lambda c: False
    await cloud.lab.store.pause("vm","x","op") if False else None
    await cloud.apply(vm(size=Size(max=1))); await cloud.settle(); await show(cloud)
    await guard(cloud.lab.submit("r", pool="vm", start_at=cloud.lab.clock.now+timedelta(hours=1)), "reserve")
    print("   promises", await cloud.lab.store.database.read(lambda c: c.execute(select(t.promises.c.resource)).all()), n)

async def test_static_leaving(cloud):
    print("\n== static -> dynamic: room when static ones go")
    await cloud.lab.store.apply(file((spec("vm"), hosts(2))), "op")
    await cloud.lab.take("a", pool="vm"); await cloud.lab.take("b", pool="vm")
    await cloud.apply(vm(size=Size(max=2, max_creating=2))); await cloud.settle()
    await guard(cloud.lab.submit("c", pool="vm"), "c"); await cloud.settle()
    await show(cloud)
    await cloud.lab.close("a"); print("   outbox after static gone", [p.start for p in await cloud.lab.store.outbox_due()])

async def test_forced_open(cloud):
    print("\n== opening self-service wakes no pool")
    await cloud.apply(vm(policy=Policy(self_service=SelfService()), size=Size(max=2)))
    await cloud.lab.submit("a", pool="vm", self_service=True)
    await cloud.lab.store.force_self_service("vm", Opening.OFF, "x", "op"); await cloud.settle(); await show(cloud)
    await cloud.lab.store.force_self_service("vm", Opening.AUTO, "x", "op")
    print("   outbox", await cloud.lab.store.outbox_due(), await cloud.lab.state("a"))

async def test_dead_events_tries(cloud):
    print("\n== deletion_failed with attempts 3")
    await cloud.apply(vm(size=Size(max=1, min_free=1))); await cloud.settle()
    await cloud.apply(vm(size=Size(max=1))); 
    await cloud.tend()
    claim=[s for s in await cloud.due() if isinstance(s, DeleteResource)][0].claim
    cloud.deletes=lambda c: False
    await cloud.delete(claim, tries=3)
    print("   events", [e.kind for e in await cloud.lab.store.events(limit=1000) if "delet" in e.kind])
from leasehold.model import Lab as Lab_
