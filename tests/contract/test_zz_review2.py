from __future__ import annotations
import time
from tests.contract.test_zz_review import *
from tests.contract.test_zz_review import show, guard
from sqlalchemy import event
for _n in [n for n in dict(globals()) if n.startswith("test_")]: del globals()[_n]

async def test_tags_change2(cloud):
    print("\n== tags changed at max")
    for idle in (None, timedelta(days=30)):
        p=dict(size=Size(max=2, min_free=2, max_creating=2, idle=idle), name=f"vm{'' if idle is None else 'i'}")
        await cloud.apply(vm(tags={"x86_64": 0}, **p), name=p["name"])
        await cloud.settle()
        await cloud.apply(vm(tags={"x86_64": 0, "f40": 0}, **p), name=p["name"])
        await cloud.lab.submit("a"+p["name"], Item(tags=("f40",), pool=p["name"]))
        await cloud.settle()
        for _ in range(3):
            cloud.lab.clock.forward(hours=1); await cloud.tend(p["name"]); await cloud.settle()
        await show(cloud); print("   lease", await cloud.lab.state("a"+p["name"]))
    print([ (e.kind,e.reason) for e in await cloud.lab.store.events(limit=1000) if e.kind=="resource_deleting"])

async def test_put_into_dynamic(cloud):
    print("\n== PUT of a resource into a dynamic pool")
    await cloud.apply(vm(size=Size(max=2,min_free=1),), name="default"); await cloud.settle()
    n=(await cloud.resources())[0].name
    await guard(cloud.lab.store.put_resource("vm", ResourceSpec(name=n, tags=("mine",)), "op"), "put existing dynamic name")
    await guard(cloud.lab.store.put_resource("vm", ResourceSpec(name="static1"), "op"), "put static")
    await cloud.settle(); await show(cloud)

async def test_keep_broken(cloud):
    print("\n== keep_broken = max starves")
    await cloud.apply(vm("vm","validate",size=Size(max=2,max_creating=1,keep_broken=2)))
    for l in "ab":
        await cloud.lab.submit(l, pool="vm"); await cloud.settle(); await cloud.lab.store.activate(l); await cloud.lab.close(l, broken="odd"); await cloud.settle()
    await cloud.lab.submit("c", pool="vm"); await cloud.settle(); cloud.lab.clock.forward(hours=1); t_=await cloud.tend(); await cloud.settle(); await show(cloud); print("  ", await cloud.lab.state("c"), t_)

async def test_pause_age(cloud):
    print("\n== paused: age, kept")
    await cloud.apply(vm(size=Size(max=2,min_free=2,max_creating=2,age=timedelta(hours=1)))); await cloud.settle()
    await cloud.lab.store.pause("vm","x","op"); cloud.lab.clock.forward(hours=2); await cloud.tend(); await cloud.settle(); await show(cloud)

async def test_listed_twice(cloud):
    print("\n== the same listing recorded twice")
    await cloud.apply(vm(listing=LISTING)); 
    orders=[s for s in await cloud.due() if isinstance(s, ListPool)]
    await cloud.tend(); order=[s for s in await cloud.due() if isinstance(s, ListPool)][0]
    x="vm_00000077_20260105_090000"
    await cloud.lab.store.tending.listed(order,[x]); await cloud.lab.store.tending.listed(order,[x]); await show(cloud)

async def test_lost_churn(cloud):
    print("\n== lost creations are not paused")
    await cloud.apply(vm(size=Size(max=1,min_free=1)))
    starts=0
    for _ in range(20):
        due=await cloud.lab.store.outbox_due()
        await cloud.lab.store.outbox_delivered([p.id for p in due])
        for p in due:
            if isinstance(p.start, CreateResource):
                starts+=1; await cloud.lab.store.tending.created(Created(claim=p.start.claim, failed="create: its worker went away", lost=True))
            else: await cloud.do(p)
    print("   starts without time passing", starts)

