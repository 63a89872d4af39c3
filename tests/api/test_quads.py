"""`/api/v3` as QUADS's users know it: what is answered, with which fields, statuses and words."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest
import pytest_asyncio

from api.gateway import Gateway
from leasehold.temporal import TASK_QUEUE
from tests.api.quads_lab import QuadsLab, ask, put, quads_lab
from tests.api.stack import PATIENCE_S, Json, Stack, caller, fail
from worker.wiring import build_worker

NVME = {
    "model": "R640",
    "host_type": "scalelab",
    "rack": "a1",
    "interfaces": [
        {"name": "em1", "vendor": "Mellanox Technologies", "speed": 25, "mac_address": "aa:bb:cc:00:00:01"},
        {"name": "em2", "vendor": "Intel Corporation", "speed": 10, "switch_port": "xe-0/0/1"},
    ],
    "disks": [{"disk_type": "nvme", "size_gb": 2000, "count": 2}, {"disk_type": "sata", "size_gb": 480, "count": 1}],
    "memory": [{"handle": "DIMM_A1", "size_gb": 32}],
    "processors": [{"handle": "P0", "vendor": "Intel", "product": "Xeon", "cores": 20, "threads": 40}],
}


@pytest_asyncio.fixture(loop_scope="package")
async def lab(stack: Stack) -> AsyncIterator[QuadsLab]:
    async with quads_lab(stack) as made:
        yield made


def refused(answer: httpx.Response, status: int, message: str) -> None:
    """Fail unless an answer is this error, as QUADS words it."""
    assert answer.status_code == status, fail(answer)
    body = answer.json()
    words = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 429: "Too Many Requests"}
    assert (body["status_code"], body["error"]) == (status, words[status])
    assert body["message"].startswith(message), body


async def test_the_flow_from_what_is_available_to_termination(lab: QuadsLab) -> None:
    gate = lab.stack.gate()
    hosts = await lab.hosts(2, NVME, validate=gate.hook)
    async with lab.user("joe@example.com") as joe:
        query = {"interfaces.vendor": "Mellanox Technologies", "model": "R640", "disks.disk_type": "nvme"}
        available = (await joe.get("/api/v3/available", params=query)).json()
        assert set(hosts) <= set(available)

        made = await lab.assignment(joe, cc_user="ann, bob", vlan="620", ticket="LAB-7", qinq=1, ostype="rhel9.4")
        assert (made["owner"], made["ccuser"], made["active"]) == ("joe", ["ann", "bob"], True)
        assert (made["qinq"], made["wipe"], made["ostype"], made["ticket"]) == (1, True, "rhel9.4", "LAB-7")
        assert made["vlan"]["vlan_id"] == 620
        cloud = made["cloud"]["name"]
        assert cloud not in {one["name"] for one in (await joe.get("/api/v3/clouds/free/")).json()}
        assert [one["vlan_id"] for one in (await joe.get("/api/v3/vlans/free")).json()] == [621]

        for host in hosts:
            answer = await lab.add(made, host, joe)
            assert answer.status_code == 201, fail(answer)
            assert (answer.json()["host"]["name"], answer.json()["assignment_id"]) == (host, made["id"])
            assert answer.json()["host"]["cloud"]["name"] == cloud
        async with asyncio.timeout(PATIENCE_S):
            while not (shown := await lab.show(made))["provisioned"]:
                await asyncio.sleep(0.02)
        assert shown["validated"] is False
        moves = (await joe.get("/api/v3/moves/progress/", params={"cloud": cloud})).json()
        assert [(m["host"], m["status"], m["target_cloud"]) for m in moves] == [(h, "validation", cloud) for h in hosts]
        assert (await joe.get(f"/api/v3/moves/progress/{hosts[0]}")).json() in moves
        gate.open()
        assert (await lab.until_validated(made))["provisioned"] is True
        assert (await joe.get("/api/v3/moves/progress/", params={"cloud": cloud})).json() == []

        current = (await joe.get("/api/v3/schedules/current", params={"cloud": cloud})).json()
        assert [one["host"]["name"] for one in current] == hosts
        assert {one["host"]["validated"] for one in current} == {True}
        assert (await joe.get(f"/api/v3/schedules/{current[1]['id']}")).json() == current[1]

        answer = await joe.post(f"/api/v3/assignments/terminate/{made['id']}/")
        assert (answer.status_code, answer.json()["message"]) == (200, "Assignment terminated"), fail(answer)
        assert (await lab.show(made))["active"] is False
        assert (await joe.get(f"/api/v3/assignments/active/{cloud}/")).json() == {}
        again = await joe.post(f"/api/v3/assignments/terminate/{made['id']}/")
        assert again.status_code == 200, fail(again)
    assert set(hosts) <= set((await lab.http.get("/api/v3/available/")).json())


async def test_an_assignment_is_one_lease(lab: QuadsLab) -> None:
    (host,) = await lab.hosts(1)
    made = await lab.assignment(vlan=True)
    assert (await lab.add(made, host)).status_code == 201
    lease = (await lab.http.get(f"/v1/leases/{made['id']}")).json()
    pools = [(one["pool"], one["name"]) for one in lease["resources"]]
    assert pools[0] == (lab.naming.clouds, made["cloud"]["name"])
    assert pools[1] == (lab.naming.vlans, str(made["vlan"]["vlan_id"]))
    assert pools[2][1] == host
    await lab.stack.release(lease)
    assert (await lab.show(made))["active"] is False


class TestRecords:
    """Each has the fields that QUADS's clients read."""

    async def test_a_host(self, lab: QuadsLab) -> None:
        (name,) = await lab.hosts(1, {**NVME, "default_cloud": "cloud03", "self_service": False})
        host = (await lab.http.get(f"/api/v3/hosts/{name}")).json()
        assert (host["name"], host["model"], host["host_type"], host["rack"]) == (name, "R640", "scalelab", "a1")
        assert (host["can_self_schedule"], host["broken"], host["retired"], host["build"]) == (False,) * 4
        assert host["cloud"]["name"] == host["default_cloud"]["name"] == "cloud03"
        assert host["cloud"]["id"] == host["cloud_id"] == host["default_cloud_id"]
        assert host["disks"][0] == {
            "id": 1, "host_id": host["id"], "disk_type": "nvme", "size_gb": 2000, "count": 2,
        }  # fmt: skip
        assert host["interfaces"][1]["switch_port"] == "xe-0/0/1"
        assert host["interfaces"][1]["mac_address"] is None
        assert (host["memory"][0]["size_gb"], host["processors"][0]["cores"]) == (32, 20)
        assert host in (await lab.http.get("/api/v3/hosts/")).json()

    async def test_an_offline_host_is_broken(self, lab: QuadsLab) -> None:
        (name,) = await lab.hosts(1)
        pool = name.partition("-")[0]
        await lab.http.post(f"/v1/pools/{pool}/resources/{name}/offline", json={"reason": "PSU"})
        assert (await lab.http.get(f"/api/v3/hosts/{name}")).json()["broken"] is True
        assert (await lab.http.get(f"/api/v3/available/{name}")).json() == {name: "False"}
        refused(await lab.add(await lab.assignment(), name), 400, "Host is not available")

    async def test_a_cloud_tells_when_it_was_last_given_to_somebody(self, lab: QuadsLab) -> None:
        before = datetime.now(UTC).replace(microsecond=0)
        made = await lab.assignment(cloud="cloud03")
        redefined = parsedate_to_datetime(made["cloud"]["last_redefined"])
        assert before <= redefined <= datetime.now(UTC)
        names = [one["name"] for one in (await lab.http.get("/api/v3/clouds")).json()]
        assert names == ["cloud01", "cloud02", "cloud03", "cloud04"]
        (shown,) = (await lab.http.get("/api/v3/clouds", params={"name": "cloud03"})).json()
        assert shown == made["cloud"]

    async def test_the_summary_counts_hosts(self, lab: QuadsLab) -> None:
        hosts = await lab.hosts(2)
        made = await lab.assignment(cloud="cloud03", description="upgrade")
        for host in hosts:
            await lab.add(made, host)
        rows = {row["name"]: row for row in (await lab.http.get("/api/v3/clouds/summary/")).json()}
        assert (rows["cloud03"]["count"], rows["cloud03"]["description"]) == (2, "upgrade")
        assert (rows["cloud02"]["count"], rows["cloud02"]["owner"]) == (0, "")
        assert rows["cloud01"]["count"] >= 0

    async def test_an_assignment_is_found_by_number_by_cloud_and_by_filter(self, lab: QuadsLab) -> None:
        async with lab.user("joe@example.com") as joe:
            made = await lab.assignment(joe)
        cloud = made["cloud"]["name"]
        assert await lab.show(made) == made
        assert (await lab.http.get(f"/api/v3/assignments/active/{cloud}")).json() == made
        assert made in (await lab.http.get("/api/v3/assignments/active/")).json()
        query = {"owner": "joe", "cloud": cloud, "active": "true", "is_self_schedule": "True"}
        assert (await lab.http.get("/api/v3/assignments", params=query)).json() == [made]
        query = {"owner": "joe", "active": "false", "cloud": cloud}
        assert (await lab.http.get("/api/v3/assignments", params=query)).json() == []

    async def test_the_version_is_a_text(self, lab: QuadsLab) -> None:
        assert (await lab.http.get("/api/v3/version/")).json().startswith("QUADS version 2.2 ")

    async def test_vlans(self, lab: QuadsLab) -> None:
        one, _ = (await lab.http.get("/api/v3/vlans/")).json()
        assert one == (await lab.http.get("/api/v3/vlans/620")).json()
        assert (one["vlan_id"], one["gateway"], one["ip_free"]) == (620, "10.1.108.1", 250)


