"""Commands on leased resources over HTTP: what is asked for, what is answered, and what is read of them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete, select, update

from api.app import create_app
from api.auth import Tokens
from leasehold.commands import Frame, Stream
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.logs import SqlLogStore
from leasehold.store.store import SqlStore
from tests.api.stack import ADMIN, PATIENCE_S, Json, Stack, caller, fail
from tests.api.streams import stream


@dataclass(frozen=True)
class Sent:
    """One server-sent event."""

    id: str
    event: str
    data: str


async def events_of(stack: Stack, lease: Json, last: str | None = None) -> list[Sent]:
    """All that a follower of a command's output is sent, to the end of the stream."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
    answer = await stack.http.get(f"/v1/leases/{lease['id']}/output", headers=headers)
    assert answer.status_code == 200, fail(answer)
    blocks = [
        dict(line.split(": ", 1) for line in block.split("\n") if ": " in line) for block in answer.text.split("\n\n")
    ]
    return [Sent(one.get("id", ""), one["event"], one["data"]) for one in blocks if "data" in one]


def data_of(piece: bytes) -> list[Json]:
    """The data of the events in a piece of a stream."""
    return [json.loads(line.removeprefix("data: ")) for line in piece.decode().split("\n") if line.startswith("data: ")]


async def is_running(stack: Stack, lease: Json) -> None:
    """Wait until a runner has taken a command up."""
    async with asyncio.timeout(PATIENCE_S):
        while (await stack.get(lease))["command"]["state"] != "running":
            await asyncio.sleep(0.02)


async def sealed(stack: Stack, lease: Json) -> list[Any]:
    """What is kept of a command's environment."""
    store = stack.services.store
    assert isinstance(store, SqlStore)
    query = select(t.envelopes.c.env).where(t.envelopes.c.lease == lease["id"])
    return list(await store.database.read(lambda c: c.execute(query).scalars().all()))


EVERYBODY = {"allow": [{"role": "user"}]}


async def pool(stack: Stack, count: int = 1, *, policy: Json | None = None, **commands: Any) -> str:
    """A pool whose leases run commands of everybody, unless something else is said."""
    return await stack.pool(count, commands={**EVERYBODY, **commands}, policy=policy or {})


async def run(
    stack: Stack, pool: str, *argv: str, shell: str | None = None, body: Json | None = None, **command: Any
) -> Json:
    """Submit a command, and return the lease as it is then."""
    about = {"run": shell if shell is not None else list(argv), **command}
    return await stack.submit(pool, command=about, **(body or {}))


async def ended(stack: Stack, lease: Json) -> Json:
    """A lease once its command has ended."""
    return await stack.ended(lease)


async def output(stack: Stack, lease: Json, **params: Any) -> bytes:
    answer = await stack.http.get(f"/v1/leases/{lease['id']}/output", params=params)
    assert answer.status_code == 200, fail(answer)
    assert answer.headers["content-type"] == "application/octet-stream"
    return answer.content


async def open_again(logs: SqlLogStore, lease: Json) -> int:
    """Forget that a command's output has come to its end, and return how far it has come."""
    this = t.outputs.c.lease == lease["id"]

    def forget(tx: Tx) -> int:
        tx.execute(update(t.outputs).where(this).values(closed=False))
        offset: int = tx.execute(select(t.outputs.c.offset).where(this)).scalar_one()
        return offset

    return (await logs._database.write(forget))[0]


def is_there(path: str) -> bool:
    return Path(path).exists()


