"""What went wrong with QUADS's self-scheduling, each by its name, and does not here."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest_asyncio

from tests.api.quads_lab import QuadsLab, ask, put, quads_lab
from tests.api.stack import PATIENCE_S, Json, Stack, fail


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack) -> AsyncIterator[QuadsLab]:
    async with quads_lab(stack) as made:
        yield made


async def test_no_waiting_queue(lab: QuadsLab) -> None:
    """Who finds nothing free waits for all of it at once, by asking for a lease; QUADS's calls then show it."""
    (host,) = await lab.hosts(1)
    first = await lab.assignment(cloud="cloud02")
    assert (await lab.add(first, host)).status_code == 201
    pool = host.partition("-")[0]
    items = [{"pool": lab.naming.clouds}, {"pool": pool}]
    waiting = (await lab.stack.post({"items": items})).json()
    assert waiting["state"] == "queued"
    await lab.http.post(f"/api/v3/assignments/terminate/{first['id']}")
    lease = await lab.stack.get(waiting, wait="active", timeout=PATIENCE_S)
    shown = await lab.show({"id": lease["number"]})
    assert (shown["active"], shown["validated"]) == (True, True)


async def test_races_at_the_limit(stack: Stack) -> None:
    async with (
        quads_lab(stack, clouds=20, self_service={"per_owner": {"leases": 2}}) as lab,
        lab.user("joe") as joe,
    ):
        answers = await asyncio.gather(*(ask(joe) for _ in range(8)))
        assert Counter(answer.status_code for answer in answers) == {201: 2, 403: 6}
        assert len((await lab.http.get("/api/v3/assignments/active?owner=joe")).json()) == 2


async def test_two_users_get_one_cloud(stack: Stack) -> None:
    async with quads_lab(stack, clouds=4) as lab, AsyncExitStack() as clients:
        users = [await clients.enter_async_context(lab.user(f"user{n}")) for n in range(6)]
        answers = await asyncio.gather(*(ask(user) for user in users))
        assert Counter(answer.status_code for answer in answers) == {201: 4, 400: 2}
        clouds = [answer.json()["cloud"]["name"] for answer in answers if answer.status_code == 201]
        assert len(set(clouds)) == 4
        assert len((await lab.http.get("/api/v3/assignments/active")).json()) == 4


async def test_two_users_name_one_cloud(lab: QuadsLab) -> None:
    async with lab.user("joe") as joe, lab.user("ann") as ann:
        answers = await asyncio.gather(*(ask(user, cloud="cloud03") for user in (joe, ann, joe, ann)))
    assert sorted(answer.status_code for answer in answers) == [201, 400, 400, 400]
    waiting = (await lab.http.get("/v1/leases", params={"pool": lab.naming.clouds, "state": "queued"})).json()
    assert waiting["items"] == [], "who was slower does not wait unseen"


async def test_many_requests_win_one_host(stack: Stack) -> None:
    async with quads_lab(stack, clouds=4) as lab:
        (host,) = await lab.hosts(1)
        made = [await lab.assignment() for _ in range(4)]
        answers = await asyncio.gather(*(lab.add(made[n % 4], host) for n in range(20)))
        assert Counter(answer.status_code for answer in answers) == {201: 1, 400: 19}
        current = (await lab.http.get("/api/v3/schedules/current", params={"host": host})).json()
        assert len(current) == 1


async def test_a_filter_operator_sticks_to_the_fields_after_it(lab: QuadsLab) -> None:
    (old,) = await lab.hosts(1, {"model": "R620", "rack": "a1"})
    (new,) = await lab.hosts(1, {"model": "R750", "rack": "a1"})
    (other,) = await lab.hosts(1, {"model": "R750", "rack": "b7"})
    for call in ("hosts", "available"):
        found = (await lab.http.get(f"/api/v3/{call}?model__ne=R620&rack=a1")).json()
        names = {one if isinstance(one, str) else one["name"] for one in found}
        assert names & {old, new, other} == {new}


