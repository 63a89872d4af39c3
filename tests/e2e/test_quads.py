"""QUADS's own published client, and scripts as its users have them, against a running service."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from quads_lib import QuadsApi
from quads_lib.exceptions import APIBadRequest, APINotFound

from leasehold.client import Client
from tests.e2e.lab import until
from tests.e2e.test_secrets import check_files, check_histories, check_processes
from tests.stack import COMMAND_WITHIN_S, LEASEHOLD, ROOT, Stack
from tests.unit.quads_answers import ANSWERS

USER, PASSWORD = "joe@example.com", "correct horse battery"
HOOKS = """
  policy: {default_duration: 5d, self_service: {per_lease: 2}}
  provision: {run: "true"}
  validate: {run: "true"}
"""


@pytest.fixture(scope="module")
def quads(session_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service whose lab was taken over from QUADS, with a user who logs in."""
    if not session_stack.running:
        session_stack.start()
    folder = tmp_path_factory.mktemp("quads")
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    session_stack.leasehold("import", "quads", "answers.json", "-o", "pools.yaml", folder=folder)
    pools = folder / "pools.yaml"
    # As an operator goes on: with what is to be done with the hosts of a model.
    pools.write_text(pools.read_text().replace('- name: "r640"\n', f'- name: "r640"{HOOKS}'))
    session_stack.leasehold("apply", "-f", str(pools))
    added = subprocess.run(
        [str(LEASEHOLD), "user", "add", USER, "--password-file", "-"],
        input=f"{PASSWORD}\n",
        env=session_stack.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
    )
    assert added.returncode == 0, added.stderr
    yield session_stack
    (folder / "none.yaml").write_text("name: quads\npools: []\n")
    session_stack.leasehold("apply", "-f", str(folder / "none.yaml"))
    session_stack.leasehold("user", "rm", USER)