async def test_perf(cloud):
    print("\n== perf")
    count=[0]
    def c(*a): count[0]+=1
    event.listen(cloud.lab.store.database.writer, "before_cursor_execute", c)
    lc=Cadence(every=timedelta(minutes=5), attempts=3, parallel=10)
    s=replace(spec("r640"), livecheck=lc, stages={StageName.LIVECHECK:(Hook(run="x", timeout=timedelta(minutes=1)),)})
    await cloud.lab.store.apply(file((s, hosts(3000))), "op")
    async def m(label, co):
        count[0]=0; t0=time.perf_counter(); r=await co; print("   ", label, "statements", count[0], "ms", round((time.perf_counter()-t0)*1000,1)); return r
    await m("first tend, 3000 due", cloud.tend("r640"))
    rounds=[p.start for p in await cloud.lab.store.outbox_due(10000) if isinstance(p.start, CheckRound)]
    print("   rounds", len(rounds), "parallel together", len(rounds)*lc.parallel)
    res=[Checked(pool=h.pool,resource=h.resource,epoch=h.epoch,failed=None) for h in rounds[0].resources]
    await m("checked 100 alive", cloud.lab.store.tending.checked(res))
    await m("checked 1 alive", cloud.lab.store.tending.checked(res[:1]))
    await m("tend, nothing due", cloud.tend("r640"))
    cloud.lab.clock.forward(minutes=10)
    await m("tend again, 3000 due", cloud.tend("r640"))
    await cloud.apply(vm(size=Size(max=500,max_creating=500,min_free=300)), name="x")
    await m("tend creating 100", cloud.tend())
    for _ in range(6):
        for p in await cloud.lab.store.outbox_due(10000):
            await cloud.lab.store.outbox_delivered([p.id])
            if isinstance(p.start,(CreateResource,)): await cloud.do(p)
        await cloud.tend()
    await m("tend of 300", cloud.tend())
    await cloud.apply(vm(size=Size(max=500,max_creating=500)), name="x")
    await m("tend deleting 100", cloud.tend())

async def test_kept_over_reuse_time(cloud):
    print("\n== kept beyond reuse_time")
    await cloud.apply(vm(policy=Policy(reuse_window=timedelta(hours=1), reuse_time=timedelta(hours=1))))
    await cloud.lab.submit("a", pool="vm", share_key="k"); await cloud.settle()
    cloud.lab.clock.forward(minutes=50); await cloud.lab.close("a"); await cloud.settle(); n=(await cloud.resources())[0].name
    cloud.lab.clock.forward(minutes=50); await cloud.tend()
    await cloud.lab.submit("b", pool="vm", share_key="k"); print("   same, 100 min after first grant:", await cloud.lab.held("b")==[n])

async def test_hold_closed_resource_gone_api(cloud):
    print("\n== other readers with the resource gone")
    await cloud.apply(vm("vm", "validate", policy=Policy(on_failure=OnFailure.HOLD)))
    await cloud.lab.submit("a", pool="vm"); await cloud.settle()
    claims=(await cloud.lab.store.standing("a")).claims
    await cloud.lab.report("a", *claims); await cloud.settle()
    await guard(cloud.lab.store.lease("a"), "lease")

async def test_rollover_unbounded(cloud):
    from leasehold import naming
    p=naming.fitting("{pool_name}_{id}","vm"); print("\n== long", bool(p.match("vm_"+"1"*400)))

async def test_drain_queue_waiter(cloud):
    print("\n== emptied pool and CREATING etc")

async def test_avail(cloud):
    await cloud.apply(vm(size=Size(max=5)))
    print(await guard(cloud.lab.store.available(__import__("leasehold.ports",fromlist=["x"]).AvailableFilter() ), "avail") if hasattr(__import__("leasehold.ports",fromlist=["x"]),"AvailableFilter") else "")

async def test_reservation_online_dynamic(cloud):
    print("\n== promised VM deleted as surplus")
    await cloud.apply(vm(size=Size(max=4, min_free=1))); await cloud.settle()
    await cloud.lab.submit("r", pool="vm", start_at=cloud.lab.clock.now+timedelta(hours=1))
    await cloud.apply(vm(size=Size(max=4))); await cloud.settle(); await show(cloud)
    print("   promises", await cloud.lab.store.database.read(lambda c: c.execute(select(t.promises.c.resource)).all()))
    cloud.lab.clock.forward(hours=1); await cloud.lab.store.wake("r"); print("   due", await cloud.lab.store.outbox_due(), await cloud.lab.state("r")); await cloud.tend(); await cloud.settle(); print("   after tend", await cloud.lab.state("r"))
