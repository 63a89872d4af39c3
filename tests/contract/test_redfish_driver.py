"""The driver `redfish`: what it has a BMC do, and what it makes of those that do not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from activities.drivers.redfish import RedfishDriver
from leasehold.errors import Unavailable
from leasehold.model import Hook
from leasehold.ports import Ending
from tests.bmcs import PASSWORD, USER, Bmcs, certificate, emulated, machine_id
from tests.contract.command_hooks import GRACE, PATIENCE, Log, until
from tests.contract.http_hooks import (
    LEASE,
    Asked,
    Handler,
    Server,
    answer,
    answers,
    ask,
    hang_up,
    never,
    one_after_another,
    remote_call,
    serving,
)
from tests.servers import free_port

LOOK = timedelta(seconds=0.1)
MACHINES = [f"host{number}" for number in range(80)]


@pytest.fixture(scope="module")
def bmcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bmcs]:
    """One BMC of many machines, of which those with even numbers are on; each test has its own."""
    with emulated(tmp_path_factory.mktemp("bmcs"), MACHINES, on=MACHINES[::2]) as bmcs:
        yield bmcs


NUMBERS = count()


@pytest.fixture
def machine_on() -> str:
    return MACHINES[2 * next(NUMBERS)]


@pytest.fixture
def machine_off() -> str:
    return MACHINES[2 * next(NUMBERS) + 1]


@pytest.fixture
def driver(tmp_path: Path) -> RedfishDriver:
    return RedfishDriver(tmp_path / "locks", GRACE, every=LOOK)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return tmp_path / "password"


@pytest.fixture
def hook(bmcs: Bmcs, password: Path) -> dict[str, Any]:
    """All but what to do, and with which machine."""
    return {"address": bmcs.url, "user": USER, "password": {"file": str(password)}}


def do(hook: dict[str, Any], name: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"redfish": {**hook, "system": machine_id(name), "do": list(steps)}}


class TestPower:
    @pytest.mark.parametrize("power", ["on", "restart", "force-restart", "cycle"])
    async def test_a_machine_that_is_off_is_on_afterwards(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_off: str, power: str
    ) -> None:
        result = await ask(driver, remote_call(do(hook, machine_off, {"power": power})))
        assert (result.ok, result.stdout, result.detail) == (True, b"", f"power: {power}: done")
        assert bmcs.power(machine_off) == "On"
        assert bmcs.asked(machine_off) == ["POST ComputerSystem.Reset"]

    @pytest.mark.parametrize(("power", "kind"), [("off", "ForceOff"), ("graceful-off", "GracefulShutdown")])
    async def test_a_machine_that_is_on_is_off_afterwards(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_on: str, power: str, kind: str
    ) -> None:
        log = Log()
        assert (await ask(driver, remote_call(do(hook, machine_on, {"power": power})), log)).ok
        assert bmcs.power(machine_on) == "Off"
        assert f"power: {power}: asking for {kind}: accepted\n" in log.text("service").decode()

    @pytest.mark.parametrize(
        ("power", "kinds"),
        [
            ("restart", ["GracefulRestart"]),
            ("force-restart", ["ForceRestart"]),
            ("cycle", ["ForceOff", "On"]),
        ],
    )
    async def test_a_machine_that_is_on_has_been_off_and_is_on_again(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_on: str, power: str, kinds: list[str]
    ) -> None:
        log = Log()
        assert (await ask(driver, remote_call(do(hook, machine_on, {"power": power})), log)).ok
        assert bmcs.power(machine_on) == "On"
        told = log.text("service").decode()
        assert [line.split()[-2].rstrip(":") for line in told.splitlines() if "accepted" in line] == kinds
        assert "power is Off" in told
        assert told.splitlines()[-1].startswith(f"power: {power}: power is On after ")

    async def test_what_is_so_already_is_not_asked_for(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_on: str, machine_off: str
    ) -> None:
        steps = [{"power": "on"}, {"wait": "on"}]
        assert (await ask(driver, remote_call(do(hook, machine_on, *steps)))).ok
        steps = [{"power": "off"}, {"power": "graceful-off"}, {"wait": "off"}]
        assert (await ask(driver, remote_call(do(hook, machine_off, *steps)))).ok
        assert bmcs.asked(machine_on) == bmcs.asked(machine_off) == []

    async def test_a_state_that_the_machine_comes_to_by_itself_is_waited_for(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_off: str
    ) -> None:
        log = Log()
        waiting = asyncio.create_task(ask(driver, remote_call(do(hook, machine_off, {"wait": "on"})), log))
        await until(lambda: b"power is Off, to be On" in log.text("service"))
        assert (await ask(driver, remote_call(do(hook, machine_off, {"power": "on"}), locks=("another",)))).ok
        assert (await waiting).ok
        assert bmcs.asked(machine_off) == ["POST ComputerSystem.Reset"]


class TestBoot:
    @pytest.mark.parametrize(("device", "source"), [("pxe", "Pxe"), ("disk", "Hdd"), ("cd", "Cd")])
    async def test_the_next_start_is_from_there(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_off: str, device: str, source: str
    ) -> None:
        # Each differs from what it was before.
        before = "cd" if device != "cd" else "pxe"
        assert (await ask(driver, remote_call(do(hook, machine_off, {"boot": before})))).ok
        assert (await ask(driver, remote_call(do(hook, machine_off, {"boot": device, "mode": "legacy"})))).ok
        assert bmcs.boots_from(machine_off) == source
        assert bmcs.machine(machine_off)["Boot"]["BootSourceOverrideMode"] == "Legacy"

    async def test_it_is_that_one_start_alone(self, driver: RedfishDriver, password: Path) -> None:
        async with serving() as server:
            server.handler = bmc = Scripted()
            hook = {"address": server.url, "user": USER, "password": {"file": str(password)}}
            assert (await ask(driver, remote_call({"redfish": {**hook, "do": {"boot": "http", "mode": "uefi"}}}))).ok
        assert bmc.patched == [
            {
                "Boot": {
                    "BootSourceOverrideTarget": "UefiHttp",
                    "BootSourceOverrideEnabled": "Once",
                    "BootSourceOverrideMode": "UEFI",
                }
            }
        ]

    async def test_a_device_that_the_bmc_does_not_offer_is_said_to_be_none(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_off: str
    ) -> None:
        result = await ask(driver, remote_call(do(hook, machine_off, {"boot": "usb"}, {"power": "on"})))
        assert (result.ending, result.code) == (Ending.FAILED, None)
        assert result.detail == "boot: usb: the BMC does not offer Usb, only Cd, Hdd, Pxe, UefiHttp"
        assert bmcs.asked(machine_off) == []

    async def test_steps_are_taken_in_their_order(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_on: str
    ) -> None:
        steps = [{"power": "off"}, {"boot": "pxe"}, {"power": "on"}]
        assert (await ask(driver, remote_call(do(hook, machine_on, *steps)))).ok
        reset = "POST ComputerSystem.Reset"
        assert bmcs.asked(machine_on) == [reset, "PATCH", reset]


class TestWhichMachine:
    async def test_the_only_one_needs_no_name(self, driver: RedfishDriver, password: Path, tmp_path: Path) -> None:
        with emulated(tmp_path / "one", ["host1"]) as one:
            # As a pools file would have it: the host is the resource's, and the scheme goes without saying.
            address = "http://{{ resource.properties.bmc }}:" + one.url.rpartition(":")[2]
            hook = {"address": address, "user": USER, "password": {"file": str(password)}, "do": {"power": "on"}}
            assert (await ask(driver, remote_call({"redfish": hook}))).ok
            assert one.power("host1") == "On"

    async def test_of_several_one_must_be_named(self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any]) -> None:
        result = await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "off"}}}))
        detail = f"asking {bmcs.host} for its system: the BMC has not exactly one system: say which with the key system"
        assert (result.ending, result.detail) == (Ending.FAILED, detail)

    async def test_its_id_can_be_the_resources(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_off: str
    ) -> None:
        mine = {**LEASE["resources"][0], "properties": {"node": machine_id(machine_off)}}
        hook |= {"system": "{{ resource.properties.node }}", "do": {"power": "on"}}
        call = remote_call({"redfish": hook}, lease={**LEASE, "resources": [mine]})
        assert (await ask(driver, call)).ok
        assert bmcs.power(machine_off) == "On"

    async def test_one_that_is_not_there_is_named(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any]
    ) -> None:
        result = await ask(driver, remote_call({"redfish": {**hook, "system": "blade/9", "do": {"power": "off"}}}))
        detail = f"asking {bmcs.host} for its system blade/9: the BMC knows no such thing: 404"
        assert (result.ending, result.code, result.detail) == (Ending.FAILED, 404, detail)


class TestSecrets:
    async def test_a_wrong_password_is_told_without_being_quoted(
        self,
        driver: RedfishDriver,
        bmcs: Bmcs,
        hook: dict[str, Any],
        machine_on: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        (tmp_path / "password").write_text("hunter2-as-it-was")
        log = Log()
        result = await ask(driver, remote_call(do(hook, machine_on, {"power": "off"})), log)
        assert (result.ending, result.code) == (Ending.FAILED, 401)
        system = machine_id(machine_on)
        assert (
            result.detail == f"asking {bmcs.host} for its system {system}: the BMC refuses this user and password: 401"
        )
        assert "hunter2" not in f"{log.pieces} {result} {caplog.text}"
        # Once: many BMCs lock a user out after a few.
        assert bmcs.log.count('"GET /redfish/v1/Systems HTTP/1.1" 401') == 1 or "401" in bmcs.log

    async def test_neither_a_good_one_nor_what_is_sent_is_in_any_log(
        self,
        driver: RedfishDriver,
        bmcs: Bmcs,
        hook: dict[str, Any],
        machine_off: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        log = Log()
        result = await ask(driver, remote_call(do(hook, machine_off, {"power": "on"}, {"boot": "usb"})), log)
        assert "does not offer" in result.detail
        told = f"{log.pieces} {result} {caplog.text}"
        assert PASSWORD not in told
        assert "Basic" not in told

    async def test_what_a_bmc_says_is_for_the_log_alone_and_without_the_password(
        self, driver: RedfishDriver, password: Path
    ) -> None:
        async with serving() as server:
            words = f"No such fan.\nAnd {PASSWORD} is a fine password"
            server.handler = Scripted(refusal=answers(400, {"error": {"code": "Base.1.0.X", "message": words}}))
            hook = {"address": server.url, "user": USER, "password": {"file": str(password)}, "do": {"power": "off"}}
            log = Log()
            result = await ask(driver, remote_call({"redfish": hook}), log)
        assert result.detail == "power: off: asking for ForceOff: the BMC answers 400"
        assert "the BMC says: No such fan. And … is a fine password\n" in log.text("service").decode()

    async def test_it_can_be_in_the_workers_environment(
        self,
        driver: RedfishDriver,
        bmcs: Bmcs,
        hook: dict[str, Any],
        machine_off: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("BMC_PASSWORD", PASSWORD)
        call = remote_call(do({**hook, "password": {"env": "BMC_PASSWORD"}}, machine_off, {"power": "on"}))
        assert (await ask(driver, call)).ok
        assert bmcs.power(machine_off) == "On"

    async def test_each_machine_can_have_its_own_beside_the_pools_file(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any], machine_off: str, tmp_path: Path
    ) -> None:
        (tmp_path / "r640").mkdir()
        (tmp_path / "r640" / "host01").write_text(PASSWORD)
        hook |= {"password": {"file": "{{ resource.pool }}/{{ resource.name }}"}}
        assert (await ask(driver, remote_call(do(hook, machine_off, {"power": "on"}), folder=tmp_path))).ok
        assert bmcs.power(machine_off) == "On"


class TestWhatCannotBeAsked:
    @pytest.mark.parametrize(
        ("settings", "why"),
        [
            ({"address": "{{ resource.properties.bcm }}"}, "address: 'bcm' is missing"),
            ({"address": "{{ resource.properties.uplink }}"}, "address: a value is null"),
            ({"address": "h{{ lease.path | path }}"}, "address: the address of a BMC has no path"),
            ({"address": "h:{{ resource.name }}"}, "address: this is no URL once it is filled in"),
            ({"user": "{{ resource.tags }}"}, "user: a value is a list"),
            ({"user": "a:{{ lease.owner }}"}, "user: there is no colon in the name of a user"),
            ({"system": "{{ resource.properties.node }}"}, "system: 'node' is missing"),
            ({"system": "{{ '.' ~ '.' }}"}, "system: this is no id"),
            ({"password": {"file": "none"}}, "password.file: none: No such file or directory"),
            ({"password": {"env": "BMC_NOWHERE"}}, "password.env: BMC_NOWHERE is not in the worker's environment"),
            ({"verify": "none"}, "verify: none: No such file or directory"),
        ],
    )
    async def test_nothing_is_sent_and_the_reason_names_the_key(
        self, driver: RedfishDriver, password: Path, tmp_path: Path, settings: dict[str, Any], why: str
    ) -> None:
        hook = {"address": "h", "user": "u", "password": {"file": "password"}, "do": {"power": "on"}, **settings}
        result = await ask(driver, remote_call({"redfish": hook}, folder=tmp_path, lease={**LEASE, "path": "/x"}))
        assert result.ending is Ending.NOT_STARTED
        assert result.detail.startswith(f"the BMC was not asked: {why}"), result.detail

    async def test_a_lease_as_a_whole_has_no_machine(
        self, driver: RedfishDriver, password: Path, tmp_path: Path
    ) -> None:
        hook = {"address": "{{ resource.name }}", "user": "u", "password": {"file": "x"}, "do": {"power": "on"}}
        result = await ask(driver, remote_call({"redfish": hook}, resource=None))
        assert result.ending is Ending.NOT_STARTED

    async def test_settings_of_a_later_version_are_not_the_hooks_fault(self, driver: RedfishDriver) -> None:
        call = remote_call({"run": "true"})
        later = Hook(driver="redfish", settings={"password": {"vault": "hunter2"}})
        with pytest.raises(Unavailable, match="does not understand") as caught:
            await driver.run(type(call)(**{**vars(call), "hook": later}), Log())
        assert "hunter2" not in str(caught.value)


class TestTls:
    @pytest.fixture(scope="class")
    @staticmethod
    def vouched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        return certificate(tmp_path_factory.mktemp("tls"))

    @pytest.fixture(scope="class")
    @staticmethod
    def bmcs(tmp_path_factory: pytest.TempPathFactory, vouched: tuple[Path, Path]) -> Iterator[Bmcs]:
        with emulated(tmp_path_factory.mktemp("tls") / "bmcs", ["host1"], certificate=vouched) as bmcs:
            yield bmcs

    async def test_a_certificate_that_nobody_vouches_for_is_refused(
        self, driver: RedfishDriver, bmcs: Bmcs, hook: dict[str, Any]
    ) -> None:
        result = await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "on"}}}))
        why = "the server's certificate is not trusted: self-signed certificate"
        assert (result.ending, result.detail) == (Ending.FAILED, f"asking {bmcs.host} for its system: {why}")
        assert bmcs.asked("host1") == []

    @pytest.mark.parametrize("verify", ["ca.pem", False])
    async def test_a_file_can_vouch_for_it_or_nobody_is_asked(
        self,
        driver: RedfishDriver,
        bmcs: Bmcs,
        hook: dict[str, Any],
        vouched: tuple[Path, Path],
        verify: bool | str,
    ) -> None:
        # https:// goes without saying.
        hook |= {"address": bmcs.host, "verify": verify}
        call = remote_call({"redfish": {**hook, "do": {"power": "on"}}}, folder=vouched[0].parent)
        assert (await ask(driver, call)).ok
        assert bmcs.power("host1") == "On"


class Scripted:
    """A BMC that answers as it is told where a real one would do something."""

    def __init__(
        self, power: str = "On", *, refusal: Handler | None = None, system: dict[str, Any] | None = None
    ) -> None:
        self.power = power
        self.patched: list[Any] = []
        self.resets: list[str] = []
        self._refusal, self._system = refusal, system or {}

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "POST" and self._refusal is not None:
            await self._refusal(asked, writer)
            return
        if asked.method == "POST":
            self.resets.append(asked.json()["ResetType"])
        if asked.method == "PATCH":
            self.patched.append(asked.json())
        one = {"@odata.id": "/redfish/v1/Systems/1"}
        reset = {"target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"}
        found = {
            "/redfish/v1/": {"Id": "Root", "Name": "Root", "Systems": {"@odata.id": "/redfish/v1/Systems"}},
            "/redfish/v1/Systems": {"Name": "Systems", "Members": [one]},
            one["@odata.id"]: {
                "Id": "1",
                "Name": "one",
                "PowerState": self.power,
                "Boot": {},
                "Actions": {"#ComputerSystem.Reset": reset},
                **self._system,
            },
        }
        body = found.get(asked.target, {}) if asked.method == "GET" else {}
        writer.write(answer(200, json.dumps(body).encode(), **{"Content-Type": "application/json"}))


class TestStrangeBmcs:
    @pytest.fixture
    async def server(self) -> AsyncIterator[Server]:
        async with asyncio.timeout(2 * PATIENCE), serving() as server:
            yield server

    @pytest.fixture
    def hook(self, server: Server, password: Path) -> dict[str, Any]:
        return {"address": server.url, "user": USER, "password": {"file": str(password)}}

    async def test_one_that_is_not_there(self, driver: RedfishDriver, hook: dict[str, Any]) -> None:
        host = f"127.0.0.1:{free_port()}"
        result = await ask(driver, remote_call({"redfish": {**hook, "address": host, "do": {"power": "on"}}}))
        why = "no connection: Connection refused"
        assert (result.ending, result.detail) == (Ending.FAILED, f"asking {host} for its system: {why}")

    @pytest.mark.parametrize(
        ("handler", "why"),
        [
            (hang_up, "the answer ended too early, or is not HTTP"),
            (answers(200, b"<html>"), "the BMC's answer is not what Redfish wants"),
            (answers(200, b"[" * 100_000), "the BMC's answer is not what Redfish wants"),
            (answers(200, b"[]"), "the BMC's answer is not what Redfish wants"),
            (answers(200, b"{}"), "the BMC lacks what is needed"),
            (answers(200, b" " * 2_000_000), "the answer is longer than 1024 KiB"),
            (answers(503), "the BMC answers 503"),
            (answers(403), "the BMC does not let this user do it: 403"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_one_that_makes_no_sense_is_told_apart(
        self, driver: RedfishDriver, server: Server, hook: dict[str, Any], handler: Handler, why: str
    ) -> None:
        server.handler = handler
        result = await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "on"}}}))
        assert result.ending is Ending.FAILED
        assert result.detail.startswith(f"asking {server.url.partition('://')[2]} for its system: {why}"), result.detail
        # Nothing is tried again behind the back of `attempts`.
        assert len(server.asked) == 1

    async def test_one_that_never_answers_does_not_hold_the_hook_for_ever(
        self, server: Server, hook: dict[str, Any], tmp_path: Path
    ) -> None:
        server.handler = never
        driver = RedfishDriver(tmp_path / "locks", GRACE, answer_limit=timedelta(seconds=1))
        result = await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "on"}}}))
        assert (result.ending, "no answer within 1s" in result.detail) == (Ending.FAILED, True)

    @pytest.mark.parametrize("by", ["redirect", "link", "target"])
    async def test_one_that_refers_to_another_server_does_not_get_the_password_sent_there(
        self, driver: RedfishDriver, server: Server, hook: dict[str, Any], by: str
    ) -> None:
        async with serving() as other:
            system = {"Actions": {"#ComputerSystem.Reset": {"target": f"{other.url}/reset"}}}
            by_way: dict[str, Handler] = {
                "redirect": answers(307, Location=f"{other.url}/redfish/v1/"),
                "link": answers(200, {"Id": "1", "Systems": {"@odata.id": f"{other.url}/redfish/v1/Systems"}}),
                "target": Scripted(system=system),
            }
            server.handler = by_way[by]
            result = await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "off"}}}))
            assert (result.ending, other.asked) == (Ending.FAILED, [])
            assert "refers to another" in result.detail, result.detail

    async def test_one_that_refuses_what_has_come_to_be_meanwhile_is_forgiven(
        self, driver: RedfishDriver, server: Server, hook: dict[str, Any]
    ) -> None:
        async def off_already(asked: Asked, writer: asyncio.StreamWriter) -> None:
            bmc.power = "Off"
            writer.write(answer(409))

        server.handler = bmc = Scripted(refusal=off_already)
        log = Log()
        assert (await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "off"}}}), log)).ok
        assert b"asking for ForceOff: the BMC answers 409, but power is Off\n" in log.text("service")

    async def test_one_that_refuses_a_restart_is_not(
        self, driver: RedfishDriver, server: Server, hook: dict[str, Any]
    ) -> None:
        server.handler = Scripted(refusal=answers(409))
        result = await ask(driver, remote_call({"redfish": {**hook, "do": {"power": "force-restart"}}}))
        assert (result.ending, result.code) == (Ending.FAILED, 409)

    async def test_one_without_a_state_of_power(
        self, driver: RedfishDriver, server: Server, hook: dict[str, Any]
    ) -> None:
        server.handler = Scripted(system={"PowerState": None})
        result = await ask(driver, remote_call({"redfish": {**hook, "do": {"wait": "on"}}}))
        assert (result.ending, result.detail) == (
            Ending.FAILED,
            "wait: on: the BMC does not tell the state of the power",
        )

    async def test_a_shutdown_that_is_under_way_is_not_asked_for_again(
        self, driver: RedfishDriver, server: Server, hook: dict[str, Any]
    ) -> None:
        server.handler = bmc = Scripted("PoweringOff")
        log = Log()
        running = asyncio.create_task(
            ask(driver, remote_call({"redfish": {**hook, "do": [{"power": "graceful-off"}, {"power": "on"}]}}), log)
        )
        await until(lambda: b"power is PoweringOff, to be Off" in log.text("service"))
        assert bmc.resets == []
        bmc.power = "Off"
        await until(lambda: bmc.resets == ["On"])
        bmc.power = "On"
        assert (await running).ok

    async def test_one_that_is_busy_for_a_moment_while_it_is_waited_for(
        self, driver: RedfishDriver, server: Server, hook: dict[str, Any]
    ) -> None:
        bmc = Scripted("Off")
        server.handler = one_after_another(bmc, bmc, bmc, bmc, answers(503), hang_up, bmc)
        log = Log()
        running = asyncio.create_task(ask(driver, remote_call({"redfish": {**hook, "do": {"wait": "on"}}}), log))
        await until(lambda: b"ended too early" in log.text("service"))
        bmc.power = "On"
        assert (await running).ok
        assert b"wait: on: the BMC answers 503, while power is to be On\n" in log.text("service")