class TestFilters:
    """A query string filters on fields that there are; every other word is an error that names it."""

    @pytest_asyncio.fixture(loop_scope="package")
    async def names(self, lab: QuadsLab) -> list[str]:
        return [
            *await lab.hosts(1, NVME),
            *await lab.hosts(1, {"model": "R750", "disks": [{"disk_type": "sata", "size_gb": 4000, "count": 1}]}),
            *await lab.hosts(1, {"model": "R650", "self_service": False}),
        ]

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({}, [0, 1, 2]),
            ({"model": "R640"}, [0]),
            ({"model__ne": "R640"}, [1, 2]),
            ({"model__in": "R640,R650"}, [0, 2]),
            ({"model__like": "R6%"}, [0, 2]),
            ({"model__ilike": "r7%"}, [1]),
            ({"disks.size_gb__gte": "2000"}, [0, 1]),
            ({"disks.disk_type": "nvme", "disks.size_gb__gt": "2000"}, []),
            ({"interfaces.vendor": "Mellanox Technologies", "disks.disk_type": "nvme"}, [0]),
            ({"processors.cores__lt": "21"}, [0]),
            ({"can_self_schedule": "True"}, [0, 1]),
            ({"can_self_schedule": "false"}, [2]),
            ({"can_self_schedule__ne": "yes"}, [2]),
            ({"rack": "null"}, [1, 2]),
            ({"rack__ne": "null"}, [0]),
            ({"broken": "false", "retired": "no"}, [0, 1, 2]),
            ({"cloud": "cloud01"}, [0, 1, 2]),
            ({"cloud": "cloud02"}, []),
        ],
    )
    async def test_what_is_found(self, lab: QuadsLab, names: list[str], query: Json, found: list[int]) -> None:
        for call in ("hosts", "available"):
            answer = await lab.http.get(f"/api/v3/{call}", params=query)
            assert answer.status_code == 200, fail(answer)
            shown = [one if isinstance(one, str) else one["name"] for one in answer.json()]
            assert [one for one in shown if one in names] == sorted(names[n] for n in found)

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ({"colour": "red"}, "colour is not a valid field."),
            ({"colour__gte": "1"}, "colour__gte is not a valid field."),
            ({"disks.colour": "red"}, "disks.colour is not a valid field."),
            ({"memory.size__gb": "1"}, "__gb is not a valid operator."),
            ({"model__about": "R640"}, "__about is not a valid operator."),
            ({"disks": "nvme"}, "disks is not a valid field."),
            ({"a.b.c": "1"}, "Too many arguments: ['a', 'b', 'c']"),
            ({"cloud": "cloud99"}, "Cloud not found: cloud99"),
        ],
    )
    async def test_what_is_wrong_is_named(self, lab: QuadsLab, query: Json, message: str) -> None:
        for call in ("hosts", "available"):
            refused(await lab.http.get(f"/api/v3/{call}", params=query), 400, message)

    async def test_hosts_are_counted_by_model(self, lab: QuadsLab, names: list[str]) -> None:
        counted = dict((await lab.http.get("/api/v3/hosts?group_by=model")).json())
        assert counted["R650"] >= 1
        refused(await lab.http.get("/api/v3/hosts?group_by=disks"), 400, "disks is not a valid field.")

    async def test_fields_of_other_records(self, lab: QuadsLab) -> None:
        refused(await lab.http.get("/api/v3/assignments?model=R640"), 400, "model is not a valid field.")
        refused(await lab.http.get("/api/v3/clouds?model=R640"), 400, "model is not a valid field.")
        refused(await lab.http.get("/api/v3/clouds?name=cloud77"), 400, "No clouds found with the given filters")


