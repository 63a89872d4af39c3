"""A small API in this process that speaks the contract over real HTTP, and does what a test told it to.

A lease goes through `way`, one step for each time somebody asks for it, and then stays as it is until it is released,
cancelled, or ended by the test.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

TOKEN = "secret-token"


@dataclass(frozen=True)
class Request:
    """What a client sent, and when by `time.monotonic`."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What it is sent back; `status` 0 drops the connection."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def problem(status: int, code: str, detail: str, *errors: dict[str, str]) -> Answer:
    """Problem details."""
    body = {"type": "urn:x", "title": "Title", "status": status, "code": code, "detail": detail, "errors": errors}
    return Answer(status, body, {"Content-Type": "application/problem+json"})


def leased(name: str, state: str = "ready", stage: str | None = None, attempt: int | None = None) -> dict[str, Any]:
    """A resource of a lease."""
    place = {"pool": "lab", "name": name, "item": 0, "role": None, "epoch": 7}
    return {**place, "state": state, "stage": stage, "attempt": attempt, "tags": ["metal"], "properties": {}}


QUEUED = {
    "state": "queued",
    "queue": {"position": 2, "reason": "needs 1 of lab, 0 free", "eta": None, "alternatives": None},
}
PREPARING = {"state": "preparing", "resources": [leased("r1", "preparing", "wipe", 1)]}
ACTIVE = {
    "state": "active",
    "resources": [leased("r1")],
    "active_at": "2026-01-05T09:00:00.000000Z",
    "expires_at": "2999-01-05T10:00:00.000000Z",
}


def lease(ordinal: int, **fields: Any) -> dict[str, Any]:
    """A lease as the API shows it."""
    nothing = dict.fromkeys(
        "outcome error description queue ticket share_key start_at active_at expires_at heartbeat_by ended_at"
        " command".split()
    )
    known = {
        "id": f"lease-{ordinal}",
        "number": ordinal,
        "state": "queued",
        "owner": "alice",
        "cc": [],
        "resources": [],
    }
    told = {"items": [{"pool": "lab", "count": 1}], "priority": 0, "in_grace": False, "degraded": []}
    told |= {"on_end": "free", "on_end_reason": None}
    url = f"http://ui/workflows/lease-{ordinal}"
    return {**nothing, **known, **told, "created_at": "2026-01-05T09:00:00Z", "temporal_url": url, **fields}


def command(**fields: Any) -> dict[str, Any]:
    """The command of a lease as the API shows it: one that waits for its lease."""
    nothing = dict.fromkeys(
        "timeout runner account reason on started_at ended_at result exit_code signal detail".split()
    )
    known = {"run": ["make", "test"], "folder": "/src", "retry": 0, "labels": [], "state": "waiting", "attempt": 1}
    kept = {"limit": 67108864, "bytes": None, "dropped": None}
    return {**nothing, **known, "started": False, "output": kept, **fields}


def ran(result: str, **fields: Any) -> dict[str, Any]:
    """What there is of a lease whose command has ended, and had started, if nothing else is said."""
    outcome = {"exited": "released", "signalled": "released", "cancelled": "cancelled", "lost": "lost"}
    times = {"started_at": "2026-01-05T09:00:00Z", "ended_at": "2026-01-05T09:01:00Z"}
    ended = command(state="ended", result=result, **{"on": "build01", "started": True, **times, **fields})
    return {"state": "ended", "outcome": outcome.get(result, "failed"), "command": ended}


RUNNING = {**ACTIVE, "command": command(state="running", started=True, on="build01")}


def resource(name: str, **fields: Any) -> dict[str, Any]:
    """A resource as the API shows it."""
    known = {"pool": "lab", "name": name, "state": "free", "stage": None, "offline": None, "broken": None}
    told = {"lease": None, "epoch": 7, "tags": ["x86", "metal"], "properties": {"ram": 64}}
    return {**known, **told, "suspect": False, "kept_until": None, "instance": None, **fields}


