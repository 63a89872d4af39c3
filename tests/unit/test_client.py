"""What a user of the client sees: requests sent, errors translated, calls repeated where that is safe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from leasehold.client import Client
from leasehold.errors import (
    BadFilter,
    DurationRefused,
    Invalid,
    LeaseholdError,
    LeaseUnknown,
    Malformed,
    NotFound,
    Unavailable,
)
from leasehold.wire import is_loopback, never_sent
from tests.unit.fake_api import ACTIVE, QUEUED, lease

Handler = Callable[[httpx.Request], httpx.Response]


class Script:
    """A transport that gives prepared answers, one after the other, the last one again and again."""

    def __init__(self, *answers: httpx.Response | httpx.TransportError | Handler) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, httpx.TransportError):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return answer(request)

    def client(self, patience: timedelta = timedelta(seconds=5), url: str = "http://lab.example:8700") -> Client:
        return Client(url, "secret", transport=httpx.MockTransport(self), patience=patience)

    @property
    def sent(self) -> httpx.Request:
        assert len(self.requests) == 1
        return self.requests[0]


def ok(body: Any = None, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=lease(1) if body is None else body)


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    fault = {"path": "items[0].count", "code": "too_small", "detail": "must be at least 1"}
    body = {"type": "x", "title": "A title", "status": status, "code": code, "detail": "a detail", "errors": [fault]}
    return httpx.Response(status, json=body, headers=headers)


NOT_READY = problem(503, "unavailable", **{"Retry-After": "0"})


def test_a_request_carries_token_key_body_and_how_long_to_wait() -> None:
    script = Script(ok(status=201))

    script.client().submit(
        [{"pool": "lab", "count": 2}],
        duration="4h",
        cc=["bob"],
        heartbeat="5m",
        wait="active",
        timeout=timedelta(seconds=1.5),
    )

    assert str(script.sent.url) == "http://lab.example:8700/v1/leases?wait=active&timeout=2"
    assert script.sent.headers["authorization"] == "Bearer secret"
    assert len(script.sent.headers["idempotency-key"]) == 32
    assert json.loads(script.sent.content) == {
        "items": [{"pool": "lab", "count": 2}],
        "duration": "4h",
        "cc": ["bob"],
        "heartbeat": "5m",
    }
    assert script.sent.extensions["timeout"]["read"] > 2


CALLS: list[tuple[Callable[[Client], Any], str, str, Any]] = [
    (lambda c: c.lease("7"), "GET", "/v1/leases/7", None),
    (lambda c: c.lease("a/b"), "GET", "/v1/leases/a%2Fb", None),
    (lambda c: c.lease("7", wait="ended"), "GET", "/v1/leases/7?wait=ended&timeout=60", None),
    (
        lambda c: c.lease("7", wait="ended", timeout=timedelta(0)),
        "GET",
        "/v1/leases/7?wait=ended&timeout=0",
        None,
    ),
    (
        lambda c: c.submit([{"pool": "lab"}], command={"run": ["make"]}, on_end="offline", on_end_reason="x"),
        "POST",
        "/v1/leases",
        {"items": [{"pool": "lab"}], "command": {"run": ["make"]}, "on_end": "offline", "on_end_reason": "x"},
    ),
    (
        lambda c: c.try_submit([{"pool": "lab"}], command={"run": "make"}),
        "POST",
        "/v1/leases?dry_run=true",
        {"items": [{"pool": "lab"}], "command": {"run": "make"}},
    ),
    (lambda c: list(c.output("7")), "GET", "/v1/leases/7/output", None),
    (
        lambda c: list(c.output("7", stream="stderr", tail=3, attempt=2)),
        "GET",
        "/v1/leases/7/output?stream=stderr&tail=3&attempt=2",
        None,
    ),
    (lambda c: c.delete_pool("lab"), "DELETE", "/v1/pools/lab", None),
    (lambda c: c.extend("7", by="2h"), "POST", "/v1/leases/7/extend", {"by": "2h"}),
    (lambda c: c.heartbeat("7"), "POST", "/v1/leases/7/heartbeat", None),
    (
        lambda c: c.add("7", [{"pool": "lab", "skip": ["wipe"]}]),
        "POST",
        "/v1/leases/7/resources",
        {"items": [{"pool": "lab", "skip": ["wipe"]}]},
    ),
    (lambda c: c.give_back("7", "lab", "r1"), "DELETE", "/v1/leases/7/resources/lab/r1", None),
    (lambda c: c.release("7"), "POST", "/v1/leases/7/release", None),
    (lambda c: c.cancel("7"), "POST", "/v1/leases/7/cancel", None),
    (lambda c: c.delivery("7"), "GET", "/v1/leases/7/delivery", None),
    (
        lambda c: c.lease_page(limit=5, cursor="x", state="active"),
        "GET",
        "/v1/leases?state=active&limit=5&cursor=x",
        None,
    ),
    (lambda c: c.pool("lab"), "GET", "/v1/pools/lab", None),
    (lambda c: c.put_pool("lab", {"name": "lab"}), "PUT", "/v1/pools/lab", {"name": "lab"}),
    (
        lambda c: c.available("lab", count=2, match=["state=x", "properties.ram__gte=64"], tags=["a", "b"]),
        "GET",
        "/v1/available?pool=lab&count=2&tags=a%2Cb&properties.state=x&properties.ram__gte=64",
        None,
    ),
    (lambda c: c.resource("lab", "r1"), "GET", "/v1/pools/lab/resources/r1", None),
    (
        lambda c: c.put_resource("lab", "r1", tags=["a"], properties={"ram": 64}),
        "PUT",
        "/v1/pools/lab/resources/r1",
        {"tags": ["a"], "properties": {"ram": 64}},
    ),
    (lambda c: c.delete_resource("lab", "r1"), "DELETE", "/v1/pools/lab/resources/r1", None),
    (lambda c: c.offline("lab", "r1", "fan"), "POST", "/v1/pools/lab/resources/r1/offline", {"reason": "fan"}),
    (lambda c: c.online("lab", "r1"), "POST", "/v1/pools/lab/resources/r1/online", None),
    (lambda c: c.repair("lab", "r1"), "POST", "/v1/pools/lab/resources/r1/repair", None),
    (lambda c: c.apply({"pools": []}, dry_run=True), "POST", "/v1/apply?dry_run=true", {"pools": []}),
    (lambda c: c.health(), "GET", "/healthz", None),
    (lambda c: c.whoami(), "GET", "/v1/whoami", None),
    (lambda c: c.create_token(), "POST", "/v1/tokens", {"scopes": {"pools": None, "read": False}}),
    (
        lambda c: c.create_token(user="ci", role="viewer", expires="30d", pools=["lab"], read_only=True, label="x"),
        "POST",
        "/v1/tokens",
        {
            "user": "ci",
            "role": "viewer",
            "expires": "30d",
            "scopes": {"pools": ["lab"], "read": True},
            "label": "x",
        },
    ),
    (lambda c: c.token("k3x"), "GET", "/v1/tokens/k3x", None),
    (lambda c: c.revoke_token("k3x"), "DELETE", "/v1/tokens/k3x", None),
]


@pytest.mark.parametrize(("call", "method", "target", "body"), CALLS)
def test_each_call_goes_to_its_address(call: Callable[[Client], Any], method: str, target: str, body: Any) -> None:
    script = Script(ok())

    call(script.client())

    assert (script.sent.method, script.sent.url.raw_path.decode()) == (method, target)
    assert (json.loads(script.sent.content) if script.sent.content else None) == body


def test_a_pools_file_is_sent_as_it_is_with_the_folder_of_its_hooks() -> None:
    script = Script(ok({"changes": []}))

    script.client().apply(b"pools: [\xff]", folder="/srv/lab")

    assert script.sent.content == b"pools: [\xff]"
    assert script.sent.headers["content-type"] == "application/yaml"
    assert dict(script.sent.url.params) == {"dry_run": "false", "folder": "/srv/lab"}


def test_an_answer_without_content_is_none() -> None:
    Script(httpx.Response(204)).client().delete_resource("lab", "r1")


def test_lists_are_read_page_by_page() -> None:
    script = Script(
        ok({"items": [{"id": "a"}, {"id": "b"}], "next_cursor": "2"}), ok({"items": [{"id": "c"}], "next_cursor": None})
    )

    found = [one["id"] for one in script.client().leases(pool="lab")]

    assert found == ["a", "b", "c"]
    assert [str(one.url.query, "ascii") for one in script.requests] == ["pool=lab", "pool=lab&cursor=2"]


def test_a_leases_runs_are_read_page_by_page() -> None:
    script = Script(ok({"items": [{"id": 1}], "next_cursor": "1"}), ok({"items": [{"id": 2}], "next_cursor": None}))

    assert [run["id"] for run in script.client().runs("7")] == [1, 2]
    assert [one.url.raw_path.decode() for one in script.requests] == ["/v1/leases/7/runs", "/v1/leases/7/runs?cursor=1"]


@pytest.mark.parametrize("what", ["events", "runs"])
def test_the_last_of_a_resource_comes_in_the_order_in_which_it_happened(what: str) -> None:
    script = Script(ok({"items": [{"id": 3}, {"id": 2}], "next_cursor": "2"}))
    client = script.client()

    found: list[Any] = list((client.resource_events if what == "events" else client.resource_runs)("lab", "r1", 2))

    assert [one["id"] for one in found] == [2, 3]
    assert script.sent.url.raw_path.decode() == f"/v1/pools/lab/resources/r1/{what}?order=desc&limit=2"


def test_a_part_of_a_log_is_asked_for() -> None:
    script = Script(ok())

    list(script.client().log("7", run=3, stage="wipe", resource="lab/r1", attempt=2, tail=0))

    asked = "stage=wipe&resource=lab%2Fr1&run=3&attempt=2&tail=0"
    assert script.sent.url.raw_path.decode() == f"/v1/leases/7/log?{asked}"


def test_problem_details_become_the_error_of_that_code() -> None:
    with pytest.raises(DurationRefused, match="a detail") as refused:
        Script(problem(403, "duration_refused")).client().lease("7")

    assert (refused.value.status, refused.value.title) == (403, "A title")
    assert [fault.path for fault in refused.value.faults] == ["items[0].count"]


def test_a_code_that_this_client_does_not_know_yet_keeps_its_code_and_status() -> None:
    with pytest.raises(LeaseholdError) as error:
        Script(problem(409, "brand_new")).client().lease("7")

    assert (error.value.code, error.value.status) == ("brand_new", 409)


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (502, Unavailable), (500, LeaseholdError), (302, LeaseholdError)]
)
def test_an_answer_that_is_not_leaseholds_is_told_by_its_status(status: int, kind: type[LeaseholdError]) -> None:
    with pytest.raises(kind, match=f"http://lab.example:8700/v1/leases/7 answered {status}") as error:
        Script(httpx.Response(status, text="<html>")).client().lease("7")

    assert error.value.status == status


def test_a_page_of_html_is_not_taken_for_a_lease() -> None:
    with pytest.raises(LeaseholdError, match="is not Leasehold"):
        Script(httpx.Response(200, text="<html>")).client().lease("7")


def test_an_unreachable_api_is_named_in_a_sentence() -> None:
    script = Script(httpx.ConnectError("[Errno 111] Connection refused"))

    with pytest.raises(Unavailable) as error:
        script.client(patience=timedelta(0)).lease("7")

    assert str(error.value) == "Leasehold at http://lab.example:8700 cannot be reached: Connection refused"
    assert never_sent(error.value)


@pytest.mark.parametrize("trouble", [NOT_READY, httpx.ReadError("reset"), httpx.ConnectError("refused")])
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.lease("7"),
        lambda c: c.submit([{"pool": "lab"}]),
        lambda c: c.extend("7", by="1h"),
        lambda c: c.add("7", [{"pool": "lab"}]),
        lambda c: c.give_back("7", "lab", "r1"),
        lambda c: c.heartbeat("7"),
        lambda c: c.release("7"),
        lambda c: c.cancel("7"),
        lambda c: c.put_pool("lab", {}),
        lambda c: c.revoke_token("k3x"),
    ],
)
def test_what_is_safe_is_repeated(call: Callable[[Client], Any], trouble: Any) -> None:
    script = Script(trouble, trouble, ok())

    call(script.client())

    assert len(script.requests) == 3
    assert len({one.headers.get("idempotency-key") for one in script.requests}) == 1


@pytest.mark.parametrize("trouble", [NOT_READY, httpx.ReadError("reset")])
@pytest.mark.parametrize("call", [lambda c: c.offline("lab", "r1", "fan"), lambda c: c.create_token(user="ci")])
def test_what_may_have_been_done_is_not_repeated(call: Callable[[Client], Any], trouble: Any) -> None:
    script = Script(trouble, ok())

    with pytest.raises(Unavailable):
        call(script.client())

    assert len(script.requests) == 1


def test_what_was_never_sent_is_repeated() -> None:
    script = Script(httpx.ConnectError("refused"), ok())

    script.client().offline("lab", "r1", "fan")

    assert len(script.requests) == 2


def test_the_api_says_when_to_come_back() -> None:
    script = Script(problem(503, "unavailable", **{"Retry-After": "1"}), ok())
    start = time.monotonic()

    script.client().lease("7")

    assert time.monotonic() - start >= 1


def test_nobody_waits_longer_than_their_patience() -> None:
    script = Script(problem(503, "unavailable", **{"Retry-After": "3600"}))

    with pytest.raises(Unavailable, match="a detail"):
        script.client().lease("7")

    assert len(script.requests) == 1


def test_waiting_goes_on_until_the_state_is_reached() -> None:
    script = Script(ok(lease(7, **QUEUED)), ok(lease(7, **QUEUED)), ok(lease(7, **ACTIVE)))

    found = script.client().wait_for("7", "active")

    assert found["state"] == "active"
    assert [dict(one.url.params) for one in script.requests] == [{"wait": "active", "timeout": "60"}] * 3


def test_waiting_ends_at_the_timeout_with_the_lease_as_it_is() -> None:
    script = Script(ok(lease(7, **QUEUED)))

    found = script.client().wait_for("7", "active", timeout=timedelta(0))

    assert found["state"] == "queued"


def test_waiting_outlives_a_restart_of_the_api() -> None:
    trouble = httpx.ConnectError("refused")
    script = Script(ok(lease(7, **QUEUED)), trouble, trouble, ok(lease(7, **ACTIVE)))

    assert script.client(patience=timedelta(0)).wait_for("7", "active")["state"] == "active"


def test_waiting_goes_on_after_a_long_sleep_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = 0.0

    def asleep(_: httpx.Request) -> httpx.Response:
        nonlocal slept
        slept += 3600
        raise httpx.ReadError("reset")

    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + slept)
    script = Script(ok(lease(7, **QUEUED)), asleep, ok(lease(7, **ACTIVE)))

    assert script.client().wait_for("7", "active")["state"] == "active"


def test_waiting_ends_when_the_api_stays_away() -> None:
    script = Script(ok(lease(7, **QUEUED)), httpx.ConnectError("refused"))
    client = script.client(patience=timedelta(0))
    client.outage = timedelta(seconds=1.5)

    with pytest.raises(Unavailable):
        client.wait_for("7", "active")


def test_waiting_does_not_begin_with_an_api_that_is_not_there() -> None:
    with pytest.raises(Unavailable):
        Script(httpx.ConnectError("refused")).client(patience=timedelta(0)).wait_for("7", "active")


def test_a_log_comes_in_pieces_and_its_errors_are_told() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"[lab/r1 wipe#1 stdout] one\n"
        yield b"two \xff\n"

    script = Script(lambda _: httpx.Response(200, content=pieces()))
    assert b"".join(script.client().log("7", follow=True)) == b"[lab/r1 wipe#1 stdout] one\ntwo \xff\n"
    assert str(script.sent.url).endswith("/v1/leases/7/log?follow=true")
    assert script.sent.extensions["timeout"]["read"] is None

    with pytest.raises(LeaseUnknown):
        list(Script(problem(404, "lease_unknown")).client().log("7"))


def test_a_silent_command_is_followed_over_one_restart_of_the_api_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def kept_alive(_: httpx.Request) -> httpx.Response:
        def pieces() -> Iterator[bytes]:
            yield b": ping\n\n"
            now[0] += 4 * 3600
            raise httpx.ReadError("reset")

        return httpx.Response(200, content=pieces())

    printed = {"at": "", "stream": "stdout", "attempt": 1, "data": "done\n", "data_base64": "ZG9uZQo="}
    last = f"id: 1\nevent: output\ndata: {json.dumps(printed)}\n\nevent: end\ndata: {{}}\n\n"
    end = httpx.Response(200, content=last.encode())
    refused = httpx.ConnectError("refused")
    script = Script(kept_alive, refused, kept_alive, refused, kept_alive, end)

    assert b"".join(script.client(patience=timedelta(0)).output("7", follow=True)) == b"done\n"
    assert len(script.requests) == 6


def test_a_log_that_breaks_off_is_an_error() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one\n"
        raise httpx.ReadError("reset")

    read = Script(lambda _: httpx.Response(200, content=pieces())).client().log("7")

    assert next(read) == b"one\n"
    with pytest.raises(Unavailable):
        next(read)


@pytest.mark.parametrize("url", ["", "lab", "ftp://lab", "http://", "http://lab:x"])
def test_a_bad_url_is_told_at_once(url: str) -> None:
    with pytest.raises(Invalid, match="is not a URL"):
        Client(url)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda c: c.lease(".."), NotFound),
        (lambda c: c.lease(""), NotFound),
        (lambda c: c.lease("\udcff"), Malformed),
        (lambda c: c.submit([{"pool": "\udcff"}]), Malformed),
        (lambda c: c.submit([{"pool": "lab"}], idempotency_key="a\nb"), Invalid),
        (lambda c: list(c.resources(match=["model"])), BadFilter),
        (lambda c: list(c.resources(match=["model=\udcff"])), Malformed),
    ],
)
def test_what_cannot_be_asked_is_not_sent(call: Callable[[Client], Any], kind: type[LeaseholdError]) -> None:
    script = Script(ok())

    with pytest.raises(kind):
        call(script.client())

    assert not script.requests


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8700", True),
        ("http://localhost", True),
        ("http://[::1]:1", True),
        ("http://127.0.0.1.example", False),
        ("http://10.0.0.1", False),
    ],
)
def test_this_machine_is_told_from_others(url: str, local: bool) -> None:
    assert is_loopback(url) is local


def test_a_proxy_is_never_handed_what_is_meant_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)

    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
        Client("http://127.0.0.1:1", "secret", patience=timedelta(0)).health()