class TestErrors:
    """400 is what cannot be, 401 who is not known, 403 who may not."""

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"description": ""}, "Missing argument: description"),
            ({"cloud": "cloud99"}, "Cloud not found: cloud99"),
            ({"cloud": "cloud01"}, "Cloud cloud01 is not allowed to be used for self scheduling"),
            ({"vlan": 4000}, "Vlan not found: 4000"),
            ({"qinq": "perhaps"}, "qinq: "),
            ({"description": 7}, "description: "),
        ],
    )
    async def test_requests_that_cannot_be(self, lab: QuadsLab, body: Json, message: str) -> None:
        refused(await ask(lab.http, **body), 400, message)
        assert [one["name"] for one in (await lab.http.get("/api/v3/clouds/free")).json()] == [
            "cloud02",
            "cloud03",
            "cloud04",
        ]

    async def test_a_body_that_is_none(self, lab: QuadsLab) -> None:
        for content in (b"{", b"\xff", b"[]"):
            headers = {"Content-Type": "application/json"}
            answer = await lab.http.post("/api/v3/assignments/self", content=content, headers=headers)
            assert (answer.status_code, answer.json()["status_code"]) == (400, 400), fail(answer)

    async def test_schedules_that_cannot_be(self, lab: QuadsLab) -> None:
        (host,) = await lab.hosts(1)
        made = await lab.assignment()
        cloud, other = made["cloud"]["name"], f"no-{host}"
        await put(lab.stack.http, {"name": lab.naming.clouds, "resources": [{"name": other}]})
        for body, message in (
            ({"hostname": host}, "Missing argument: cloud"),
            ({"cloud": cloud}, "Missing argument: hostname"),
            ({"cloud": "cloud99", "hostname": host}, "Cloud not found: cloud99"),
            ({"cloud": "cloud04", "hostname": host}, "No active assignment for cloud: cloud04"),
            ({"cloud": cloud, "hostname": "nope"}, "Host not found: nope"),
            ({"cloud": cloud, "hostname": other}, "Host not found"),
        ):
            refused(await lab.http.post("/api/v3/schedules", json=body), 400, message)
        assert (await lab.add(made, host)).status_code == 201
        refused(await lab.add(made, host), 400, "Host is not available for the specified date range")

    async def test_what_is_not_there(self, lab: QuadsLab) -> None:
        for address, message in (
            ("hosts/nope", "Host not found: nope"),
            ("vlans/7", "Vlan not found: 7"),
            ("assignments/99999999", "Assignment not found: 99999999"),
            ("assignments/none", "Assignment not found: none"),
            ("assignments/active/cloud99", "Cloud not found: cloud99"),
            ("schedules/12345678", "Schedule not found: 12345678"),
            ("available?start=now", "Invalid date format for start"),
        ):
            refused(await lab.http.get(f"/api/v3/{address}"), 400, message)
        refused(await lab.http.post("/api/v3/assignments/terminate/99999999/"), 400, "there is no lease 99999999")
        answer = await lab.http.get("/api/v3/moves/progress/nope")
        assert (answer.status_code, answer.json()["message"]) == (404, "No active move for nope")

    async def test_a_lease_without_an_environment_is_no_assignment(self, lab: QuadsLab) -> None:
        lease = await lab.stack.take(await lab.stack.pool(1))
        refused(await lab.http.get(f"/api/v3/assignments/{lease['number']}"), 400, "Assignment not found")
        refused(await lab.http.post(f"/api/v3/assignments/terminate/{lease['number']}"), 400, "Assignment not found")
        assert (await lab.stack.get(lease))["state"] == "active"

    async def test_who_is_not_known(self, lab: QuadsLab) -> None:
        for token in (None, "wrong", f"lh_{'a' * 12}_{'a' * 52}"):
            async with caller(lab.app, token) as stranger:
                for answer in (await stranger.get("/api/v3/hosts"), await ask(stranger)):
                    refused(answer, 401, "")

    async def test_who_may_not(self, lab: QuadsLab) -> None:
        async with lab.user("vera", "viewer") as vera, lab.user("joe") as joe:
            refused(await ask(vera), 403, "this needs the role user")
            made = await lab.assignment(joe)
            for role in ("viewer", "user"):
                async with lab.user("mallory", role) as mallory:
                    refused(await mallory.post(f"/api/v3/assignments/terminate/{made['id']}"), 403, "a lease of joe")
            async with lab.user("otto", "operator") as otto:
                assert (await otto.post(f"/api/v3/assignments/terminate/{made['id']}/")).status_code == 200

    async def test_a_token_for_other_pools(self, lab: QuadsLab) -> None:
        (host,) = await lab.hosts(1)
        async with lab.user("joe", scopes={"pools": [lab.naming.clouds]}) as joe:
            made = await lab.assignment(joe)
            refused(await ask(joe, vlan=620), 403, "this token is limited to")
            refused(await lab.add(made, host, joe), 403, "this token is limited to")

    async def test_a_busy_cloud(self, lab: QuadsLab) -> None:
        await lab.assignment(cloud="cloud02")
        refused(await ask(lab.http, cloud="cloud02"), 400, "There is an already active assignment for cloud02")
        await lab.assignment(vlan=620)
        refused(await ask(lab.http, vlan=620), 400, "No free clouds available: ")
        await lab.assignment()
        refused(await ask(lab.http), 400, "No free clouds available: ")

    async def test_no_pool_of_clouds(self, stack: Stack) -> None:
        async with quads_lab(stack, clouds=0) as lab:
            refused(await ask(lab.http), 400, "No free clouds available")

    async def test_a_limit_of_assignments_is_403(self, stack: Stack) -> None:
        async with quads_lab(stack, per_owner={"leases": 1}, over_quota="refuse") as lab, lab.user("joe") as joe:
            await lab.assignment(joe)
            refused(await ask(joe), 403, "Self scheduling limit reached: ")

    async def test_a_limit_of_assignments_by_self_service_is_403(self, stack: Stack) -> None:
        rule = {"per_owner": {"leases": 1}}
        async with (
            quads_lab(stack, self_service=rule) as lab,
            lab.user("joe") as joe,
            lab.user("o", "operator") as otto,
        ):
            await lab.assignment(joe)
            answer = await ask(joe)
            refused(answer, 403, "Self scheduling limit reached: ")
            assert answer.json()["code"] == "limit_reached"
            for _ in range(2):
                assert (await lab.assignment(otto))["is_self_schedule"] is False

    async def test_closed_self_service_is_403(self, stack: Stack) -> None:
        async with quads_lab(stack, self_service={"enabled": False}) as lab, lab.user("joe") as joe:
            answer = await ask(joe)
            refused(answer, 403, "Service not enabled: ")
            assert answer.json()["code"] == "self_service_closed"
            assert (await joe.get("/api/v3/clouds/free")).json() == []
            assert (await lab.http.get("/api/v3/clouds/free")).json() != []

    @pytest.mark.parametrize(
        "policy",
        [
            {"per_lease": 2},
            {"per_owner": {"resources": 2}},
            {"self_service": {"per_lease": 2}},
            {"self_service": {"per_owner": {"resources": 2}}},
        ],
        ids=str,
    )
    async def test_a_limit_of_hosts_is_400(self, lab: QuadsLab, policy: Json) -> None:
        hosts = await lab.hosts(3, policy=policy)
        async with lab.user("joe") as joe:
            made = await lab.assignment(joe)
            answers = [await lab.add(made, host, joe) for host in hosts]
        assert [answer.status_code for answer in answers] == [201, 201, 400]
        refused(answers[2], 400, f"Cloud {made['cloud']['name']} has reached the maximum number of hosts: ")

    async def test_closed_self_service_of_hosts_is_403(self, lab: QuadsLab) -> None:
        (host,) = await lab.hosts(1, policy={"self_service": {"enabled": False}})
        async with lab.user("joe") as joe:
            made = await lab.assignment(joe)
            refused(await lab.add(made, host, joe), 403, "Service not enabled: ")
            assert host not in (await joe.get("/api/v3/available")).json()

    async def test_a_host_that_only_operators_lend(self, lab: QuadsLab) -> None:
        (host,) = await lab.hosts(1, {"self_service": False})
        async with lab.user("joe") as joe, lab.user("otto", "operator") as otto:
            made = await lab.assignment(joe)
            for http in (joe, otto):
                refused(await lab.add(made, host, http), 400, f"Host {host} is not allowed to self-schedule")
            made = await lab.assignment(otto)
            assert (await lab.add(made, host, otto)).status_code == 201