def pool(**fields: Any) -> dict[str, Any]:
    """A pool as the API shows it, the settings that matter here."""
    nothing = dict.fromkeys("site folder file paused size name_pattern livecheck list cost_per_hour statistics".split())
    known = {"name": "lab", "description": "A lab", "priority": 0, "draining": False, "drain": False, "dynamic": False}
    counted = {"free": 1, "total": 2, "waiting": 0, "states": {"free": 1, "leased": 1}}
    empty: dict[str, Any] = {"tags": [], "tags_on_demand": [], "properties": {}, "named_counters": []}
    return {**nothing, **known, **counted, **empty, "stages": {}, "policy": {"default_duration": "1h"}, **fields}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that is killed in the middle is a part of the tests.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class FakeApi:
    """The API. `answers` overrides what a call gets: `{"GET /v1/pools": [Answer(...), ...]}`, each used once.

    Every lease and resource has the same `events` and `runs`, oldest first; `printed` is the log of each run. Of every
    command there is the same `output`, as streams and bytes.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.leases: dict[str, dict[str, Any]] = {}
        self.way: list[dict[str, Any]] = [ACTIVE]
        self.answers: dict[str, list[Answer]] = {}
        self.delivered = [
            {"pool": "lab", "name": "r1", "role": None, "data": "url\nkey\n", "data_base64": "dXJsCmtleQo="}
        ]
        self.shared: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.printed: dict[str, bytes] = {}
        self.output: list[tuple[str, bytes]] = []
        self._steps: dict[str, list[dict[str, Any]]] = {}
        self._keys: dict[str, str] = {}
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._closed = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def add(self, made: dict[str, Any], way: list[dict[str, Any]] | None = None) -> None:
        """Let there be this lease, and let it go this way."""
        self.leases[made["id"]] = made
        self._steps[made["id"]] = list(way or ())

    def calls(self, method: str, path: str) -> list[Request]:
        """What was asked of this address."""
        return [one for one in self.requests if (one.method, one.path) == (method, path)]

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something was asked."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=10), self.requests

    def end(self, ref: str, outcome: str) -> None:
        """End a lease."""
        with self._changed:
            ended = {"state": "ended", "outcome": outcome, "queue": None}
            self.leases[ref] |= ended
            self._steps[ref] = []
            self._changed.notify_all()

    def go_on(self, ref: str, state: dict[str, Any]) -> None:
        """Let a lease reach a state."""
        with self._changed:
            self.leases[ref] |= {"queue": None, **state}
            self._changed.notify_all()

    def answer(self, request: Request) -> Answer:
        """Do what a request asks for."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        told = self.answers.get(f"{request.method} {request.path}")
        if told:
            return told.pop(0)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return problem(401, "unauthenticated", "the token is not valid")
        return self._route(request, [unquote(part) for part in request.path.split("/")[2:]])

    def _route(self, request: Request, path: list[str]) -> Answer:
        match request.method, path:
            case "POST", ["leases"]:
                return self._submit(request)
            case "GET", ["leases"]:
                return Answer(200, {"items": list(self.leases.values()), "next_cursor": None})
            case "GET", ["leases", ref, *rest]:
                return self._on_lease(ref, lambda found: self._show(found, rest, dict(request.query)))
            case _, ["leases", ref, *rest]:
                return self._on_lease(ref, lambda found: self._steer(found, request, rest))
            case "GET", ["pools", _, "resources", _, "events" | "runs" as what]:
                return self._happened(what, dict(request.query))
            case _:
                return problem(404, "not_found", "there is nothing at this address")

    def _show(self, found: dict[str, Any], path: list[str], query: dict[str, str]) -> Answer:
        match path:
            case []:
                return self._wait(found, query)
            case ["delivery"]:
                return Answer(200, {"lease": found["id"], "resources": self.delivered, "shared": self.shared})
            case ["events" | "runs" as what]:
                return self._happened(what, query)
            case ["log"]:
                return Answer(200, self.printed.get(query["run"], b""))
            case ["output"] if "events" in query:
                self.go_on_by_itself(found)
                shown = self._output_events(found, query.get("stream"))
                return Answer(200, shown, {"Content-Type": "text/event-stream"})
            case ["output"]:
                streams = [query["stream"]] if "stream" in query else ["stdout", "stderr"]
                return Answer(200, b"".join(data for stream, data in self.output if stream in streams))
            case _:
                return problem(404, "not_found", "there is nothing at this address")

    def go_on_by_itself(self, found: dict[str, Any]) -> None:
        """Let a lease go to the end of its way: who follows it sees all of that."""
        with self._changed:
            while self._steps[found["id"]]:
                found |= {"queue": None, **self._steps[found["id"]].pop(0)}

    def _output_events(self, found: dict[str, Any], only: str | None) -> bytes:
        events = []
        for number, (stream, data) in enumerate(self.output, start=1):
            if only not in (None, stream):
                continue
            piece = {"at": "2026-01-05T09:00:00Z", "stream": stream, "attempt": found["command"]["attempt"]}
            told = json.dumps({**piece, "data": None, "data_base64": base64.b64encode(data).decode()})
            events.append(f"id: {number}\nevent: output\ndata: {told}\n\n")
        events.append(f"event: end\ndata: {json.dumps(found['command'])}\n\n")
        return "".join(events).encode()

    def _steer(self, found: dict[str, Any], request: Request, path: list[str]) -> Answer:
        match request.method, path:
            case "POST", ["release" | "cancel" as verb]:
                return self._close(found, verb)
            case "POST", ["extend"]:
                return Answer(200, found)
            case "POST", ["heartbeat"]:
                return self._beat(found)
            case "POST", ["resources"]:
                return self._grow(found, request.json["items"])
            case "DELETE", ["resources", pool, name]:
                return self._shrink(found, pool, name)
            case _:
                return problem(404, "not_found", "there is nothing at this address")

    def _happened(self, what: str, query: dict[str, str]) -> Answer:
        items = self.events if what == "events" else self.runs
        if query.get("order") == "desc":
            items = items[::-1][: int(query["limit"])]
        return Answer(200, {"items": items, "next_cursor": None})

    def _submit(self, request: Request) -> Answer:
        key = request.headers["idempotency-key"]
        if key not in self._keys:
            made = lease(len(self.leases) + 1, **self.way[0], items=request.json["items"])
            self._keys[key] = made["id"]
            self.add(made, self.way[1:])
        return Answer(201, {**self.leases[self._keys[key]], "token": "lease-token"})

    def _on_lease(self, ref: str, do: Callable[[dict[str, Any]], Answer]) -> Answer:
        ref = f"lease-{ref}" if ref.isdigit() else ref
        if ref not in self.leases:
            return problem(404, "lease_unknown", f"there is no lease {ref}")
        return do(self.leases[ref])

    def _wait(self, found: dict[str, Any], query: dict[str, str]) -> Answer:
        with self._changed:
            if self._steps[found["id"]]:
                found |= {"queue": None, **self._steps[found["id"]].pop(0)}
            elif "wait" in query:
                over = (query["wait"], "ended")
                self._changed.wait_for(lambda: self._closed or found["state"] in over, float(query["timeout"]))
            return Answer(200, dict(found))

    def _beat(self, found: dict[str, Any]) -> Answer:
        if found["state"] == "ended":
            return problem(409, "lease_not_active", f"lease {found['number']} is over")
        return Answer(200, found)

    def _grow(self, found: dict[str, Any], items: list[dict[str, Any]]) -> Answer:
        with self._changed:
            for item in items:
                ordinal = len(found["resources"]) + 1
                found["resources"] = [*found["resources"], leased(f"r{ordinal}", "preparing", "wipe", 1)]
                found["items"] = [*found["items"], item]
            return Answer(200, dict(found))

    def _shrink(self, found: dict[str, Any], pool: str, name: str) -> Answer:
        with self._changed:
            found["resources"] = [
                {**one, "state": "released"} if (one["pool"], one["name"]) == (pool, name) else one
                for one in found["resources"]
            ]
            return Answer(200, dict(found))

    def _close(self, found: dict[str, Any], verb: str) -> Answer:
        released = verb == "release" and found["state"] == "active"
        if found["state"] != "ended":
            self.end(found["id"], "released" if released else "cancelled")
        return Answer(200, found)


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = parse_qsl(url.query, keep_blank_values=True)
            answer = api.answer(Request(self.command, url.path, query, headers, body))
            if answer.status == 0:
                self.close_connection = True
                return
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