@pytest.fixture
def client(quads: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[QuadsApi]:
    """The published client, logged in; whatever it leaves is ended."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with QuadsApi(USER, PASSWORD, quads.url) as api:
        yield api
        for one in api.get_active_assignments():
            api.terminate_assignment(one["id"])
        with quads.client() as admin:
            until(lambda: not leased(admin), "everything is released")


def leased(admin: Client) -> list[str]:
    return [r["name"] for r in admin.resources() if r["pool"] in {"r640", "r750", "cloud"} and r["state"] != "free"]


def test_the_published_client_goes_through_its_self_scheduling(client: QuadsApi) -> None:
    assert client.token
    assert client.get_version().startswith("QUADS version 2.2")
    assert "host01.example.com" in client.filter_available({"can_self_schedule": True, "model": "R640"})
    assert client.is_available("host01.example.com", {}) is True
    assert [one["name"] for one in client.get_free_clouds()] == ["cloud02", "cloud03"]
    assert [one["vlan_id"] for one in client.get_free_vlans()] == [620, 621]

    made = client.create_self_assignment(
        {"description": "upgrade", "owner": "mallory", "qinq": 0, "wipe": True, "vlan": "620", "cc_user": "ann bob"}
    )
    assert (made["owner"], made["ccuser"], made["vlan"]["vlan_id"]) == ("joe", ["ann", "bob"], 620)
    assert made["is_self_schedule"] is True
    cloud = made["cloud"]["name"]
    for host in ("host01.example.com", "host04.example.com"):
        schedule = client.create_schedule({"cloud": cloud, "hostname": host})
        assert (schedule["host"]["name"], schedule["assignment_id"]) == (host, made["id"])
    until(lambda: client.get_active_cloud_assignment(cloud)["validated"], "it is validated")

    assert client.get_all_move_status(cloud=cloud) == []
    with pytest.raises(APINotFound, match=r"No active move for host01"):
        client.get_move_status("host01.example.com")
    current = client.get_current_schedules({"cloud": cloud})
    assert [one["host"]["name"] for one in current] == ["host01.example.com", "host04.example.com"]
    assert client.get_schedule(current[0]["id"]) == current[0]
    assert client.get_host("host01.example.com")["cloud"]["name"] == cloud
    assert [one["name"] for one in client.filter_hosts({"cloud": cloud})] == [one["host"]["name"] for one in current]
    assert [one["id"] for one in client.filter_assignments({"active": True, "owner": "joe"})] == [made["id"]]
    assert client.get_cloud(cloud)[0]["name"] == cloud
    assert {one["name"]: one["count"] for one in client.get_summary({})}[cloud] == 2
    assert client.get_vlan(620)["netmask"] == "255.255.254.0"
    # Beside what other tests have on this service.
    assert dict(client.get_host_models())["R640"] >= 2

    assert client.terminate_assignment(made["id"]) == {"status_code": 200, "message": "Assignment terminated"}
    assert client.get_active_cloud_assignment(cloud) == {}


def test_the_published_client_understands_what_is_refused(client: QuadsApi, quads: Stack) -> None:
    made = client.create_self_assignment({"description": "upgrade"})
    cloud = made["cloud"]["name"]
    for wrong, message in (
        ({"cloud": cloud, "hostname": "nope"}, "Host not found: nope"),
        ({"cloud": "cloud99", "hostname": "host01.example.com"}, "Cloud not found: cloud99"),
        ({"cloud": cloud, "hostname": "host02.example.com"}, "is not allowed to self-schedule"),
    ):
        with pytest.raises(APIBadRequest, match=message):
            client.create_schedule(wrong)
    with pytest.raises(APIBadRequest, match=r"colour is not a valid field\."):
        client.filter_available({"colour": "red"})
    with pytest.raises(APIBadRequest, match=r"Missing argument: description"):
        client.create_self_assignment({})

    stranger = QuadsApi(USER, "wrong password", quads.url)
    assert stranger.login()["status_code"] == 401
    assert stranger.token is None
    assert stranger.get_hosts()["status_code"] == 401


def test_a_logout_of_the_published_client_ends_its_token(quads: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    api = QuadsApi(USER, PASSWORD, quads.url)
    assert api.login()["status"] == "success"
    token = api.token
    assert api.logout()["status_code"] == 200
    again = QuadsApi("", "", quads.url, api_token=token)
    assert again.get_hosts()["status_code"] == 401
    with QuadsApi("", "", quads.url, api_token=quads.token) as admin:
        assert isinstance(admin.get_hosts(), list)


def test_a_password_and_the_token_it_opens_are_nowhere(quads: Stack, client: QuadsApi) -> None:
    assert client.token
    made = client.create_self_assignment({"description": "upgrade"})
    check_processes(PASSWORD)
    for secret in (PASSWORD, client.token):
        check_files(quads, secret, kept=False)
    with quads.client() as admin:
        lease = admin.lease(str(made["id"]))
        check_histories(quads, client.token, lease["id"], "cloud", recyclings=0)


SCRIPT = r"""
TOKEN=$(curl -s -X POST -u "$WHO" -H "Content-Type: application/json" $AT/api/v3/login/ |
  awk -F: '{print $2}' | awk -F, '{print $1}' | sed -e 's/^"//' -e 's/"$//')
auth="Authorization: Bearer $TOKEN"
json="Content-Type: application/json"
curl -s -H "$auth" "$AT/api/v3/available?can_self_schedule=true&model=R640"; echo
curl -s -X POST -H "$auth" -H "$json" -d '{"description": "d", "owner": "joe", "qinq": 0, "wipe": "true"}' \
  $AT/api/v3/assignments/self >made.json
id=$(sed -e 's/.*"description":"d","id":\([0-9]*\).*/\1/' made.json)
cloud=$(sed -e 's/.*"name":"\(cloud[0-9]*\)".*/\1/' made.json)
curl -s -X POST -H "$auth" -H "$json" -d "{\"cloud\": \"$cloud\", \"hostname\": \"host01.example.com\"}" \
  $AT/api/v3/schedules >schedule.json
until curl -s -H "$auth" $AT/api/v3/assignments/$id | grep -q '"validated":true'; do sleep 0.1; done
curl -s -X POST -H "$auth" $AT/api/v3/assignments/terminate/$id
"""


def test_a_script_with_curl_as_quads_documents_show_it(quads: Stack, client: QuadsApi, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-eu", "-c", SCRIPT],
        env={"PATH": "/usr/bin:/bin", "AT": quads.url, "WHO": f"{USER}:{PASSWORD}", "NO_PROXY": "127.0.0.1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
    )
    assert done.returncode == 0, done.stderr
    available, terminated = done.stdout.splitlines()
    assert "host01.example.com" in json.loads(available)
    assert json.loads(terminated)["message"] == "Assignment terminated"