class TestSelfService:
    """What the rules leave to those who are no operators."""

    async def test_so_many_hosts_are_listed_that_suit(self, lab: QuadsLab) -> None:
        rule = {"self_service": {"show": 1}}
        await lab.hosts(3, {"model": "R1"}, policy=rule)
        wanted = await lab.hosts(1, {"model": f"R-{lab.naming.clouds}"})
        async with lab.user("joe") as joe:
            query = {"model": f"R-{lab.naming.clouds}", "can_self_schedule": "true"}
            assert (await joe.get("/api/v3/available", params=query)).json() == wanted

    async def test_hosts_are_kept_as_long_as_self_service_gives_them(self, lab: QuadsLab) -> None:
        rule = {"default_duration": "2d", "max_duration": "3d"}
        (host,) = await lab.hosts(1, policy={"default_duration": "5d", "self_service": rule})
        async with lab.user("joe") as joe:
            made = await lab.assignment(joe)
            end = parsedate_to_datetime((await lab.add(made, host, joe)).json()["end"])
        assert timedelta(days=1, hours=23) < end - datetime.now(UTC) < timedelta(days=2, seconds=1)

    async def test_who_is_in_the_cc_may_end_it_where_the_policy_says_so(self, stack: Stack) -> None:
        async with quads_lab(stack, cc_may=["release"]) as lab, lab.user("joe") as joe, lab.user("ann") as ann:
            made = await lab.assignment(joe, cc_user="ann")
            assert (await ann.post(f"/api/v3/assignments/terminate/{made['id']}/")).status_code == 200