async def test_a_login_in_the_second_of_a_logout_returns_the_revoked_token(lab: QuadsLab) -> None:
    name, password = "quick@example.com", "correct horse"
    answer = await lab.http.post("/v1/users", json={"name": name, "password": password})
    assert answer.status_code == 201, fail(answer)
    seen = set()
    for _ in range(3):
        token = (await lab.http.post("/api/v3/login/", auth=(name, password))).json()["auth_token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert (await lab.http.get("/api/v3/hosts", headers=headers)).status_code == 200
        assert (await lab.http.post("/api/v3/logout/", headers=headers)).status_code == 200
        assert (await lab.http.get("/api/v3/hosts", headers=headers)).status_code == 401
        seen.add(token)
    assert len(seen) == 3


async def test_nested_unknown_fields_give_500(lab: QuadsLab) -> None:
    for field in ("disks.colour", "interfaces.id.x", "memory.", "processors.__class__", "disks.size_gb__colour"):
        for call in ("hosts", "available"):
            answer = await lab.http.get(f"/api/v3/{call}", params={field: "1"})
            assert answer.status_code == 400, fail(answer)


async def test_requests_without_hosts_become_ghosts(stack: Stack) -> None:
    async with quads_lab(stack, clouds=1, default_duration="1s") as lab:
        made = await lab.assignment()
        await lab.stack.get({"id": str(made["id"])}, wait="ended", timeout=PATIENCE_S)
        assert (await lab.show(made))["active"] is False
        (host,) = await lab.hosts(1, policy={"default_duration": "5d"})
        kept = await lab.assignment()
        assert (await lab.add(kept, host)).status_code == 201
        await asyncio.sleep(1.2)
        assert (await lab.show(kept))["active"] is True


async def test_any_user_can_add_hosts_to_anothers_assignment(lab: QuadsLab) -> None:
    (host,) = await lab.hosts(1)
    async with lab.user("joe") as joe, lab.user("mallory") as mallory, lab.user("otto", "operator") as otto:
        made = await lab.assignment(joe)
        answer = await lab.add(made, host, mallory)
        assert (answer.status_code, answer.json()["error"]) == (403, "Forbidden"), fail(answer)
        assert (await lab.http.get("/api/v3/schedules/current", params={"host": host})).json() == []
        assert (await lab.add(made, host, otto)).status_code == 201


async def test_one_failing_host_holds_all(lab: QuadsLab) -> None:
    good = await lab.hosts(2, validate={"run": "true"})
    (bad,) = await lab.hosts(1, validate={"run": "exit 3"})
    made = await lab.assignment()
    for host in (good[0], bad, good[1]):
        assert (await lab.add(made, host)).status_code == 201
    await lab.until_validated(made)
    current = (await lab.http.get("/api/v3/schedules/current", params={"cloud": made["cloud"]["name"]})).json()
    assert [one["host"]["name"] for one in current] == good
    shown = (await lab.http.get(f"/api/v3/hosts/{bad}")).json()
    assert (shown["broken"], shown["cloud"]["name"]) == (True, "cloud01")


async def test_validation_starts_late_and_everything_waits_for_cron(lab: QuadsLab) -> None:
    """Each stage begins as soon as the one before it has ended, and the last one is seen at once."""
    (host,) = await lab.hosts(1, provision={"run": "true"}, validate={"run": "true"})
    made = await lab.assignment()
    await lab.add(made, host)
    await lab.until_validated(made)
    runs = (await lab.http.get(f"/v1/leases/{made['id']}/runs")).json()["items"]
    assert [run["stage"] for run in runs] == ["provision", "validate"]
    lease = (await lab.http.get(f"/v1/leases/{made['id']}")).json()
    assert lease["resources"][-1]["state"] == "ready"


async def test_a_retry_without_end(lab: QuadsLab) -> None:
    tried = lab.stack.new_path()
    (host,) = await lab.hosts(1, provision={"run": f"echo >> {tried}; exit 1", "attempts": 2})
    made = await lab.assignment()
    await lab.add(made, host)
    async with asyncio.timeout(PATIENCE_S):
        while not (await lab.http.get(f"/api/v3/hosts/{host}")).json()["broken"]:
            await asyncio.sleep(0.02)
    assert tried.read_text() == "\n\n"
    answer = await lab.add(made, host)
    assert answer.status_code == 400, fail(answer)


async def test_no_extension_and_no_partial_return(lab: QuadsLab) -> None:
    first, second = await lab.hosts(2)
    async with lab.user("joe") as joe:
        made = await lab.assignment(joe)
        for host in (first, second):
            assert (await lab.add(made, host, joe)).status_code == 201
        before = (await joe.get(f"/v1/leases/{made['id']}")).json()["expires_at"]
        answer = await joe.post(f"/v1/leases/{made['id']}/extend", json={"by": "2h"})
        assert answer.json()["expires_at"] > before, fail(answer)
        pool = first.partition("-")[0]
        answer = await joe.delete(f"/v1/leases/{made['id']}/resources/{pool}/{first}")
        assert answer.status_code == 200, fail(answer)
    current = (await lab.http.get("/api/v3/schedules/current", params={"cloud": made["cloud"]["name"]})).json()
    assert [one["host"]["name"] for one in current] == [second]


async def test_no_idempotency(lab: QuadsLab) -> None:
    (host,) = await lab.hosts(1)
    async with lab.user("joe") as joe:
        answers = await asyncio.gather(*(ask(joe, key="build-1", description="nightly") for _ in range(4)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 1
        other = await ask(joe, key="build-1", description="something else")
        assert (other.status_code, other.json()["code"]) == (400, "idempotency_key_reused"), fail(other)
        body = {"cloud": answers[0].json()["cloud"]["name"], "hostname": host}
        headers = {"Idempotency-Key": "host-1"}
        added = [await joe.post("/api/v3/schedules", json=body, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in added] == [201, 201]
        assert added[0].json()["id"] == added[1].json()["id"]


async def test_hosts_released_are_not_wiped(lab: QuadsLab) -> None:
    wiped = lab.stack.new_path()
    (host,) = await lab.hosts(1, wipe={"run": f"echo $LEASEHOLD_OWNER >> {wiped}"})
    async with lab.user("joe") as joe, lab.user("ann") as ann:
        for user in (joe, ann):
            made: Json = await lab.assignment(user)
            await lab.add(made, host, user)
            await lab.until_validated(made)
            await user.post(f"/api/v3/assignments/terminate/{made['id']}")
    assert wiped.read_text().split() == ["joe", "ann"]


async def test_a_host_with_work_left_to_do_is_given_to_nobody(lab: QuadsLab) -> None:
    gate = lab.stack.gate()
    (host,) = await lab.hosts(1, release=gate.hook)
    made = await lab.assignment()
    await lab.add(made, host)
    await lab.http.post(f"/api/v3/assignments/terminate/{made['id']}")
    await lab.stack.until(gate.reached)
    assert (await lab.http.get(f"/api/v3/available/{host}")).json() == {host: "False"}
    answer = await lab.add(await lab.assignment(), host)
    assert answer.status_code == 400, fail(answer)
    gate.open()


async def test_a_pool_of_clouds_may_be_paused(lab: QuadsLab) -> None:
    await put(lab.stack.http, {"name": lab.naming.clouds})
    await lab.http.post(f"/v1/pools/{lab.naming.clouds}/pause", json={"reason": "the lab moves"})
    answer = await ask(lab.http)
    assert (answer.status_code, "the lab moves" in answer.json()["message"]) == (400, True), fail(answer)
    assert (await lab.http.get("/api/v3/clouds/free")).json() == []