class TestACommand:
    """It runs once its lease is active, and the lease ends with it."""

    async def test_its_status_is_the_leases_result(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await run(stack, here, "sh", "-c", "echo out; echo err >&2; exit 3")
        assert lease["command"]["run"] == ["sh", "-c", "echo out; echo err >&2; exit 3"]

        found = await ended(stack, lease)

        command = found["command"]
        assert (found["state"], found["outcome"], found["error"]) == ("ended", "released", None)
        assert (command["state"], command["result"], command["exit_code"], command["signal"]) == (
            "ended",
            "exited",
            3,
            None,
        )
        assert (command["started"], command["on"], command["attempt"]) == (True, "local", 1)
        assert command["output"]["bytes"] == len(b"out\nerr\n")
        assert (await stack.http.get(f"/v1/pools/{here}/resources/r0")).json()["state"] == "free"

    async def test_the_six_ways_in_which_it_ends_are_told_apart(self, stack: Stack) -> None:
        here = await pool(stack, 8)
        exited = await run(stack, here, "false")
        signalled = await run(stack, here, shell="kill -TERM $$")
        not_started = await run(stack, here, "/no/such/program")
        timed_out = await run(stack, here, "sleep", "100", timeout="1s")
        cancelled = await run(stack, here, "sleep", "100")
        await is_running(stack, cancelled)
        await stack.steer(cancelled, "cancel")
        results = [
            (found["command"]["result"], found["command"]["started"], found["outcome"])
            for found in [await ended(stack, one) for one in (exited, signalled, not_started, timed_out, cancelled)]
        ]
        assert results == [
            ("exited", True, "released"),
            ("signalled", True, "released"),
            ("not_started", False, "failed"),
            ("timed_out", True, "failed"),
            ("cancelled", True, "cancelled"),
        ]
        found = await stack.get(not_started)
        assert found["error"]["code"] == "command_not_started"
        assert "/no/such/program" in found["command"]["detail"]
        assert (await stack.get(signalled))["command"]["signal"] == 15

    async def test_one_that_is_cancelled_in_the_queue_never_started(self, stack: Stack) -> None:
        here = await pool(stack)
        first = await run(stack, here, "sleep", "100")
        second = await run(stack, here, "true")
        assert second["state"] == "queued"
        await stack.steer(second, "cancel")
        found = await stack.get(second)
        assert (found["command"]["result"], found["command"]["started"]) == ("cancelled", False)
        await stack.steer(first, "cancel")

    async def test_names_of_resources_take_their_place_argument_by_argument(self, stack: Stack) -> None:
        here, other = await pool(stack), await stack.pool(2)
        items = [{"pool": here}, {"pool": other, "count": 2}]
        argv = ["printf", "%s\\n", "a=@RESOURCE", "@RESOURCE:8080", f"@RESOURCE:{other}", "; rm -rf /", "$(id)"]
        answer = await stack.post({"items": items, "command": {"run": argv}})
        assert answer.status_code == 201, fail(answer)
        lease = await ended(stack, answer.json())
        assert (await output(stack, lease)).decode().splitlines() == [
            "a=r0", "r0:8080", "r0,r1", "; rm -rf /", "$(id)",
        ]  # fmt: skip

    async def test_its_environment_names_all_that_it_was_granted_and_has_nothing_else(self, stack: Stack) -> None:
        here, other = await pool(stack), await stack.pool(1)
        body = {"items": [{"pool": here}, {"pool": other}], "command": {"run": ["env", "-0"], "env": {"MINE": "ä b\n"}}}
        lease = await ended(stack, (await stack.post(body)).json())
        printed = dict(line.split("=", 1) for line in (await output(stack, lease)).decode().split("\0") if line)
        number = str(lease["number"])
        expected = {
            "MINE": "ä b\n",
            "LEASEHOLD_LEASE": lease["id"],
            "LEASEHOLD_NUMBER": number,
            "LEASEHOLD_OWNER": "admin",
            "LEASEHOLD_POOL": here,
            "LEASEHOLD_RESOURCE": "r0",
            "LEASEHOLD_ATTEMPT": "1",
            "DCI_QUEUE": here,
            "DCI_QUEUE_RES": "r0",
            "DCI_QUEUE_ID": number,
            "DCI_QUEUE_JOBID": f"{here}.{number}",
            "DCI_QUEUE1": here,
            "DCI_QUEUE_RES1": "r0",
            "DCI_QUEUE2": other,
            "DCI_QUEUE_RES2": "r0",
        }
        assert {name: printed[name] for name in expected} == expected
        assert [one["pool"] for one in json.loads(printed["LEASEHOLD_RESOURCES"])] == [here, other]
        known = {*expected, "LEASEHOLD_RESOURCES", "LEASEHOLD_DELIVERY", "LEASEHOLD_RUN"}
        assert set(printed) - known <= {"PATH", "HOME", "LANG", "USER", "LOGNAME", "PWD", "SHLVL", "_"}

    async def test_the_next_one_sees_nothing_of_the_last_ones_environment(self, stack: Stack) -> None:
        here, other = await pool(stack), await stack.pool(1)
        items = [{"pool": here}, {"pool": other}]
        await ended(stack, (await stack.post({"items": items, "command": {"run": ["true"], "env": {"A": "1"}}})).json())
        lease = await ended(stack, await run(stack, here, "env"))
        assert b"DCI_QUEUE_RES2" not in await output(stack, lease)
        assert b"\nA=1" not in await output(stack, lease)

    async def test_it_starts_in_the_folder_that_is_named_or_in_a_fresh_one(self, stack: Stack, tmp_path: Path) -> None:
        here = await pool(stack)
        named = await ended(stack, await run(stack, here, "pwd", folder=str(tmp_path)))
        assert await output(stack, named) == f"{tmp_path}\n".encode()
        fresh = await ended(stack, await run(stack, here, shell="pwd; ls -A; touch left"))
        assert not is_there((await output(stack, fresh)).decode().strip())
        nowhere = await ended(stack, await run(stack, here, "true", folder="/no/such/folder"))
        assert (nowhere["command"]["result"], nowhere["command"]["started"]) == ("not_started", False)

    async def test_its_secrets_are_in_no_history_and_nowhere_once_it_has_ended(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await ended(stack, await run(stack, here, "true", env={"PASSWORD": "correct-horse-battery"}))
        assert lease["command"]["env"] == ["PASSWORD"]
        history = await stack.temporal.get_workflow_handle(lease["id"]).fetch_history()
        assert "correct-horse" not in history.to_json()
        found = await stack.http.get(f"/v1/leases/{lease['id']}")
        assert "correct-horse" not in found.text
        assert await sealed(stack, lease) == []

    async def test_a_repeated_request_runs_it_once(self, stack: Stack, tmp_path: Path) -> None:
        here = await pool(stack)
        body: Json = {
            "items": [{"pool": here}],
            "command": {"run": f"echo ran >>{tmp_path}/ran", "env": {"A": "1"}},
        }
        answers = await asyncio.gather(*(stack.post(body, "the key of a command") for _ in range(5)))
        assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
        await ended(stack, answers[0].json())
        assert (tmp_path / "ran").read_text() == "ran\n"
        other = await stack.post({**body, "command": {**body["command"], "env": {"A": "2"}}}, "the key of a command")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")

    async def test_its_lease_lasts_as_long_as_the_pool_allows(self, stack: Stack) -> None:
        here = await pool(stack, 2, policy={"default_duration": "1m", "max_duration": "3d"})
        lease = await run(stack, here, "sleep", "100")
        found = await stack.get(lease, wait="active")
        span = datetime.fromisoformat(found["expires_at"]) - datetime.fromisoformat(found["active_at"])
        assert span == timedelta(days=3)
        await stack.steer(lease, "cancel")

    async def test_it_is_killed_when_its_lease_has_lasted_long_enough(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await stack.submit(here, duration="1s", command={"run": ["sleep", "100"]})
        found = await ended(stack, lease)
        assert (found["outcome"], found["command"]["result"]) == ("expired", "timed_out")

    async def test_without_the_services_key_nobody_can_try_out_what_its_environment_is(self, stack: Stack) -> None:
        body = {"items": [{"pool": await pool(stack)}], "command": {"run": ["true"], "env": {"PASSWORD": "hunter2"}}}
        digests = []
        for key in (b"one key", b"another"):
            tokens = Tokens(key, ADMIN, stack.services.tokens.store)
            async with caller(create_app(replace(stack.services, tokens=tokens))) as http:
                lease = (await http.post("/v1/leases", json=body)).json()
            await tokens.close()
            handle = stack.temporal.get_workflow_handle(lease["id"])
            async for event in handle.fetch_history_events():
                (told,) = event.workflow_execution_started_event_attributes.input.payloads
                digests.append(json.loads(told.data)["digest"])
                break
        assert len(set(digests)) == 2
        assert "hunter2" not in str(digests)


class TestWhoMay:
    """Who may run what, where, and as whom."""

    async def test_a_pool_that_says_nothing_runs_commands_of_admins_alone(self, stack: Stack) -> None:
        plain = await stack.pool(1)
        body = {"items": [{"pool": plain}], "command": {"run": ["true"]}}
        async with stack.user("otto", "operator") as operator:
            answer = await operator.post("/v1/leases", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "command_refused"), fail(answer)
        assert (await ended(stack, (await stack.post(body)).json()))["command"]["exit_code"] == 0

    async def test_the_first_rule_that_fits_says_as_whom(self, stack: Stack) -> None:
        here = await stack.pool(
            1,
            commands={
                "allow": [
                    {"users": ["ci-*"], "run": ["id *"], "env": ["CI_*"], "as": "nobody"},
                    {"role": "operator", "as": "{owner}"},
                ]
            },
        )

        async def ask(user: str, role: str, command: Json) -> Any:
            async with stack.user(user, role) as http:
                answer = await http.post("/v1/leases", json={"items": [{"pool": here}], "command": command})
            if answer.status_code != 201:
                return answer.json()["code"]
            found = await ended(stack, answer.json())
            return found["command"]["account"], (await output(stack, found)).strip()

        assert await ask("ci-1", "user", {"run": ["id", "-un"], "env": {"CI_X": "1"}}) == ("nobody", b"nobody")
        assert await ask("daemon", "operator", {"run": ["id", "-un"]}) == ("daemon", b"daemon")
        for who, command in (
            ("ci-1", {"run": ["id", "-un"], "env": {"LD_PRELOAD": "x"}}),
            ("ci-1", {"run": ["whoami"]}),
            ("ci-1", {"run": "id -un"}),
            ("joe", {"run": ["id", "-un"]}),
        ):
            assert await ask(who, "user", command) == "command_refused", (who, command)

    async def test_a_rule_that_is_taken_back_before_it_began_keeps_it_from_starting(self, stack: Stack) -> None:
        here = await pool(stack)
        first = await run(stack, here, "sleep", "100")
        second = await run(stack, here, "true")
        put = {"name": here, "commands": {"allow": [{"users": ["nobody-at-all"]}]}}
        assert (await stack.http.put(f"/v1/pools/{here}", json=put)).status_code == 200
        await stack.steer(first, "cancel")
        found = await ended(stack, second)
        assert (found["command"]["result"], found["command"]["started"]) == ("not_started", False)
        assert "no rule" in found["command"]["detail"]

    async def test_somebody_elses_output_is_not_for_everybody(self, stack: Stack) -> None:
        here = await pool(stack)
        async with stack.user("olga") as olga, stack.user("uwe") as uwe:
            body = {"items": [{"pool": here}], "command": {"run": ["echo", "secret"]}}
            lease = (await olga.post("/v1/leases", json=body)).json()
            await ended(stack, lease)
            assert (await olga.get(f"/v1/leases/{lease['id']}/output")).content == b"secret\n"
            assert (await uwe.get(f"/v1/leases/{lease['id']}/output")).status_code == 403
            async with caller(stack.app, lease["token"]) as holder:
                assert (await holder.get(f"/v1/leases/{lease['id']}/output")).content == b"secret\n"

    async def test_a_runner_has_no_right_but_to_run_what_is_meant_for_it(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await run(stack, here, "sleep", "100", env={"A": "secret"})
        await is_running(stack, lease)
        async with stack.user("build09", "runner") as other:
            for name in ("local", "build09"):
                begin = f"/v1/runners/{name}/commands/{lease['id']}/begin"
                answer = await other.post(begin, json={"instance": "x", "attempt": 1})
                assert (answer.status_code, answer.json()["code"]) == (
                    (403, "forbidden") if name == "local" else (409, "command_over")
                )
                assert "secret" not in answer.text
            assert (await other.get("/v1/leases")).status_code == 403
        await stack.steer(lease, "cancel")


class TestTheQueue:
    """Order, duplicates, extra pools, and what is kept out afterwards."""

    async def test_a_negative_priority_is_held_until_it_is_withdrawn(self, stack: Stack) -> None:
        here = await pool(stack)
        held = await run(stack, here, "true", body={"priority": -1})
        assert (held["state"], held["queue"]["position"]) == ("queued", 0)
        assert "negative" in held["queue"]["reason"]
        assert (await ended(stack, await run(stack, here, "true")))["command"]["exit_code"] == 0
        assert (await stack.get(held))["state"] == "queued"
        listed = (await stack.http.get("/v1/leases", params={"pool": here, "state": "queued"})).json()["items"]
        assert [one["id"] for one in listed] == [held["id"]]
        assert (await stack.steer(held, "cancel")).json()["outcome"] == "cancelled"

    async def test_the_same_command_twice_is_one_where_that_is_wanted(self, stack: Stack, tmp_path: Path) -> None:
        here = await pool(stack)
        command = {"run": ["sleep", "100"], "folder": str(tmp_path), "duplicates": "drop"}
        first = await stack.submit(here, command=command)
        assert first["duplicate"] is False
        body = {"items": [{"pool": here}], "command": command}
        answer = await stack.post(body)
        assert (answer.status_code, answer.json()["id"]) == (200, first["id"]), fail(answer)
        assert (answer.json()["duplicate"], answer.json()["token"]) == (True, None)
        for other in (
            {**command, "folder": "/"},
            {**command, "run": ["sleep", "101"]},
            {**command, "duplicates": "allow"},
        ):
            assert (await stack.submit(here, command=other))["id"] != first["id"]
        for lease in (await stack.http.get("/v1/leases", params={"pool": here, "commands": "true"})).json()["items"]:
            await stack.steer(lease, "cancel")
        assert (await stack.submit(here, command=command))["id"] != first["id"], "the first has ended"
        await stack.stop_hooks()

    async def test_a_pool_that_is_short_of_an_extra_resource_holds_up_nobody(self, stack: Stack) -> None:
        here, scarce = await pool(stack, 2), await stack.pool(1)
        holder = await stack.take(scarce)
        items = [{"pool": here}, {"pool": scarce}]
        both = (await stack.post({"items": items, "command": {"run": ["true"]}})).json()
        assert both["state"] == "queued"
        assert (await ended(stack, await run(stack, here, "true")))["command"]["exit_code"] == 0
        await stack.release(holder)
        assert (await ended(stack, both))["command"]["exit_code"] == 0

    async def test_its_resource_is_kept_out_of_the_pool_afterwards(self, stack: Stack) -> None:
        here = await pool(stack, policy={"holder_may": ["offline"]})
        extra = await stack.pool(1)
        async with stack.user("uwe") as uwe:
            body = {
                "items": [{"pool": here}, {"pool": extra}],
                "command": {"run": ["true"]},
                "on_end": "offline",
                "on_end_reason": "look at the console",
            }
            first = (await uwe.post("/v1/leases", json=body)).json()
            assert (first["on_end"], first["on_end_reason"]) == ("offline", "look at the console")
            waiting = await run(stack, here, "true")
            await ended(stack, first)
        kept = (await stack.http.get(f"/v1/pools/{here}/resources/r0")).json()
        assert (kept["offline"]["reason"], kept["offline"]["by"]) == ("look at the console", "uwe")
        assert (await stack.http.get(f"/v1/pools/{extra}/resources/r0")).json()["offline"] is None
        assert (await stack.get(waiting))["state"] == "queued"
        await stack.http.post(f"/v1/pools/{here}/resources/r0/online")
        assert (await ended(stack, waiting))["command"]["exit_code"] == 0

    async def test_keeping_it_out_is_for_operators_unless_the_pool_says_otherwise(self, stack: Stack) -> None:
        here = await pool(stack)
        body = {"items": [{"pool": here}], "command": {"run": ["true"]}, "on_end": "offline"}
        async with stack.user("uwe") as uwe, stack.user("otto", "operator") as otto:
            answer = await uwe.post("/v1/leases", json=body)
            assert (answer.status_code, answer.json()["errors"][0]["path"]) == (403, "on_end"), fail(answer)
            assert (await otto.post("/v1/leases", json=body)).status_code == 201

    async def test_commands_are_found_by_their_words_and_their_folder(self, stack: Stack, tmp_path: Path) -> None:
        here = await pool(stack)
        lease = await run(stack, here, "echo", "50% of a_b", "two words", folder=str(tmp_path))
        await stack.release(await stack.take(here))

        async def found(**params: str) -> list[str]:
            answer = await stack.http.get("/v1/leases", params={"pool": here, **params})
            return [one["id"] for one in answer.json()["items"]]

        line = lease["command"]["line"]
        assert line == "echo '50% of a_b' 'two words'"
        for matching in (
            {"command": line},
            {"command_like": "50% of a_b"},
            {"folder": str(tmp_path)},
            {"commands": "true"},
        ):
            assert await found(**matching) == [lease["id"]], matching
        for other in ({"command": "echo"}, {"command_like": "50%x"}, {"folder": "/"}):
            assert await found(**other) == [], other

    async def test_a_command_for_a_runner_that_is_not_there_says_what_it_waits_for(self, stack: Stack) -> None:
        here = await pool(stack, 3)
        for where, words in (
            ({"runner": "nowhere"}, "runner nowhere"),
            ({"labels": ["s390x"]}, "a runner with s390x"),
        ):
            lease = await run(stack, here, "true", **where)
            found = await stack.get(lease, wait="active")
            assert (found["command"]["state"], found["command"]["started"]) == ("waiting", False)
            async with asyncio.timeout(PATIENCE_S):
                while words not in ((await stack.get(lease))["command"]["reason"] or ""):
                    await asyncio.sleep(0.02)
            await stack.steer(lease, "cancel")
            assert (await ended(stack, lease))["command"]["result"] == "cancelled"
        assert (await ended(stack, await run(stack, here, "true", labels=["here"])))["command"]["exit_code"] == 0


class TestOutput:
    """Every byte in order, followed while it comes."""

    async def test_every_byte_is_kept_also_what_is_no_text(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await ended(stack, await run(stack, here, shell=r"printf '\000\377\r\nA'; printf B >&2"))
        assert await output(stack, lease) == b"\x00\xff\r\nAB"
        assert await output(stack, lease, stream="stdout") == b"\x00\xff\r\nA"
        assert await output(stack, lease, stream="stderr") == b"B"

    async def test_the_last_lines(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await ended(stack, await run(stack, here, shell="seq 1 1000; printf rest"))
        assert await output(stack, lease, tail=3) == b"999\n1000\nrest"
        assert await output(stack, lease, tail=0) == b""
        assert (await output(stack, lease, tail=10_000)).startswith(b"1\n2\n")

    async def test_the_last_lines_and_all_to_come_are_followed(self, stack: Stack) -> None:
        here = await pool(stack)
        go = stack.new_path()
        script = f"seq 1 1000; printf 'err\\nr' >&2; until [ -e {go} ]; do sleep 0.05; done; echo est >&2; echo more"
        lease = await run(stack, here, shell=script)
        async with stream(stack.app, f"/v1/leases/{lease['id']}/output?events=1") as piece:
            while b'"stderr"' not in (await piece()):
                pass
        parts = {"": "1000\nerr\nr", "stream=stdout": "998\n999\n1000\n", "stream=stderr": "err\nr"}
        for part, text in parts.items():
            address = f"/v1/leases/{lease['id']}/output?tail=3&{part}"
            async with stream(stack.app, f"{address}&follow=true") as piece:
                assert await piece() == text.encode()
            async with stream(stack.app, f"{address}&events=1") as piece:
                assert (await piece()).startswith(b"retry: ")
                assert "".join(told["data"] for told in data_of(await piece())) == text
        following = asyncio.create_task(output(stack, lease, follow="true", tail=1))
        await asyncio.sleep(0.2)
        go.touch()
        assert await following == b"rest\nmore\n"

    async def test_events_tell_stream_and_time_and_how_it_ended(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await run(stack, here, shell="echo one; sleep 0.2; echo two >&2; exit 4")
        events = await events_of(stack, lease)
        pieces = [json.loads(event.data) for event in events if event.event == "output"]
        assert [(one["stream"], one["data"]) for one in pieces] == [("stdout", "one\n"), ("stderr", "two\n")]
        assert base64.b64decode(pieces[0]["data_base64"]) == b"one\n"
        assert pieces[0]["at"] < pieces[1]["at"]
        assert events[-1].event == "end"
        assert json.loads(events[-1].data)["exit_code"] == 4
        first = next(event for event in events if event.event == "output")
        rest = await events_of(stack, lease, last=first.id)
        assert [json.loads(e.data)["data"] for e in rest if e.event == "output"] == ["two\n"]

    async def test_the_leases_log_has_it_line_by_line(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await ended(stack, await run(stack, here, shell="printf one; sleep 0.2; echo two"))
        log = (await stack.http.get(f"/v1/leases/{lease['id']}/log", params={"stage": "command"})).text
        assert log == f"[{here}/r0 command#1 stdout] onetwo\n"

    async def test_beyond_the_bound_it_is_dropped_and_both_are_said(self, stack: Stack) -> None:
        here = await pool(stack, output="1KiB")
        lease = await ended(stack, await run(stack, here, shell="seq 1 1000"))
        size = len("".join(f"{n}\n" for n in range(1, 1001)))
        assert lease["command"]["output"] == {"limit": 1024, "bytes": size, "dropped": size - 1024}
        assert len(await output(stack, lease)) == 1024
        said = b"output bound of 1 KiB reached: the rest is dropped\n"
        assert await output(stack, lease, stream="service") == said
        assert "output bound of 1 KiB reached" in (await stack.http.get(f"/v1/leases/{lease['id']}/log")).text

    async def test_what_a_runner_hands_over_after_the_end_is_followed_too(self, stack: Stack) -> None:
        here = await pool(stack)
        lease = await ended(stack, await run(stack, here, "echo", "early"))
        logs = stack.services.logs
        assert isinstance(logs, SqlLogStore)
        about = await stack.services.store.commands.output_of("local", lease["id"], 1)
        # As if the service had not had its end yet.
        offset = await open_again(logs, lease)
        following = asyncio.create_task(output(stack, lease, follow="true"))
        await asyncio.sleep(0.3)
        assert not following.done()
        late = Frame(at_us=1, stream=Stream.STDOUT, data=b"late\n")
        await logs.put_output(about, offset, [late, Frame(at_us=1, stream=Stream.END, data=b"")])
        assert await following == b"early\nlate\n"

    async def test_also_where_nothing_of_it_had_come_by_then(self, stack: Stack) -> None:
        lease = await ended(stack, await run(stack, await pool(stack), "echo", "early"))
        logs = stack.services.logs
        assert isinstance(logs, SqlLogStore)
        about = await stack.services.store.commands.output_of("local", lease["id"], 1)

        def forget(tx: Tx) -> None:
            for table in (t.logs, t.outputs):
                tx.execute(delete(table).where(table.c.lease == lease["id"]))

        # As if the service had been away all the time.
        await logs._database.write(forget)
        following = asyncio.create_task(output(stack, lease, follow="true"))
        assert await output(stack, lease, follow="true", attempt=2) == b"", "of another nothing is awaited"
        assert not following.done()
        frames = [Frame(at_us=1, stream=Stream.STDOUT, data=b"early\n"), Frame(at_us=1, stream=Stream.END, data=b"")]
        await logs.put_output(about, 0, frames)
        assert await following == b"early\n"

    async def test_a_lease_without_a_command_has_none(self, stack: Stack) -> None:
        lease = await stack.take(await stack.pool(1))
        answer = await stack.http.get(f"/v1/leases/{lease['id']}/output")
        assert (answer.status_code, answer.json()["code"]) == (409, "no_command")


BAD = [
    ({"run": []}, "command.run"),
    ({"run": ""}, "command.run"),
    ({"run": [""]}, "command.run"),
    ({"run": ["a\0b"]}, "command.run"),
    ({"run": ["true"], "folder": "relative"}, "command.folder"),
    ({"run": ["true"], "env": {"A=B": "x"}}, "command.env"),
    ({"run": ["true"], "env": {"A": 1}}, "command.env"),
    ({"run": ["true"], "env": {"DCI_QUEUE_RES": "r1"}}, "command.env"),
    ({"run": ["true"], "env": {"LEASEHOLD_SECRETS": "{}"}}, "command.env"),
    ({"run": ["true"], "env": {"A": "x" * 100_001}}, "command.env"),
    ({"run": ["true"], "retry": -1}, "command.retry"),
    ({"run": ["true"], "retry": "1"}, "command.retry"),
    ({"run": ["true"], "timeout": "soon"}, "command.timeout"),
    ({"run": ["true"], "duplicates": "maybe"}, "command.duplicates"),
    ({"run": ["true"], "shell": True}, "command.shell"),
    ({}, "command.run"),
]


@pytest.mark.parametrize(("command", "place"), BAD, ids=lambda value: str(value)[:40])
async def test_a_bad_command_is_refused_with_its_place(stack: Stack, command: Json, place: str) -> None:
    answer = await stack.post({"items": [{"pool": "p"}], "command": command})
    assert answer.status_code == 422, fail(answer)
    assert answer.json()["errors"][0]["path"].startswith(place), answer.text


async def test_a_request_may_say_for_all_of_it_what_its_parts_can_say(stack: Stack) -> None:
    here, other = await pool(stack), await stack.pool(1)
    body = {"items": [{"pool": here}, {"pool": other, "params": {"a": 2}}], "params": {"a": 1, "b": 1}}
    command = {"run": ["true"], "labels": ["x86", "fast"]}
    answer = await stack.post({**body, "command": command, "labels": ["here", "fast"]}, dry_run="true")
    assert answer.status_code == 200, fail(answer)
    assert [item["params"] for item in answer.json()["items"]] == [{"a": 1, "b": 1}, {"a": 2, "b": 1}]
    assert answer.json()["command"]["labels"] == ["x86", "fast", "here"]


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"labels": ["x86"]}, "labels without_command"),
        ({"on_end_reason": "look"}, "on_end_reason without_offline"),
        ({"items": [{"pool": "p"}] * 20, "params": {"a": "x" * 40_000}}, "params too_long"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_part_that_would_mean_nothing_is_refused(stack: Stack, part: Json, place: str) -> None:
    answer = await stack.post({"items": [{"pool": "p"}], **part})
    assert answer.status_code == 422, fail(answer)
    assert [f"{fault['path']} {fault['code']}" for fault in answer.json()["errors"]] == [place]


async def test_the_first_item_of_a_command_names_its_pool(stack: Stack) -> None:
    answer = await stack.post({"items": [{"tags": ["x"]}], "command": {"run": ["true"]}})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "items[0].pool"), fail(answer)


@pytest_asyncio.fixture(loop_scope="package")
async def hooked(stack: Stack, tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """A pool with an `admit` hook that answers what a file says, and keeps what it was told."""
    answer = tmp_path / "answer"
    answer.write_text("")
    hook = {"run": f'cat "$LEASEHOLD_LEASE_FILE" >{tmp_path}/told; cat {answer}'}
    yield await stack.pool(1, commands=EVERYBODY, admit=hook), answer


async def test_an_admit_hook_sees_a_command_and_may_refuse_merge_or_reorder_it(
    stack: Stack, hooked: tuple[str, Path]
) -> None:
    here, says = hooked
    first = await run(stack, here, "sleep", "100", folder="/")
    says.write_text('{"priority": 7}')
    second = await run(stack, here, "echo", "second")
    told = json.loads((says.parent / "told").read_text())
    assert told["command"] == {"run": ["echo", "second"], "line": "echo second", "folder": None}
    assert [(one["number"], one["line"], one["folder"]) for one in told["queued"]] == [
        (first["number"], "sleep 100", "/")
    ]
    assert second["priority"] == 7
    says.write_text(json.dumps({"merge_into": str(second["number"])}))
    merged = await stack.post({"items": [{"pool": here}], "command": {"run": ["echo", "third"]}})
    assert (merged.status_code, merged.json()["id"], merged.json()["duplicate"]) == (200, second["id"], True)
    says.write_text('{"merge_into": "999999"}')
    nothing = await stack.post({"items": [{"pool": here}], "command": {"run": ["echo", "fourth"]}})
    assert (nothing.status_code, nothing.json()["code"]) == (403, "request_refused"), fail(nothing)
    says.write_text('{"refuse": "not on Fridays"}')
    refused = await stack.post({"items": [{"pool": here}], "command": {"run": ["echo", "fifth"]}})
    assert (refused.status_code, refused.json()["detail"]) == (403, "not on Fridays"), fail(refused)
    says.write_text("")
    for lease in (first, second):
        await stack.steer(lease, "cancel")


async def test_a_dry_run_of_a_command_runs_nothing(stack: Stack, tmp_path: Path) -> None:
    here = await pool(stack)
    body = {"items": [{"pool": here}], "command": {"run": ["touch", str(tmp_path / "ran")], "env": {"A": "1"}}}
    answer = await stack.post(body, dry_run=True)
    assert (answer.status_code, answer.json()["state"]) == (200, "active"), fail(answer)
    assert answer.json()["command"]["state"] == "waiting"
    assert not (tmp_path / "ran").exists()


async def test_runners_are_listed_with_what_they_have(stack: Stack) -> None:
    (local,) = (await stack.http.get("/v1/runners")).json()["items"]
    assert (local["name"], local["up"], local["labels"], local["slots"]) == ("local", True, ["here"], 8)
    assert local["hosts"][0]["host"] == "h"


async def test_who_sends_no_token_has_nothing_run(stack: Stack) -> None:
    async with caller(stack.app, None) as nobody:
        answer = await nobody.post("/v1/leases", json={"items": [{"pool": "p"}], "command": {"run": ["true"]}})
    assert answer.status_code == 401
    assert ADMIN not in answer.text