class TestOptions:
    """Hooks of hosts see what the assignment was asked for with."""

    async def test_hooks_see_them(self, lab: QuadsLab) -> None:
        told = lab.stack.new_path()
        (host,) = await lab.hosts(1, configure={"run": f'echo "$LEASEHOLD_PARAMS" > {told}'})
        made = await lab.assignment(qinq="1", ostype="rhel9.4", ticket=17, boot_order="director")
        await lab.add(made, host)
        assert (await lab.until_validated(made))["ticket"] == "17"
        params = json.loads(told.read_text())
        assert params == {"qinq": 1, "wipe": True, "ostype": "rhel9.4", "boot_order": "director", "ticket": "17"}

    async def test_no_wipe_is_heeded_only_where_nobody_else_had_the_host(self, lab: QuadsLab) -> None:
        wiped = lab.stack.new_path()
        (host,) = await lab.hosts(1, wipe={"run": f"echo $LEASEHOLD_OWNER >> {wiped}"})
        async with lab.user("joe") as joe, lab.user("ann") as ann:
            for http in (joe, joe, ann, ann):
                made = await lab.assignment(http, wipe="false")
                assert made["wipe"] is False
                await lab.add(made, host, http)
                await lab.until_validated(made)
                await http.post(f"/api/v3/assignments/terminate/{made['id']}/")
        assert wiped.read_text().split() == ["joe", "ann"]


async def test_the_first_host_makes_an_assignment_last_as_long_as_hosts_are_lent(lab: QuadsLab) -> None:
    first, second = await lab.hosts(2, policy={"default_duration": "5d"})
    made = await lab.assignment()
    lease = (await lab.http.get(f"/v1/leases/{made['id']}")).json()
    delivered = datetime.fromisoformat(lease["active_at"])
    assert datetime.fromisoformat(lease["expires_at"]) - delivered == timedelta(hours=1)
    for host in (first, second):
        end = parsedate_to_datetime((await lab.add(made, host)).json()["end"])
        assert abs(end - delivered - timedelta(days=5)) < timedelta(seconds=1)


async def test_addresses_are_the_same_with_and_without_a_slash_at_their_end(lab: QuadsLab) -> None:
    for address in ("hosts", "available", "clouds", "clouds/free", "vlans", "assignments/active", "version"):
        with_it, without = await asyncio.gather(lab.http.get(f"/api/v3/{address}/"), lab.http.get(f"/api/v3/{address}"))
        assert with_it.status_code == without.status_code == 200
        assert with_it.json() == without.json()


async def test_a_host_that_two_pools_have_is_asked_for_by_neither(lab: QuadsLab) -> None:
    (host,) = await lab.hosts(1)
    pool = f"{host.partition('-')[0]}x"
    await put(lab.stack.http, {"name": pool, "resources": [{"name": host}]})
    refused(await lab.http.get(f"/api/v3/hosts/{host}"), 400, f"Host {host} is in several pools")


class TestDecidingLate:
    """What decides of a request may take longer than a call of Temporal."""

    def says(self, answer: Json) -> Json:
        return {"run": f"echo '{json.dumps(answer)}'"}

    async def test_a_slow_admit_hook_is_waited_for(self, stack: Stack) -> None:
        impatient = Gateway(stack.temporal, TASK_QUEUE, answer_within_s=0.2)
        gate = stack.gate("""echo '{"ticket": "https://tickets.test/42"}'""")
        async with quads_lab(stack, admit=gate.hook, gateway=impatient) as lab:
            asking = asyncio.create_task(ask(lab.http, ticket="LAB-1"))
            await stack.until(gate.reached)
            gate.open()
            answer = await asking
            assert (answer.status_code, answer.json()["ticket"]) == (201, "https://tickets.test/42"), fail(answer)

    async def test_its_refusal_is_told(self, stack: Stack) -> None:
        async with quads_lab(stack, admit=self.says({"refuse": "no change on Fridays"})) as lab:
            answer = await ask(lab.http)
            assert (answer.status_code, answer.json()["code"]) == (403, "request_refused"), fail(answer)
            assert "no change on Fridays" in answer.json()["message"]

    async def test_without_a_worker_nothing_is_left_behind(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.compat.quads.acting.DECIDED_WITHIN_S", 0.2)
        queue = f"nobody-{uuid.uuid4().hex}"
        # Long enough to start a workflow on a busy machine; nobody ever admits it.
        impatient = Gateway(stack.temporal, queue, answer_within_s=2)
        async with quads_lab(stack, gateway=impatient) as lab:
            answer = await ask(lab.http, key="once")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), fail(answer)
            assert answer.headers["Retry-After"]
            worker = build_worker(stack.temporal, stack.services.store, stack.services.logs, {}, task_queue=queue)
            async with worker, asyncio.timeout(PATIENCE_S):
                while not (leases := await self.ended(lab)):
                    await asyncio.sleep(0.02)
        assert [lease["outcome"] for lease in leases] == ["cancelled"]

    async def ended(self, lab: QuadsLab) -> list[Json]:
        query = {"owner": "admin", "state": "ended", "limit": "1000"}
        found = (await lab.http.get("/v1/leases", params=query)).json()["items"]
        return [lease for lease in found if lease["items"][0]["pool"] == lab.naming.clouds]
